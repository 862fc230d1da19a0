"""A network with its weights, its way of reading a picture, and the names of its classes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, Program, WrappedModel, get_backend
from transferkit.backends.base import INFERENCE
from transferkit.images import Preprocessing
from transferkit.networks import Network
from transferkit.weights import WeightsEntry, find_weights, imagenet_classes, load_weights
from transferkit.weights.files import check_weights

__all__ = ["LazyProgram", "Model", "load_model"]


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
    network: str | Network,
    weights: str | Mapping[str, npt.NDArray[np.float32]] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Model:
    """The model that the parameters of an estimator ask for.

    Parameters
    ----------
    network
        A name in the catalogue, or a network.
    weights
        The name of published weights (None: the network's first), or, for a network of one's
        own, an array for each of its parameters.
    preprocessing
        How pictures are read; None means as the published weights expect, and for a network
        of one's own: the shorter side resized to its input size, and the centre cut out. Mean
        and deviation belong to published weights and need not be said again.

    Raises
    ------
    UnknownNameError
        If there is no such network or no such weights.
    FileFormatError
        If the weights are not those of the network.
    TypeError
        If a network and the weights do not go together.
    ValueError
        If ``preprocessing`` normalises otherwise than the published weights expect.
    """
    if isinstance(network, str):
        if weights is not None and not isinstance(weights, str):
            raise TypeError(
                f"network {network!r} takes the name of published weights, not arrays; to use "
                "arrays give the network itself: transferkit.networks.build_network"
            )
        entry = find_weights(network, weights)
        built, arrays = load_weights(entry)
        labels = tuple(image_class.name for image_class in imagenet_classes())
        return Model(built, arrays, _with_normalization(preprocessing, entry), labels)
    if not isinstance(network, Network):
        raise TypeError(f"network is a {type(network).__name__}; expected a name or a Network")
    if not isinstance(weights, Mapping):
        raise TypeError(f"a network of one's own needs its weights as a mapping, not {weights!r}")
    arrays = {name: _float32(name, array) for name, array in weights.items()}
    check_weights("weights", arrays, network)
    return Model(network, arrays, preprocessing or Preprocessing(network.input_size), None)


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
    normalization = (given.mean, given.std)
    unsaid = Preprocessing()
    if normalization not in ((expected.mean, expected.std), (unsaid.mean, unsaid.std)):
        raise ValueError(
            f"the weights {entry.name!r} of {entry.network} were trained on pixels normalised "
            f"with mean {expected.mean} and std {expected.std}, not {given.mean} and {given.std}"
        )
    return dataclasses.replace(given, mean=expected.mean, std=expected.std)


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
                chosen = get_backend(backend, needs=needs, device=device)
                model = make_model()
                program = Program(chosen, model.network, model.weights, model.wrapped)
                self._made = (key, program, model)
            return self._made[1], self._made[2]

    def __reduce__(self) -> tuple[type[LazyProgram], tuple[()]]:
        return (LazyProgram, ())
