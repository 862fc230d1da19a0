"""What pictures are optimised for, and what holds them back.

An objective is a number for each picture, made of a network's activations, that is to become
large. Objectives are added, subtracted and multiplied by numbers::

    from transferkit.optimization import objectives as o

    o.Class("zebra") - 0.5 * o.Class("tabby") + 0.1 * o.Layer("features.4")

A regulariser is a number for each picture, made of its pixels, that is to stay small.

Most of these objectives are from Olah, Mordvintsev and Schubert, 2017, "Feature Visualization",
https://doi.org/10.23915/distill.00007.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ParameterError, ShapeError, UnknownNameError
from transferkit.models.class_names import ClassNames
from transferkit.networks import keep_needed

if TYPE_CHECKING:
    from transferkit.backends import Program

__all__ = [
    "L2",
    "Channel",
    "Class",
    "Custom",
    "Direction",
    "DistanceToStart",
    "Layer",
    "Neuron",
    "Objective",
    "Regularizer",
    "Subject",
    "TotalVariation",
]

Activations: TypeAlias = Mapping[str, Any]
"""Layer to tensor, (n, h, w, c) or (n, d)."""

Evaluate: TypeAlias = Callable[[Table[Any], Activations], Any]
"""From a table and the activations over it to a tensor (n,): the objective of each picture."""

_LOGITS = "logits"
_CLASS_VALUES = ("logit", "probability", "cross_entropy", "distinct")
# Of cross-entropy beside the logit: as much as keeps classes apart that look alike.
_DISTINCTNESS = 300.0
# Keeps the derivative of a root finite where neighbours are equal.
_SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True, slots=True)
class Subject:
    """What an objective needs to know of the network that it is for.

    Attributes
    ----------
    shapes
        Layer to the shape of its output for one picture, (h, w, c) or (d,).
    classes
        What the logits stand for.
    """

    shapes: Mapping[str, tuple[int, ...]]
    classes: ClassNames

    @classmethod
    def of(
        cls, program: Program, layers: Sequence[str], classes: ClassNames, height: int, width: int
    ) -> Subject:
        """The part of a program that computes ``layers``, for pictures of a size.

        Raises
        ------
        UnknownNameError
            If there is no such layer.
        ShapeError
            If the network cannot take pictures of that size.
        """
        targets = {layer: program.network.resolve(layer) for layer in layers}
        # Layers beyond those that are asked for may not fit the size, and need not.
        needed = keep_needed(program.network, tuple(targets.values()))
        shapes = infer_shapes(needed, height, width, program.wrapped)
        return cls({layer: shapes[target] for layer, target in targets.items()}, classes)


class Objective(ABC):
    """A number for each picture that is to become large.

    Attributes
    ----------
    target
        The class that is to be seen in the picture, as it was given; None if it is not for
        a class.
    """

    target: Hashable | None = None

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """The layers whose activations it is made of."""

    @abstractmethod
    def bind(self, subject: Subject) -> Evaluate:
        """The function that computes it for a network.

        Parameters
        ----------
        subject
            Has the shapes of at least `layers`.

        Returns
        -------
        callable
            Takes a table and the activations of `layers` over it, layer to tensor
            (n, h, w, c) or (n, d), and gives a tensor (n,).

        Raises
        ------
        UnknownNameError
            If the network lacks what it is for: a class, a channel, a position.
        """

    def __add__(self, other: object) -> Objective:
        if isinstance(other, Objective):
            return _Sum(self, other)
        # What `sum` begins with.
        return self if _is_number(other) and other == 0 else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Objective:
        return _Sum(self, -other) if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: object) -> Objective:
        return _scaled(self, factor) if _is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Objective:
        return _scaled(self, 1 / divisor) if _is_number(divisor) else NotImplemented

    def __neg__(self) -> Objective:
        return _scaled(self, -1.0)


class _Sum(Objective):
    """Two objectives added."""

    def __init__(self, first: Objective, second: Objective) -> None:
        self.first = first
        self.second = second
        self.target = first.target if first.target is not None else second.target

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.first.layers, *self.second.layers)

    def bind(self, subject: Subject) -> Evaluate:
        first, second = (bind_checked(part, subject) for part in (self.first, self.second))
        return lambda table, activations: table.add(
            first(table, activations), second(table, activations)
        )

    def __str__(self) -> str:
        second = str(self.second)
        return f"{self.first} - {second[1:]}" if second[0] == "-" else f"{self.first} + {second}"


class _Scaled(Objective):
    """An objective multiplied by a number."""

    def __init__(self, objective: Objective, factor: float) -> None:
        self.objective = objective
        self.factor = factor
        self.target = objective.target if factor > 0 else None

    @property
    def layers(self) -> tuple[str, ...]:
        return self.objective.layers

    def bind(self, subject: Subject) -> Evaluate:
        evaluate = bind_checked(self.objective, subject)
        return lambda table, activations: table.multiply(
            evaluate(table, activations), table.asarray(self.factor)
        )

    def __str__(self) -> str:
        inner = f"({self.objective})" if isinstance(self.objective, _Sum) else f"{self.objective}"
        return f"-{inner}" if self.factor == -1 else f"{self.factor:g} {inner}"


def _scaled(objective: Objective, factor: float) -> Objective:
    """An objective multiplied by a number; factors one after the other become one."""
    if isinstance(objective, _Scaled):
        factor *= objective.factor
        objective = objective.objective
    if not math.isfinite(factor):
        raise ParameterError(f"an objective is multiplied by {factor}; expected a finite number")
    return objective if factor == 1 else _Scaled(objective, float(factor))


def bind_checked(objective: Objective, subject: Subject) -> Evaluate:
    """The function that computes an objective, which checks that it gives what it is to give.

    Raises
    ------
    UnknownNameError
        If the network lacks what it is for.
    ParameterError
        If it is made of no layer.
    """
    if not objective.layers:
        raise ParameterError(f"objective {objective} is made of no layer; name at least one")
    evaluate = objective.bind(subject)

    def evaluate_checked(table: Table[Any], activations: Activations) -> Any:
        values = evaluate(table, activations)
        number = activations[objective.layers[0]].shape[0]
        return one_for_each(values, number, f"objective {objective}")

    return evaluate_checked


def one_for_each(values: Any, number: int | None, what: str) -> Any:
    """Values, seen to be one for each picture: what is of another shape would be repeated.

    Parameters
    ----------
    values
        A tensor, if all is well.
    number
        How many pictures there are; None where a function is traced for any number, where
        what gives a number of its own does not go by the pictures.
    what
        What gave the values, for the message.

    Raises
    ------
    ShapeError
        If they are not of shape (n,).
    """
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) == 1 and shape[0] in (None, number):
        return values
    given = "nothing with a shape" if shape is None else f"shape {tuple(shape)}"
    raise ShapeError(
        f"{what} gives {given}; expected ({'n' if number is None else number},), one number for "
        "each picture: take a mean or sum over all axes but the first"
    )


@dataclass(frozen=True)
class Class(Objective):
    """A class of the network.

    Parameters
    ----------
    target
        Its name, its index among the logits or, of ImageNet's classes, its WordNet id.
    value
        What is to become large: its ``"logit"``; its ``"probability"``; ``"cross_entropy"``,
        the logarithm of its probability, which is cross-entropy with the sign turned; or
        ``"distinct"``, the logit and 300 times that logarithm. Logits make it stand out by
        itself, and with it classes that look alike; probabilities look at what sets it apart
        from those, and have hardly a derivative once they are 1; the last does both.

    Raises
    ------
    ParameterError
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
        """As for every `Objective`."""
        index = subject.classes.resolve(self.target)

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            scores = logits = activations[_LOGITS]
            if self.value == "probability":
                scores = table.softmax(logits)
            elif self.value != "logit":
                scores = table.log_softmax(logits)
            if self.value == "distinct":
                scores = table.add(logits, table.multiply(scores, table.asarray(_DISTINCTNESS)))
            return table.sum(table.slice(scores, axis=1, start=index, stop=index + 1), axes=(1,))

        return evaluate

    def __str__(self) -> str:
        return self.target if isinstance(self.target, str) else f"class {self.target}"


