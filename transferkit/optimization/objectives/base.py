"""`Objective`: its arithmetic, and how it is bound to a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from transferkit.backends.base import Table
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ParameterError, ShapeError
from transferkit.models.class_names import ClassNames
from transferkit.networks import keep_needed
from transferkit.support.validation import is_number

if TYPE_CHECKING:
    from transferkit.backends import Program

__all__ = [
    "Activations",
    "Evaluate",
    "Objective",
    "Subject",
    "bind_checked",
    "check_one_per_image",
]

Activations: TypeAlias = Mapping[str, Any]
"""Layer name to activations: a tensor (n, h, w, c) or (n, d)."""

Evaluate: TypeAlias = Callable[[Table[Any], Activations], Any]
"""A function from a table and activations to a tensor (n,): the objective of each image."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The properties of a network that an objective needs.

    Attributes
    ----------
    shapes
        Layer name to the shape of its output for one image, (h, w, c) or (d,).
    classes
        The classes of the logits.
    """

    shapes: Mapping[str, tuple[int, ...]]
    classes: ClassNames

    @classmethod
    def of(
        cls, program: Program, layers: Sequence[str], classes: ClassNames, height: int, width: int
    ) -> Subject:
        """Return the properties of a program's layers, for images of one size.

        Parameters
        ----------
        program
            The network on a backend.
        layers
            The names of the layers.
        classes
            The classes of the logits.
        height, width
            The size of the images in pixels.

        Raises
        ------
        UnknownNameError
            If the network does not have one of the layers.
        ShapeError
            If the network cannot take images of that size.
        """
        targets = {layer: program.network.resolve(layer) for layer in layers}
        # Only the nodes that these layers need: later ones may require another size.
        needed = keep_needed(program.network, tuple(targets.values()))
        shapes = infer_shapes(needed, height, width, program.wrapped)
        return cls({layer: shapes[target] for layer, target in targets.items()}, classes)


class Objective(ABC):
    """A value per image that is maximized.

    Attributes
    ----------
    target
        The class that the image is to show, as it was given; None if the objective does not
        maximize a class.
    """

    target: Hashable | None = None

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """The layers whose activations it needs."""

    @abstractmethod
    def bind(self, subject: Subject) -> Evaluate:
        """Return the function that computes the objective for one network.

        Parameters
        ----------
        subject
            Has the shapes of at least `layers`.

        Returns
        -------
        callable
            Takes a table and the activations of `layers`, layer name to tensor (n, h, w, c) or
            (n, d), and returns a tensor (n,).

        Raises
        ------
        UnknownNameError
            If the network does not have the class, the channel or the position.
        """

    def __add__(self, other: object) -> Objective:
        if isinstance(other, Objective):
            return _Sum(self, other)
        # `sum` starts from 0.
        return self if is_number(other) and other == 0 else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Objective:
        return _Sum(self, -other) if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: object) -> Objective:
        return _scale(self, factor) if is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Objective:
        return _scale(self, 1 / divisor) if is_number(divisor) else NotImplemented

    def __neg__(self) -> Objective:
        return _scale(self, -1.0)


class _Sum(Objective):
    """The sum of two objectives."""

    def __init__(self, first: Objective, second: Objective) -> None:
        self.first = first
        self.second = second
        self.target = first.target if first.target is not None else second.target

    @property
    def layers(self) -> tuple[str, ...]:
        return (*self.first.layers, *self.second.layers)

    def bind(self, subject: Subject) -> Evaluate:
        first, second = (bind_checked(term, subject) for term in (self.first, self.second))
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


def _scale(objective: Objective, factor: float) -> Objective:
    """Multiply an objective by a number; successive factors are combined into one."""
    if isinstance(objective, _Scaled):
        factor *= objective.factor
        objective = objective.objective
    if not math.isfinite(factor):
        raise ParameterError(f"the factor of an objective is {factor}; expected a finite number")
    return objective if factor == 1 else _Scaled(objective, float(factor))


def bind_checked(objective: Objective, subject: Subject) -> Evaluate:
    """Bind an objective to a network; the returned function checks the shape of its result.

    Raises
    ------
    UnknownNameError
        If the network does not have the class, the channel or the position.
    ParameterError
        If the objective has no layers.
    """
    if not objective.layers:
        raise ParameterError(f"objective {objective} has no layers; expected at least one")
    evaluate = objective.bind(subject)

    def evaluate_checked(table: Table[Any], activations: Activations) -> Any:
        values = evaluate(table, activations)
        num_images = activations[objective.layers[0]].shape[0]
        return check_one_per_image(values, num_images, f"objective {objective}")

    return evaluate_checked


def check_one_per_image(values: Any, num_images: int | None, source: str) -> Any:
    """Return values after a check that their shape is (n,); others would be broadcast silently.

    Parameters
    ----------
    values
        The result of an objective or a regularizer: a tensor, if it is correct.
    num_images
        The number of images. None while a function is traced for any number of images; a fixed
        number of values is then wrong.
    source
        What returned the values, for the message.

    Raises
    ------
    ShapeError
        If the values do not have shape (n,).
    """
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) == 1 and shape[0] in (None, num_images):
        return values
    given = f"a {type(values).__name__}" if shape is None else f"shape {tuple(shape)}"
    raise ShapeError(
        f"{source} returned {given}; expected shape ({'n' if num_images is None else num_images},),"
        " one value per image: take a mean or sum over all axes but the first"
    )
