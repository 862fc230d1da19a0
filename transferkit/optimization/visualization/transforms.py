"""What is done to a picture before the network sees it, anew at each step.

What is still seen in a picture that is shifted, turned and scaled is more than a pattern of
pixels that happens to excite a network. Everything that is drawn is drawn on the host, by NumPy,
and given to the step as arrays: a seed gives the same draws on every backend, and no draw
compiles anything anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ParameterError

__all__ = ["Affine", "Jitter", "Pad", "Rotate", "Scale", "Transform", "TransformChain"]

Change: TypeAlias = Callable[[Any, Any], Any]
"""From pictures and what was drawn, both tensors, to pictures."""

Drawn = npt.NDArray[np.float64]


class Transform(ABC):
    """A random change of pictures, the same for all pictures of a step."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size that pictures of a size become."""
        return height, width

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Drawn:
        """What is random about it: an array, always of the same shape."""

    @abstractmethod
    def bind(self, table: Table[Any], height: int, width: int) -> Change:
        """The function over tensors that changes pictures.

        Parameters
        ----------
        table
            What computes.
        height, width
            Of the pictures that are to be changed.

        Returns
        -------
        callable
            Takes pictures (n, height, width, 3) and a tensor of what `draw` gave.
        """


class Affine(Transform):
    """A shift, rotation or scaling, or several at once.

    What is drawn is a 3 x 3 matrix: it takes (row, column, 1) of a pixel of the result, counted
    from the centre, to where in the picture it comes from. Beyond the picture its edge is
    repeated. Several in succession are multiplied, and the picture is sampled once.
    """

    def bind(self, table: Table[Any], height: int, width: int) -> Change:
        """As for every `Transform`."""
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        rows, columns = np.arange(height) - middle[0], np.arange(width) - middle[1]
        places = np.meshgrid(rows, columns, indexing="ij")
        grid = table.asarray(np.stack([*places, np.ones((height, width))], axis=-1))
        centre = table.asarray(middle)

        def change(images: Any, drawn: Any) -> Any:
            backwards = table.transpose(table.slice(drawn, axis=0, start=0, stop=2), axes=(1, 0))
            return table.sample(images, table.add(table.matmul(grid, backwards), centre))

        return change


@dataclass(frozen=True)
class Jitter(Affine):
    """A shift by whole pixels.

    Parameters
    ----------
    pixels
        The farthest, in each direction; at least 0.
    """

    pixels: int

    def __post_init__(self) -> None:
        _check_whole("pixels", self.pixels)

    def draw(self, generator: np.random.Generator) -> Drawn:
        """As for every `Affine`."""
        drawn = np.eye(3)
        drawn[:2, 2] = generator.integers(-self.pixels, self.pixels, 2, endpoint=True)
        return drawn


@dataclass(frozen=True)
class Rotate(Affine):
    """A rotation about the centre.

    Parameters
    ----------
    degrees
        The farthest, in each direction; at least 0.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 <= self.degrees < np.inf:
            raise ParameterError(
                f"degrees is {self.degrees!r}; it must be a finite number, at least 0"
            )

    def draw(self, generator: np.random.Generator) -> Drawn:
        """As for every `Affine`."""
        angle = np.deg2rad(generator.uniform(-self.degrees, self.degrees))
        drawn = np.eye(3)
        drawn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return drawn


@dataclass(frozen=True)
class Scale(Affine):
    """Shrinking or magnifying about the centre.

    Parameters
    ----------
    smallest, largest
        Between these is the factor drawn, alike on a scale of logarithms; greater than 0.
    """

    smallest: float
    largest: float

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest < np.inf:
            raise ParameterError(
                f"factors from {self.smallest!r} to {self.largest!r}; expected numbers greater "
                "than 0, the smaller first"
            )

    def draw(self, generator: np.random.Generator) -> Drawn:
        """As for every `Affine`."""
        factor = np.exp(generator.uniform(np.log(self.smallest), np.log(self.largest)))
        return np.diag([1 / factor, 1 / factor, 1.0])


@dataclass(frozen=True)
class Pad(Transform):
    """A border, into which a later shift or rotation may look.

    Parameters
    ----------
    pixels
        How wide; at least 0.
    value
        Of its pixels, in [0, 1].
    """

    pixels: int
    value: float = 0.5

    def __post_init__(self) -> None:
        _check_whole("pixels", self.pixels)
        if not 0 <= self.value <= 1:
            raise ParameterError(f"value is {self.value!r}; it must be in [0, 1]")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """As for every `Transform`."""
        return height + 2 * self.pixels, width + 2 * self.pixels

    def draw(self, generator: np.random.Generator) -> Drawn:  # noqa: ARG002
        """Nothing."""
        return np.zeros(0)

    def bind(self, table: Table[Any], height: int, width: int) -> Change:  # noqa: ARG002
        """As for every `Transform`."""
        side = (self.pixels, self.pixels)
        return lambda images, drawn: table.pad(  # noqa: ARG005
            images, padding=(side, side), value=self.value
        )


class _Successive(Affine):
    """Affine transforms one after the other, as one."""

    def __init__(self, parts: Sequence[Affine]) -> None:
        self.parts = parts

    def draw(self, generator: np.random.Generator) -> Drawn:
        # Backwards from the result: through the last first.
        return reduce(np.matmul, [part.draw(generator) for part in self.parts])


class TransformChain:
    """Transforms in succession; the result is the middle, of the size that the picture had.

    Parameters
    ----------
    transforms
        In the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._parts: list[Transform] = []
        together: list[Affine] = []
        for transform in transforms:
            if isinstance(transform, Affine):
                together.append(transform)
                continue
            if together:
                self._parts.append(_Successive(together))
                together = []
            self._parts.append(transform)
        if together:
            self._parts.append(_Successive(together))

    @property
    def number(self) -> int:
        """How many arrays `draw` gives."""
        return len(self._parts)

    def draw(self, generator: np.random.Generator) -> list[Drawn]:
        """What is random about one step."""
        return [part.draw(generator) for part in self._parts]

    def bind(
        self, table: Table[Any], height: int, width: int
    ) -> Callable[[Any, Sequence[Any]], Any]:
        """The function over tensors that changes pictures.

        Parameters
        ----------
        table
            What computes.
        height, width
            Of the pictures.

        Returns
        -------
        callable
            Takes pictures (n, height, width, 3) and tensors of what `draw` gave; gives
            pictures of the same shape.
        """
        size = (height, width)
        changes = []
        for part in self._parts:
            changes.append(part.bind(table, *size))
            size = part.size(*size)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2

        def change_all(images: Any, drawn: Sequence[Any]) -> Any:
            for change, numbers in zip(changes, drawn, strict=True):
                images = change(images, numbers)
            if size == (height, width):
                return images
            return table.crop(images, top=top, left=left, height=height, width=width)

        return change_all


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ParameterError(f"{name} is {value!r}; it must be a whole number, at least 0")