@dataclass(frozen=True)
class Channel(Objective):
    """The mean over all positions of one channel of a layer; of a vector, one number.

    Parameters
    ----------
    layer
        The layer's name.
    channel
        Which channel, from 0.

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
        """As for every `Objective`."""
        shape = subject.shapes[self.layer]
        channel = _check_index("channel", self.layer, self.channel, shape[-1])

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            chosen = table.slice(
                activations[self.layer], axis=len(shape), start=channel, stop=channel + 1
            )
            return table.mean(chosen, axes=_all_but_first(shape))

        return evaluate

    def __str__(self) -> str:
        return f"{self.layer}, {self.channel}"


@dataclass(frozen=True)
class Neuron(Objective):
    """One number of a feature map: a channel at a position.

    Parameters
    ----------
    layer
        The name of a layer with height and width.
    channel
        Which channel, from 0.
    row, column
        Where, in pixels of the feature map; None means the middle.

    Examples
    --------
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Neuron("features.14", 7))
    features.14, 7, in the middle
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
        """As for every `Objective`."""
        shape = subject.shapes[self.layer]
        if len(shape) != 3:
            raise ShapeError(
                f"layer {self.layer!r} is a vector of {shape[0]} and has no positions; "
                f"Channel({self.layer!r}, {self.channel}) is one number of it"
            )
        places = (
            _check_index(
                "row", self.layer, shape[0] // 2 if self.row is None else self.row, shape[0]
            ),
            _check_index(
                "column",
                self.layer,
                shape[1] // 2 if self.column is None else self.column,
                shape[1],
            ),
            _check_index("channel", self.layer, self.channel, shape[2]),
        )

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            chosen = activations[self.layer]
            for axis, place in enumerate(places, start=1):
                chosen = table.slice(chosen, axis=axis, start=place, stop=place + 1)
            return table.sum(chosen, axes=(1, 2, 3))

        return evaluate

    def __str__(self) -> str:
        if self.row is None and self.column is None:
            return f"{self.layer}, {self.channel}, in the middle"
        return f"{self.layer}, {self.channel}, at ({self.row}, {self.column})"


