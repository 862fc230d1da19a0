"""The cache of an estimator: its parts for some layers, found by what determines the features."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.errors import UnsupportedError
from transferkit.features.cache import FeatureCache, as_cache
from transferkit.features.cached_layer import CachedLayer
from transferkit.features.identity import identify, is_frozen
from transferkit.models import Model
from transferkit.networks import Network, keep_needed
from transferkit.store.shards import FORMAT
from transferkit.support.locks import ForkSafeLock

__all__ = ["OpenCache"]

_MAX_PARTS = 8


class _Part(NamedTuple):
    """A network up to one layer, with what else determines the values of that layer."""

    network: Network
    arrays: tuple[npt.NDArray[np.float32], ...]
    settings: tuple[object, ...]


class OpenCache:
    """The parts of a cache that an estimator uses; safe to use from several threads.

    Estimators hold one, so that the list of the images in a cache, and the digest of the weights,
    are not made again for every call. Copies of an estimator have their own.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit import FeatureExtractor
    >>> from transferkit.features.open_cache import OpenCache
    >>> program, model = FeatureExtractor(weights="random", backend="onnxruntime")._load()
    >>> with TemporaryDirectory() as folder:
    ...     layers = OpenCache().layers(folder, program, model, ["embedding", "features.6"])
    >>> list(layers), len(layers["embedding"].key)
    (['embedding', 'features.6'], 64)
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._keys: OrderedDict[str, tuple[_Part, str]] = OrderedDict()
        self._layers: OrderedDict[tuple[FeatureCache, str], CachedLayer] = OrderedDict()

    def layers(
        self,
        cache: object,
        program: Program,
        model: Model,
        layers: Sequence[str],
    ) -> Mapping[str, CachedLayer] | None:
        """Return the part of a cache for each layer; None without a cache.

        Parameters
        ----------
        cache
            The parameter of the estimator.
        program, model
            The network on a backend, and with its weights and preprocessing.
        layers
            Names or aliases of layers.

        Raises
        ------
        ParameterError
            If ``cache`` is of another type.
        UnknownNameError
            If a layer is unknown.
        UnsupportedError
            If the network is a model of a framework, or pyarrow is not installed.
        """
        chosen = as_cache(cache)
        if chosen is None:
            return None
        if model.wrapped is not None:
            raise UnsupportedError(
                f"network {model.network.name!r} is a model of a framework, whose weights may "
                "change at any time, so that its features cannot be cached; omit cache"
            )
        with self._lock:
            return {
                layer: self._open(chosen, self._key(program, model, layer), program, model, layer)
                for layer in layers
            }

    def _open(
        self, cache: FeatureCache, key: str, program: Program, model: Model, layer: str
    ) -> CachedLayer:
        place = (cache, key)
        if place not in self._layers:
            description = {
                "network": model.network.name,
                "layer": layer,
                "backend": program.backend.name,
                "device": program.backend.device,
            }
            self._layers[place] = CachedLayer(cache, key, description)
            if len(self._layers) > _MAX_PARTS:
                self._layers.popitem(last=False)
        self._layers.move_to_end(place)
        return self._layers[place]

    def _key(self, program: Program, model: Model, layer: str) -> str:
        """Return the digest of everything that determines the features of a layer.

        What comes after the layer does not, nor does the name of the network: the embedding of a
        network is that of every classifier that was fitted to it.
        """
        target = model.network.resolve(layer)
        needed = keep_needed(model.network, [target])
        network = Network("", needed.nodes, needed.parameters, {}, 0)
        weights = {name: model.weights[name] for name in network.parameters}
        calibration = model.calibration
        if calibration is not None:
            # A fitted classifier does not have those of the layers that its head replaced.
            calibration = calibration.of_layers(network.layers)
        backend = program.backend
        settings = (backend.name, backend.device, model.preprocessing, calibration)
        part = _Part(network, tuple(weights.values()), settings)
        if target in self._keys and _is_same(part, self._keys[target][0]):
            return self._keys[target][1]
        pruned = dataclasses.replace(
            model, network=network, weights=weights, calibration=calibration
        )
        identity = identify(program, pruned)
        # Other versions of a library may read a pixel or round a sum differently.
        content = {"format": FORMAT, "layer": target, **identity.to_dict()}
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._keys[target] = (part, key)
        if len(self._keys) > _MAX_PARTS:
            self._keys.popitem(last=False)
        return key

    def __reduce__(self) -> tuple[type[OpenCache], tuple[()]]:
        return (OpenCache, ())


def _is_same(new: _Part, old: _Part) -> bool:
    """Return whether two parts have the same features for certain."""
    return (
        new.settings == old.settings
        and len(new.arrays) == len(old.arrays)
        and all(
            one is other and is_frozen(one)
            for one, other in zip(new.arrays, old.arrays, strict=True)
        )
        and new.network == old.network
    )
