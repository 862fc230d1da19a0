"""A network with its weights, its way of reading a picture, and the names of its classes."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, Program, WrappedModel, backend_of, get_backend
from transferkit.backends.base import INFERENCE
from transferkit.errors import ParameterError, UnknownNameError, UnsupportedError
from transferkit.images import Preprocessing
from transferkit.networks import Network, random_weights
from transferkit.networks.initialization import INITIALIZATIONS
from transferkit.weights import WeightsEntry, find_weights, imagenet_classes, load_weights
from transferkit.weights.files import check_weights
from transferkit.weights.own_file import RANDOM, is_weights_file, load_weights_file

__all__ = ["AnyWeights", "LazyProgram", "Model", "load_model"]

AnyWeights: TypeAlias = str | os.PathLike[str] | Mapping[str, npt.NDArray[np.float32]] | None
"""What may be given as weights: a name, a file, arrays, or nothing."""


@dataclass(frozen=True, slots=True)
class Model:
    """All that is needed to go from pictures to a network's outputs, on any backend.

    Attributes
    ----------
    network
        What is computed.
    weights
        With which numbers.
    preprocessing
        From pictures read how.
    labels
        What each of its logits stands for; None where that is not known.
    wrapped
        What computes the nodes of the network that are a framework's own model, if any.
    """

    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    wrapped: WrappedModel | None = None


def load_model(
    network: str | Network | object,
    weights: AnyWeights = None,
    preprocessing: Preprocessing | None = None,
    backend: str | Backend | None = None,
    device: str | None = None,
    *,
    initialization: str = "he",
    seed: int | np.random.Generator | None = None,
    progress: bool | None = None,
) -> Model:
    """The model that the parameters of an estimator ask for.

    Parameters
    ----------
    network
        A name in the catalogue, a network, or an object of a framework: a
        ``torch.nn.Module`` or a ``keras.Model``.
    weights
        For a network of the catalogue: the name of published weights (None: the network's
        first), the path of a file, or ``"random"``. For a network of one's own: an array for
        each of its parameters, or ``"random"``.
    preprocessing
        How pictures are read; None means as the published weights expect, and for a network
        of one's own: the shorter side resized to its input size, and the centre cut out. Mean
        and deviation belong to published weights and need not be said again. A
        ``torch.nn.Module`` needs it; a ``keras.Model`` says of itself how large pictures are.
    backend, device
        What runs an object of a framework; None: the backend that it belongs to.
    initialization, seed
        Of random weights, as for `transferkit.networks.random_weights`.
    progress
        Of a download; None shows it on a terminal only.

    Raises
    ------
    UnknownNameError
        If there is no such network or no such weights.
    FileFormatError
        If the weights are not those of the network.
    DownloadError
        If they have to be downloaded, and cannot be.
    TypeError
        If a network and the weights do not go together.
    UnsupportedError
        If an object of a framework cannot be run, or not by this backend.
    ParameterError
        If ``preprocessing`` normalises otherwise than the published weights expect.
    """
    if initialization not in INITIALIZATIONS:
        raise UnknownNameError("initialization", initialization, INITIALIZATIONS)
    if isinstance(network, str):
        return _load_catalogued(network, weights, preprocessing, initialization, seed, progress)
    if not isinstance(network, Network):
        return _wrap(network, weights, preprocessing, backend, device)
    if isinstance(weights, str) and weights == RANDOM:
        weights = random_weights(network, seed, initialization)
    if not isinstance(weights, Mapping):
        raise TypeError(
            "a network of one's own needs its weights as a mapping from parameter name to array, "
            f"or {RANDOM!r}, not {weights!r}"
        )
    arrays = {name: _float32(name, array) for name, array in weights.items()}
    check_weights("weights", arrays, network)
    return Model(network, arrays, preprocessing or Preprocessing(network.input_size), None)


def _load_catalogued(
    network: str,
    weights: AnyWeights,
    preprocessing: Preprocessing | None,
    initialization: str,
    seed: int | np.random.Generator | None,
    progress: bool | None,
) -> Model:
    labels = tuple(image_class.name for image_class in imagenet_classes())
    if isinstance(weights, Mapping):
        raise TypeError(
            f"network {network!r} takes the name of published weights or a file, not arrays; to "
            "use arrays give the network itself: transferkit.networks.build_network"
        )
    if weights is not None and is_weights_file(weights):
        built, arrays, entry, is_published = load_weights_file(network, weights)
        expected = _with_normalization(preprocessing, entry)
        return Model(built, arrays, expected, labels if is_published else None)
    if weights == RANDOM:
        entry = find_weights(network)
        built = entry.build()
        expected = _with_normalization(preprocessing, entry)
        return Model(built, random_weights(built, seed, initialization), expected, None)
    entry = find_weights(network, None if weights is None else str(weights))
    built, arrays = load_weights(entry, progress=progress)
    return Model(built, arrays, _with_normalization(preprocessing, entry), labels)


def _wrap(
    model: object,
    weights: object,
    preprocessing: Preprocessing | None,
    backend: str | Backend | None,
    device: str | None,
) -> Model:
    """A framework's own object, run by the backend that it belongs to."""
    try:
        owner = backend_of(model)
    except TypeError:
        raise TypeError(
            f"network is a {type(model).__name__}; expected a name, a Network, a torch.nn.Module "
            "or a keras.Model"
        ) from None
    if weights is not None:
        raise TypeError(f"a {type(model).__name__} has its own weights; leave out weights")
    chosen = get_backend(owner if backend is None else backend, device=device)
    if chosen.name != owner:
        raise UnsupportedError(
            f"a {type(model).__name__} can be run by backend {owner!r} only, not by "
            f"{chosen.name!r}; leave out backend"
        )
    if preprocessing is None:
        wrapped = chosen.wrap(model)
    else:
        wrapped = chosen.wrap(
            model,
            input_size=preprocessing.size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            channel_order=preprocessing.channel_order,
        )
    expected: Any = wrapped.network.node("normalize").attributes
    given = preprocessing or Preprocessing(wrapped.network.input_size)
    given = dataclasses.replace(given, mean=expected["mean"], std=expected["std"])
    return Model(wrapped.network, {}, given, None, wrapped)