@dataclass(frozen=True)
class Layer(Objective):
    """The mean of the squares of a layer's activations: more of whatever it sees, DeepDream.

    Parameters
    ----------
    layer
        The layer's name.

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
        """As for every `Objective`."""
        axes = _all_but_first(subject.shapes[self.layer])

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            x = activations[self.layer]
            return table.mean(table.multiply(x, x), axes=axes)

        return evaluate

    def __str__(self) -> str:
        return self.layer


@dataclass(frozen=True, eq=False)
class Direction(Objective):
    """How far a layer's activations go along a vector, in the mean over all positions.

    Parameters
    ----------
    layer
        The layer's name.
    vector
        (c,) a number for each channel, not all 0; only its direction matters.

    Raises
    ------
    ShapeError
        If it has another shape.
    ParameterError
        If it has a value that is not finite, or all are 0.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization import objectives as o
    >>> print(o.Direction("embedding", np.ones(1280)))
    embedding, a direction
    """

    layer: str
    vector: npt.ArrayLike
    _unit: npt.NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vector = np.array(self.vector, np.float64)
        if vector.ndim != 1:
            raise ShapeError(f"the vector has shape {vector.shape}; expected (channels,)")
        length = np.linalg.norm(vector)
        if not (np.isfinite(length) and length > 0):
            raise ParameterError("the vector of a direction must be finite, and not all 0")
        object.__setattr__(self, "_unit", vector / length)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def bind(self, subject: Subject) -> Evaluate:
        """As for every `Objective`."""
        shape = subject.shapes[self.layer]
        if len(self._unit) != shape[-1]:
            raise ShapeError(
                f"the vector has {len(self._unit)} numbers, but {self.layer!r} has {shape[-1]} "
                "channels"
            )

        def evaluate(table: Table[Any], activations: Activations) -> Any:
            along = table.multiply(activations[self.layer], table.asarray(self._unit))
            along = table.sum(along, axes=(len(shape),))
            return table.mean(along, axes=(1, 2)) if len(shape) == 3 else along

        return evaluate

    def __str__(self) -> str:
        return f"{self.layer}, a direction"


@dataclass(frozen=True)
class Custom(Objective):
    """Any function of activations.

    Parameters
    ----------
    function
        Takes a table and a mapping from each of ``layers`` to its activations, a tensor
        (n, h, w, c) or (n, d), and gives a tensor (n,), one number for each picture, which
        must not depend on the others. Written over the table it runs on every backend; the
        tensors are the framework's own, so that on one backend it may also use the framework.
    of
        The names of the layers.

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
            raise TypeError(f"layers are given as a list of names: [{self.of!r}]")
        object.__setattr__(self, "of", tuple(self.of))

    @property
    def layers(self) -> tuple[str, ...]:
        """As they were given."""
        return tuple(self.of)

    def bind(self, subject: Subject) -> Evaluate:  # noqa: ARG002 - it may use any of it
        """As for every `Objective`."""
        return lambda table, activations: self.function(
            table, {layer: activations[layer] for layer in self.of}
        )

    def __str__(self) -> str:
        return str(getattr(self.function, "__name__", "custom"))


class Regularizer(ABC):
    """A number for each picture that is to stay small: it is added to what is minimised."""

    @abstractmethod
    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:
        """The number for each picture.

        Parameters
        ----------
        table
            What computes.
        images
            (n, h, w, 3) pixels in [0, 1].
        start
            The pictures that the run started from, of the same shape.

        Returns
        -------
        tensor
            (n,).
        """


