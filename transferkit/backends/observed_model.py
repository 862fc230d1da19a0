"""The base class of wrapped models whose layers are observed while they run."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Backend, WrappedModel
from transferkit.backends.wrapping import (
    OUTPUT,
    TWO_LOGITS,
    VECTOR,
    ShapeCache,
    TensorLocation,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError

__all__ = [
    "TRACE_BATCH_SIZE",
    "Meanings",
    "ObservedModel",
    "OutputSource",
    "are_probabilities",
    "first_argument",
    "locate_meanings",
    "select_outputs",
]

TRACE_BATCH_SIZE = 2
"""The batch size of the run that finds the layers: 1 could not be told from an axis of length 1."""

_PROBABILITY_TOLERANCE = 5e-3


class ObservedModel(WrappedModel):
    """A wrapped model whose tensors are collected by observing its layers while it runs.

    The constructor of a subclass finds the layers, and sets `network` and ``_locations``.

    Parameters
    ----------
    backend
        The backend that wraps the model.
    model
        The framework's object.
    name
        The name of the network and of the model in error messages.
    """

    model: Any

    def __init__(self, backend: Backend, model: Any, name: str) -> None:
        self.backend = backend
        self.model = model
        self._name = name
        self._shapes = ShapeCache()
        self._locations: dict[str, TensorLocation] = {}

    @abstractmethod
    def _run(self, x: Any, locations: Collection[TensorLocation]) -> Mapping[TensorLocation, Any]:
        """Return the tensors at ``locations`` for the input ``x`` (n, h, w, 3).

        Tensors have the dtype and the order of axes of the backend's table. Those that the model
        did not compute are left out.
        """

    @abstractmethod
    def _compute_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of each layer's output for one image, by running the model."""

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        locations = {layer: self._locations[layer] for layer in layers}

        def function(x: Any) -> dict[str, Any]:
            tensors = self._run(x, {_observed(location) for location in locations.values()})
            missing = [
                layer for layer, location in locations.items() if _observed(location) not in tensors
            ]
            if missing:
                raise UnsupportedError(
                    f"model {self._name!r} did not compute layers {', '.join(missing)} for an "
                    f"input of shape {tuple(x.shape)}; it called other layers when it was wrapped"
                )
            return {
                layer: self._in_form(location.form, tensors[_observed(location)])
                for layer, location in locations.items()
            }

        return function

    def _in_form(self, form: str, tensor: Any) -> Any:
        """Return a tensor in the form of its location."""
        if not form:
            return tensor
        table = self.backend.table
        vectors = table.flatten(tensor)
        if form == VECTOR:
            return vectors
        return table.concat(table.subtract(vectors, vectors), vectors, axis=1)

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        def compute() -> Mapping[str, tuple[int, ...]]:
            try:
                return self._compute_shapes(height, width)
            except Exception as error:
                raise self._size_error(height, width, error) from error

        return self._shapes.get((height, width), compute)

    def _size_error(self, height: int, width: int, error: Exception) -> ShapeError:
        return ShapeError(
            f"model {self._name!r} fails on images of {height} x {width}: "
            f"{type(error).__name__}: {error}"
        )


def _observed(location: TensorLocation) -> TensorLocation:
    """Return the location without its form, as `ObservedModel._run` takes it."""
    return location._replace(form="")


@dataclass(frozen=True)
class OutputSource:
    """How an output that is one vector per image is computed.

    Attributes
    ----------
    shape
        The shape of the output for a batch.
    embeddings
        The location of the input of each linear layer that computes it, and a key that is the
        same for the same tensor.
    is_linear
        Whether only linear layers, and scaling, lie between some other tensor and the output or
        its last activation; the layers need not be known.
    logits
        The location of the input of its last activation, a softmax or sigmoid; None without.
    is_probability
        Whether it consists of probabilities whose logits cannot be located.
    """

    shape: tuple[int, ...]
    embeddings: Mapping[TensorLocation, Hashable] = field(default_factory=dict)
    is_linear: bool = False
    logits: TensorLocation | None = None
    is_probability: bool = False

    @property
    def size(self) -> int:
        """The number of values for each image."""
        return math.prod(self.shape[1:])


class Meanings(NamedTuple):
    """The locations of the two layers that have the same meaning in every model.

    Attributes
    ----------
    embedding, logits
        Their locations; None if they cannot be determined.
    hints
        The reason and the remedy for each that cannot be, by name.
    """

    embedding: TensorLocation | None
    logits: TensorLocation | None
    hints: Mapping[str, str]