def _float32(name: str, array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """An array of one's own weights, in the type that all weights have."""
    found = np.asarray(array)
    if found.dtype.kind not in "fiu":
        raise TypeError(f"weights[{name!r}] is of type {found.dtype}; expected float32")
    return found.astype(np.float32, copy=False)


def _with_normalization(given: Preprocessing | None, entry: WeightsEntry) -> Preprocessing:
    """The given way of reading pictures, normalised as the weights expect."""
    expected = entry.preprocessing
    if given is None:
        return expected
    unsaid = Preprocessing()
    if _normalization(given) not in (_normalization(expected), _normalization(unsaid)):
        raise ParameterError(
            f"the weights {entry.name!r} of {entry.network} were trained on pixels normalised "
            f"with mean {expected.mean} and std {expected.std} in the order "
            f"{expected.channel_order}, not {given.mean} and {given.std} in {given.channel_order}"
        )
    return dataclasses.replace(
        given, mean=expected.mean, std=expected.std, channel_order=expected.channel_order
    )


def _normalization(preprocessing: Preprocessing) -> tuple[object, ...]:
    """What a network does with pixels before its first layer."""
    return preprocessing.mean, preprocessing.std, preprocessing.channel_order


class LazyProgram:
    """A program that is made when it is first needed, and again when its parameters change.

    Estimators hold one, so that they can be created, cloned, pickled and sent to another
    process before any framework is imported; from several threads it is made once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[tuple[object, ...], Program, Model] | None = None

    def get(
        self,
        parameters: tuple[object, ...],
        make_model: Callable[[], Model],
        backend: str | Backend | None,
        device: str | None,
        *,
        needs: str = INFERENCE,
    ) -> tuple[Program, Model]:
        """The program and its model.

        Parameters
        ----------
        parameters
            What the program is made from; while these are the same objects it is kept.
        make_model
            Called if it has to be made.
        backend, device, needs
            As for `transferkit.backends.get_backend`.
        """
        key = (*parameters, backend, device)
        with self._lock:
            if (
                self._made is None
                or len(key) != len(self._made[0])
                or any(new is not old for new, old in zip(key, self._made[0], strict=True))
            ):
                # Before the model, which may have to be downloaded.
                chosen = get_backend(backend, needs=needs, device=device)
                model = make_model()
                if model.wrapped is not None:
                    chosen = get_backend(model.wrapped.backend, needs=needs)
                program = Program(chosen, model.network, model.weights, model.wrapped)
                self._made = (key, program, model)
            return self._made[1], self._made[2]

    def __reduce__(self) -> tuple[type[LazyProgram], tuple[()]]:
        return (LazyProgram, ())
