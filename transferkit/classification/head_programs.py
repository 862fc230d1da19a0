"""The last layers of a classifier as programs of their own, run on outputs of an earlier layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, Program
from transferkit.models import Model
from transferkit.networks import Network
from transferkit.networks.training import find_cuts, replace_input
from transferkit.support.locks import ForkSafeLock

__all__ = ["HeadPrograms", "find_embedding"]

Floats: TypeAlias = npt.NDArray[np.float32]
_Run: TypeAlias = Callable[[Floats], Mapping[str, Floats]]

_MAX_PROGRAMS = 4


def find_embedding(network: Network) -> str | None:
    """Return the layer of a classifier that its head takes, before it is scaled to length 1.

    Returns
    -------
    str or None
        The name of a node; None if the logits depend on more than the embedding.

    Examples
    --------
    >>> from transferkit.classification.head_programs import find_embedding
    >>> from transferkit.networks import build_network, replace_head
    >>> network = build_network("mobilenet_v2")
    >>> fitted = replace_head(network, 2, embedding_size=1280, name="2 classes")
    >>> find_embedding(network) == find_embedding(fitted) == network.resolve("embedding")
    True
    """
    for first in ("flat_embedding", "unit_embedding"):
        if first in network.layers:
            return network.node(first).inputs[0]
    embedding = network.resolve("embedding")
    return embedding if embedding in find_cuts(network, "logits") else None


class HeadPrograms:
    """Runs the layers after an embedding, without the network before it.

    A classifier holds one. The layers are compiled when they are first needed. It is safe to use
    from several threads.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._compiled: OrderedDict[tuple[str, tuple[str, ...]], tuple[Model, Backend, _Run]] = (
            OrderedDict()
        )

    def run(
        self,
        model: Model,
        backend: Backend,
        embedding: str,
        inputs: Floats,
        layers: Sequence[str],
    ) -> dict[str, Floats]:
        """Return the outputs of layers for outputs of an earlier layer.

        Parameters
        ----------
        model, backend
            The fitted model, and what runs it.
        embedding
            The layer whose outputs are given, as `find_embedding` returns it.
        inputs
            (n, h, w, c) or (n, d) float32: its outputs.
        layers
            Names or aliases of later layers.

        Returns
        -------
        dict of str to array
            Each of ``layers`` to its outputs, (n, d) float32.
        """
        function = self._compile(model, backend, embedding, tuple(layers))
        # As when the whole network runs, so that the numbers are the same.
        size = backend.micro_batch_size or len(inputs)
        parts = [function(inputs[start : start + size]) for start in range(0, len(inputs), size)]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in layers}

    def _compile(
        self, model: Model, backend: Backend, embedding: str, layers: tuple[str, ...]
    ) -> _Run:
        key = (embedding, layers)
        with self._lock:
            known = self._compiled.get(key)
            if known is not None and known[0] is model and known[1] is backend:
                return known[2]
            network = replace_input(model.network, embedding, layers)
            weights = {name: model.weights[name] for name in network.parameters}
            function: _Run = backend.compile(Program(backend, network, weights).load(layers))
            self._compiled[key] = (model, backend, function)
            self._compiled.move_to_end(key)
            if len(self._compiled) > _MAX_PROGRAMS:
                self._compiled.popitem(last=False)
            return function

    def __reduce__(self) -> tuple[type[HeadPrograms], tuple[()]]:
        return (HeadPrograms, ())