def locate_meanings(sources: Mapping[str, OutputSource | None]) -> Meanings:
    """Return the locations of ``embedding`` and ``logits``.

    Logits are the only output, or the output named ``logits``, before a softmax or sigmoid; for
    one value per image, they are those of two classes. The embedding is the output with that
    name, or the input of the linear layers that compute the logits, or of all linear layers that
    compute an output. An output that no linear layer computes is itself the embedding.

    Parameters
    ----------
    sources
        The name of each output, from `named_outputs`, to its source; None for outputs that are
        not one vector per image.
    """
    name = next(iter(sources)) if len(sources) == 1 else "logits"
    source = sources.get(name)
    hints = {}
    logits = None
    if source is None:
        kind = "is a feature map" if len(sources) == 1 else f"is not one of {', '.join(sources)}"
        hints["logits"] = (
            f"the output of the model {kind}; logits are its only output or an entry 'logits' of "
            "a dict, with one vector for each image"
        )
    elif source.is_probability:
        hints["logits"] = (
            "the model returns probabilities, and the logits before them cannot be located; let "
            "the model return the logits, or a dict with an entry 'logits'"
        )
    else:
        is_matrix = source.logits is None and len(source.shape) == 2
        form = TWO_LOGITS if source.size == 1 else "" if is_matrix else VECTOR
        logits = (source.logits or TensorLocation(OUTPUT, name))._replace(form=form)
    embedding, reason = _locate_embedding(sources, name)
    if embedding is None:
        hints["embedding"] = f"{reason}; choose a layer with the parameter layer"
    return Meanings(embedding, logits, hints)


def _locate_embedding(
    sources: Mapping[str, OutputSource | None], logits: str
) -> tuple[TensorLocation | None, str]:
    """Return the location of the embedding, and the reason if it has none."""
    known = {name: source for name, source in sources.items() if source is not None}
    if "embedding" in known:
        return _output_vector("embedding", known["embedding"]), ""
    if logits in known:
        known = {logits: known[logits]}
    if not known:
        return None, "the model returns no vector for each image"
    heads = [source for source in known.values() if source.is_linear]
    inputs = {key: location for head in heads for location, key in head.embeddings.items()}
    name, source = next(iter(known.items()))
    reason = ""
    if len(inputs) > 1:
        reason = "several linear layers with different inputs compute the output"
    elif heads and not all(head.embeddings for head in heads):
        reason = "the input of the linear layer that computes the output cannot be located"
    elif not heads and len(known) > 1:
        reason = f"the outputs {', '.join(known)} could each be the embedding"
    elif not heads and source.is_probability:
        reason = "the layer that computes the probabilities cannot be located"
    if reason:
        return None, reason
    return (next(iter(inputs.values())) if heads else _output_vector(name, source)), ""


def _output_vector(name: str, source: OutputSource) -> TensorLocation:
    return TensorLocation(OUTPUT, name, form="" if len(source.shape) == 2 else VECTOR)


def are_probabilities(values: npt.NDArray[np.floating[Any]]) -> bool:
    """Return whether each row of ``values`` (n, c) is a distribution over two or more classes."""
    if values.ndim != 2 or values.shape[1] < 2:
        return False
    # The tolerance is for the sum of a thousand numbers in half precision.
    sums = values.sum(axis=1, dtype=np.float64)
    return bool(values.min() >= 0 and np.abs(sums - 1).max() <= _PROBABILITY_TOLERANCE)


def select_outputs(
    output: object, locations: Collection[TensorLocation], is_tensor: Callable[[Any], bool]
) -> dict[TensorLocation, Any]:
    """Return the outputs of a model that are among ``locations``.

    Parameters
    ----------
    output
        What the model returned.
    locations
        Locations of any kind.
    is_tensor
        Returns whether an object is a tensor of the framework.
    """
    names = {location.name for location in locations if location.kind == OUTPUT}
    tensors = named_outputs(output, is_tensor) if names else {}
    return {TensorLocation(OUTPUT, name): tensors[name] for name in names & tensors.keys()}


def first_argument(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Return the first argument of a call of a layer, positional or not; None without any."""
    return arguments[0] if arguments else next(iter(keywords.values()), None)
