"""How the outputs of a wrapped model are computed: its embedding, its logits, its linear layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.backends.wrapping import OUTPUT, TWO_LOGITS, VECTOR, TensorLocation

__all__ = [
    "LinearCall",
    "Meanings",
    "OutputSource",
    "Step",
    "are_probabilities",
    "find_linear_calls",
    "locate_meanings",
]

# The tolerance is for the sum of a thousand numbers in half precision.
_PROBABILITY_TOLERANCE = 5e-3


class LinearCall(NamedTuple):
    """A call of a linear layer.

    Attributes
    ----------
    embedding
        The location of its input.
    key
        The same for the same input.
    length
        The length of its output.
    """

    embedding: TensorLocation
    key: Hashable
    length: int


class Step(Enum):
    """What an operation of a graph is, on the way from an output back to the linear layers."""

    CONSTANT = "a parameter, or what is computed from parameters alone"
    FEATURE_MAP = "an operation whose result is not one vector per image"
    LINEAR = "a linear operation that is no call of a known layer"
    SCALING = "an operation that may lie between a linear layer and logits"
    OTHER = "any other operation on vectors"


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
    sums = values.sum(axis=1, dtype=np.float64)
    return bool(values.min() >= 0 and np.abs(sums - 1).max() <= _PROBABILITY_TOLERANCE)


def find_linear_calls(
    start: Iterable[Any],
    classify: Callable[[Any], LinearCall | Step],
    inputs: Callable[[Any], Iterable[Any]],
    *,
    through_all: bool,
) -> tuple[list[LinearCall], bool]:
    """Return the linear layers that end a computation, and whether it ends in linear ones alone.

    Parameters
    ----------
    start
        The last operation of the computation, if it is known.
    classify
        Returns what an operation is.
    inputs
        Returns the operations whose results an operation takes.
    through_all
        Whether any operations on vectors may follow the linear layers.
    """
    found: list[LinearCall] = []
    is_linear = False
    is_other = False
    visited: set[Any] = set()
    stack = list(start)
    while stack:
        operation = stack.pop()
        if operation in visited:
            continue
        visited.add(operation)
        step = classify(operation)
        if isinstance(step, LinearCall):
            found.append(step)
        elif step is Step.LINEAR:
            is_linear = True
        elif step is Step.SCALING or (step is Step.OTHER and through_all):
            stack.extend(inputs(operation))
        elif step is not Step.CONSTANT:
            is_other = True
    return found, (is_linear or bool(found)) and (through_all or not is_other)
