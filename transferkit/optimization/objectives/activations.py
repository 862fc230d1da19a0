"""Objectives over the activations of a network: classes, channels, neurons, layers, directions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    shorten,
)
from transferkit.optimization.objectives.base import Activations, Evaluate, Objective, Subject
from transferkit.support.numerics import as_array

__all__ = ["Channel", "Class", "Custom", "Direction", "Layer", "Neuron"]

_LOGITS = "logits"
_CLASS_VALUES = ("logit", "probability", "cross_entropy", "distinct")
# The weight of the log probability relative to the logit: enough to separate similar classes.
_LOG_PROBABILITY_WEIGHT = 300.0


@dataclass(frozen=True)
class Class(Objective):
    """A class of the network.

    Parameters
    ----------
    target
        The name of the class, its index among the logits or, for ImageNet classes, its
        WordNet id.
    value
        The quantity to maximize: the ``"logit"``; the ``"probability"``; ``"cross_entropy"``,
        the logarithm of the probability, which is the negative cross-entropy; or
        ``"distinct"``, the logit plus 300 times that logarithm. Maximizing the logit also
        raises the logits of similar classes. The probability and its logarithm favor what
        distinguishes the class from these, but their gradient vanishes as the probability
        approaches 1. ``"distinct"`` combines both.

    Raises
    ------
    UnknownNameError
        If ``value`` is none of these.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, 2013, "Deep Inside Convolutional Networks", section 2.

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Class("zebra") - 0.5 * o.Class("tabby"))
    zebra - 0.5 tabby
    """

    target: Hashable
    value: str = "logit"

    def __post_init__(self) -> None:
        if self.value not in _CLASS_VALUES:
            raise UnknownNameError("class value", self.value, _CLASS_VALUES)

    @property
    def layers(self) -> tuple[str, ...]:
        """The logits."""
        return (_LOGITS,)

    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes it; see `Objective.bind`."""
        index = subject.classes.resolve(self.target)

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            scores = logits = activations[_LOGITS]
            if self.value == "probability":
                scores = table.softmax(logits)
            elif self.value != "logit":
                scores = table.log_softmax(logits)
            if self.value == "distinct":
                weight = table.asarray(_LOG_PROBABILITY_WEIGHT)
                scores = table.add(logits, table.multiply(scores, weight))
            return table.sum(table.slice(scores, axis=1, start=index, stop=index + 1), axes=(1,))

        return evaluate

    def __str__(self) -> str:
        return self.target if isinstance(self.target, str) else f"class {self.target}"


@dataclass(frozen=True)
class Channel(Objective):
    """One channel of a layer, averaged over all positions; for a vector, one of its values.

    Parameters
    ----------
    layer
        The name of the layer.
    channel
        The index of the channel, from 0.

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Channel("features.14", 7))
    features.14, 7
    """

    layer: str
    channel: int

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes it; see `Objective.bind`."""
        shape = subject.shapes[self.layer]
        channel = _check_index("channel", self.layer, self.channel, shape[-1])

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            x = activations[self.layer]
            x = table.slice(x, axis=len(shape), start=channel, stop=channel + 1)
            return table.mean(x, axes=_all_but_first(shape))

        return evaluate

    def __str__(self) -> str:
        return f"{self.layer}, {self.channel}"


@dataclass(frozen=True)
class Neuron(Objective):
    """One channel of a feature map at one position.

    Parameters
    ----------
    layer
        The name of a layer with height and width.
    channel
        The index of the channel, from 0.
    row, column
        The position in the feature map, from 0; None: the center.

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Neuron("features.14", 7))
    features.14, 7, center
    """

    layer: str
    channel: int
    row: int | None = None
    column: int | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes it; see `Objective.bind`."""
        shape = subject.shapes[self.layer]
        if len(shape) != 3:
            raise ShapeError(
                f"layer {self.layer!r} is a vector of {shape[0]} values and has no positions; "
                f"use Channel({self.layer!r}, {self.channel})"
            )
        height, width, channels = shape
        row = height // 2 if self.row is None else self.row
        column = width // 2 if self.column is None else self.column
        indices = (
            _check_index("row", self.layer, row, height),
            _check_index("column", self.layer, column, width),
            _check_index("channel", self.layer, self.channel, channels),
        )

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            x = activations[self.layer]
            for axis, index in enumerate(indices, start=1):
                x = table.slice(x, axis=axis, start=index, stop=index + 1)
            return table.sum(x, axes=(1, 2, 3))

        return evaluate

    def __str__(self) -> str:
        if self.row is None and self.column is None:
            return f"{self.layer}, {self.channel}, center"
        return f"{self.layer}, {self.channel}, at ({self.row}, {self.column})"