@dataclass(frozen=True)
class TotalVariation(Regularizer):
    """How much neighbouring pixels differ, summed over pixels and channels.

    With dy and dx the differences to the pixel below and to the right: anisotropic,
    ``sum(|dy| ** power) + sum(|dx| ** power)``; isotropic,
    ``sum((dy ** 2 + dx ** 2) ** (power / 2))``. Beyond the last row and column there is no
    difference.

    Parameters
    ----------
    weight
        What it is multiplied by, at least 0.
    power
        Greater than 0. 1 keeps edges; 2 blurs.
    isotropic
        Whether edges in all directions count alike.

    Raises
    ------
    ParameterError
        If a value is not one of these.

    References
    ----------
    Mahendran and Vedaldi, 2015, "Understanding Deep Image Representations by Inverting Them",
    section 2; anisotropic with power 1 as in Rudin, Osher and Fatemi, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization import objectives as o
    >>> from transferkit.testing import ReferenceTable
    >>> stripes = np.tile([[[0.0] * 3, [1.0] * 3]], (1, 2, 1, 1))
    >>> o.TotalVariation(weight=1.0).evaluate(ReferenceTable(), stripes, stripes)
    array([6.])
    """

    weight: float = 2e-3
    power: float = 1.0
    isotropic: bool = False

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if not (_is_number(self.power) and math.isfinite(self.power) and self.power > 0):
            raise ParameterError(f"power is {self.power!r}; it must be a number greater than 0")

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:  # noqa: ARG002
        """As for every `Regularizer`."""
        dy, dx = (_difference(table, images, axis) for axis in (1, 2))
        if self.isotropic:
            dy = table.pad(dy, padding=((0, 1), (0, 0)))
            dx = table.pad(dx, padding=((0, 0), (0, 1)))
            squares = table.add(table.multiply(dy, dy), table.multiply(dx, dx))
            total = _summed(table, self._power_of_root(table, squares))
        elif self.power == 1:
            total = table.add(
                _summed(table, table.absolute(dy)), _summed(table, table.absolute(dx))
            )
        else:
            powers = (self._power_of_root(table, table.multiply(d, d)) for d in (dy, dx))
            total = table.add(*(_summed(table, values) for values in powers))
        return table.multiply(total, table.asarray(self.weight))

    def _power_of_root(self, table: Table[Any], squares: Any) -> Any:
        if self.power == 2:
            return squares
        shifted = table.add(squares, table.asarray(_SMALLEST_SQUARE))
        exponent = self.power / 2
        powers = (
            table.sqrt(shifted)
            if self.power == 1
            else table.exp(table.multiply(table.log(shifted), table.asarray(exponent)))
        )
        return table.subtract(powers, table.asarray(_SMALLEST_SQUARE**exponent))


@dataclass(frozen=True)
class L2(Regularizer):
    """How far pixels are from grey: the sum of ``(pixel - 0.5) ** 2``.

    Parameters
    ----------
    weight
        What it is multiplied by, at least 0.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, 2013, "Deep Inside Convolutional Networks", section 2.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:  # noqa: ARG002
        """As for every `Regularizer`."""
        return _weighted_squares(table, images, table.asarray(0.5), self.weight)


@dataclass(frozen=True)
class DistanceToStart(Regularizer):
    """How far pixels are from where they started: the sum of ``(pixel - start) ** 2``.

    Parameters
    ----------
    weight
        What it is multiplied by, at least 0.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:
        """As for every `Regularizer`."""
        return _weighted_squares(table, images, start, self.weight)


def _weighted_squares(table: Table[Any], images: Any, centre: Any, weight: float) -> Any:
    difference = table.subtract(images, centre)
    squares = _summed(table, table.multiply(difference, difference))
    return table.multiply(squares, table.asarray(weight))


def _difference(table: Table[Any], images: Any, axis: int) -> Any:
    """From each pixel to the next along an axis."""
    later = table.slice(images, axis=axis, start=1, stop=None)
    return table.subtract(later, table.slice(images, axis=axis, start=0, stop=-1))


def _summed(table: Table[Any], values: Any) -> Any:
    return table.sum(values, axes=(1, 2, 3))


def _all_but_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a batch of that shape, without the first."""
    return tuple(range(1, len(shape) + 1))


def _check_index(kind: str, layer: str, index: object, number: int) -> int:
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(f"a {kind} of {layer} is given by its number, not by {index!r}")
    if not 0 <= int(index) < number:
        raise UnknownNameError(kind, int(index), [f"0 to {number - 1}"], of=layer)
    return int(index)


def _check_weight(weight: object) -> None:
    if not (_is_number(weight) and math.isfinite(weight) and weight >= 0):
        raise ParameterError(f"weight is {weight!r}; it must be a finite number, at least 0")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)