@dataclass(frozen=True)
class Layer(Objective):
    """The mean square of a layer's activations: amplifies whatever the layer detects (DeepDream).

    Parameters
    ----------
    layer
        The name of the layer.

    References
    ----------
    Mordvintsev, Olah and Tyka, 2015, "Inceptionism: Going Deeper into Neural Networks".

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Layer("features.10"))
    features.10
    """

    layer: str

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes it; see `Objective.bind`."""
        axes = _all_but_first(subject.shapes[self.layer])

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            x = activations[self.layer]
            return table.mean(table.multiply(x, x), axes=axes)

        return evaluate

    def __str__(self) -> str:
        return self.layer


@dataclass(frozen=True, eq=False)
class Direction(Objective):
    """The projection of a layer's activations onto a vector, averaged over all positions.

    Parameters
    ----------
    layer
        The name of the layer.
    vector
        (c,), a value per channel, not all 0. Its length does not matter.

    Raises
    ------
    ShapeError
        If the vector has another shape.
    ParameterError
        If the vector has a value that is not finite, or all are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Direction("embedding", np.ones(1280)))
    embedding, direction
    """

    layer: str
    vector: npt.ArrayLike
    _unit: npt.NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            vector = as_array(self.vector).astype(np.float64)
        except (TypeError, ValueError):
            raise ArgumentTypeError(
                f"the vector is {shorten(self.vector)}; expected an array of numbers"
            ) from None
        if vector.ndim != 1:
            raise ShapeError(f"the vector has shape {vector.shape}; expected (channels,)")
        norm = np.linalg.norm(vector)
        if not (np.isfinite(norm) and norm > 0):
            raise ParameterError(
                f"the vector has norm {norm}; expected finite values that are not all 0"
            )
        object.__setattr__(self, "_unit", vector / norm)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes it; see `Objective.bind`."""
        shape = subject.shapes[self.layer]
        if len(self._unit) != shape[-1]:
            raise ShapeError(
                f"the vector has {len(self._unit)} values, but layer {self.layer!r} has "
                f"{shape[-1]} channels"
            )

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            projection = table.multiply(activations[self.layer], table.asarray(self._unit))
            projection = table.sum(projection, axes=(len(shape),))
            return table.mean(projection, axes=(1, 2)) if len(shape) == 3 else projection

        return evaluate

    def __str__(self) -> str:
        return f"{self.layer}, direction"


@dataclass(frozen=True)
class Custom(Objective):
    """A user-defined function of activations.

    Parameters
    ----------
    function
        Takes a table and the activations of the layers, layer name to tensor (n, h, w, c) or
        (n, d), and returns a tensor (n,). The value of an image must not depend on the other
        images. A function that uses only the table runs on every backend. The tensors are the
        framework's, so a function for one backend may use the framework instead.
    of
        The names of the layers.

    Raises
    ------
    ArgumentTypeError
        If ``of`` is a string.

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> def spread(table, activations):
    ...     x = activations["features.18"]
    ...     return table.sum(table.absolute(x), axes=(1, 2, 3))
    >>> print(o.Custom(spread, ["features.18"]))
    spread
    """

    function: Evaluate
    of: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.of, str):
            raise ArgumentTypeError(
                f"of is {shorten(self.of)}; expected a list of layer names, such as "
                f"[{shorten(self.of)}]"
            )
        object.__setattr__(self, "of", tuple(self.of))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, as given."""
        return tuple(self.of)

    def bind(self, subject: Subject) -> Evaluate:  # noqa: ARG002
        """Return the function that computes it; see `Objective.bind`."""
        return lambda table, activations: self.function(
            table, {layer: activations[layer] for layer in self.of}
        )

    def __str__(self) -> str:
        return str(getattr(self.function, "__name__", "custom"))


def _all_but_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a batch of arrays of a shape, except the first."""
    return tuple(range(1, len(shape) + 1))


def _check_index(kind: str, layer: str, index: object, length: int) -> int:
    """Return an index into an axis of a layer as an int, after a check of its range."""
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise ArgumentTypeError(
            f"{kind} is {shorten(index)}; expected an integer from 0 to {length - 1}"
        )
    if not 0 <= int(index) < length:
        raise UnknownNameError(kind, int(index), [f"0 to {length - 1}"], of=layer)
    return int(index)
