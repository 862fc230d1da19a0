"""Random transforms of an image, with new random parameters at each step.

If a network still recognizes an image after random shifts, rotations and scalings, the image is
more than an adversarial pattern of pixels. The random parameters are sampled by NumPy on the CPU
and passed to the step as arrays: one seed gives the same parameters on every backend, and new
parameters do not cause another compilation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ParameterError, shorten
from transferkit.support.validation import check_integer, check_non_negative, is_number

__all__ = ["Affine", "Jitter", "Pad", "Rotate", "Scale", "Transform", "TransformChain"]

ApplyTransform: TypeAlias = Callable[[Any, Any], Any]
"""A function from images and the random parameters, both tensors, to images."""

Doubles: TypeAlias = npt.NDArray[np.float64]


class Transform(ABC):
    """A random transform, with the same random parameters for all images of a step."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the result for images of a size."""
        return height, width

    @abstractmethod
    def sample(self, generator: np.random.Generator) -> Doubles:
        """Return random parameters: an array, of the same shape at each call."""

    @abstractmethod
    def bind(self, table: Table[Any], height: int, width: int) -> ApplyTransform:
        """Return the function over tensors that transforms images.

        Parameters
        ----------
        table
            The primitives.
        height, width
            The size of the images.

        Returns
        -------
        callable
            Takes images (n, height, width, 3) and the result of `sample` as a tensor.
        """


class Affine(Transform):
    """A translation, a rotation, a scaling, or a combination of them.

    The random parameters are a 3 x 3 matrix that maps (row, column, 1) of a pixel in the result,
    relative to the center, to its position in the source image. Outside of the image its edge
    pixels are repeated. The matrices of successive transforms are multiplied, so that the image
    is interpolated only once.
    """

    def bind(self, table: Table[Any], height: int, width: int) -> ApplyTransform:
        """Return the function over tensors that transforms images; see `Transform.bind`."""
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        rows, columns = np.arange(height) - middle[0], np.arange(width) - middle[1]
        positions = np.meshgrid(rows, columns, indexing="ij")
        grid = table.asarray(np.stack([*positions, np.ones((height, width))], axis=-1))
        center = table.asarray(middle)

        def apply(images: Any, matrix: Any) -> Any:
            inverse = table.transpose(table.slice(matrix, axis=0, start=0, stop=2), axes=(1, 0))
            return table.sample(images, table.add(table.matmul(grid, inverse), center))

        return apply


@dataclass(frozen=True)
class Jitter(Affine):
    """A translation by an integer number of pixels.

    Parameters
    ----------
    pixels
        The maximum distance in each direction, at least 0.
    """

    pixels: int

    def __post_init__(self) -> None:
        check_integer("pixels", self.pixels, 0)

    def sample(self, generator: np.random.Generator) -> Doubles:
        """Return a random translation matrix; see `Affine`."""
        matrix = np.eye(3)
        matrix[:2, 2] = generator.integers(-self.pixels, self.pixels, 2, endpoint=True)
        return matrix


@dataclass(frozen=True)
class Rotate(Affine):
    """A rotation about the center.

    Parameters
    ----------
    degrees
        The maximum angle in each direction, at least 0.
    """

    degrees: float

    def __post_init__(self) -> None:
        check_non_negative("degrees", self.degrees)

    def sample(self, generator: np.random.Generator) -> Doubles:
        """Return a random rotation matrix; see `Affine`."""
        angle = np.deg2rad(generator.uniform(-self.degrees, self.degrees))
        matrix = np.eye(3)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return matrix


@dataclass(frozen=True)
class Scale(Affine):
    """A scaling about the center.

    Parameters
    ----------
    smallest, largest
        The range of the scale factor, which is log-uniform; both greater than 0.
    """

    smallest: float
    largest: float

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest < np.inf:
            raise ParameterError(
                f"smallest is {shorten(self.smallest)} and largest is {shorten(self.largest)}; "
                "expected finite numbers greater than 0 in ascending order"
            )

    def sample(self, generator: np.random.Generator) -> Doubles:
        """Return a random scaling matrix; see `Affine`."""
        factor = np.exp(generator.uniform(np.log(self.smallest), np.log(self.largest)))
        return np.diag([1 / factor, 1 / factor, 1.0])


@dataclass(frozen=True)
class Pad(Transform):
    """A border that later translations and rotations can move into view.

    Parameters
    ----------
    pixels
        The width of the border, at least 0.
    value
        The value of its pixels, in [0, 1].
    """

    pixels: int
    value: float = 0.5

    def __post_init__(self) -> None:
        check_integer("pixels", self.pixels, 0)
        if not is_number(self.value) or not 0 <= self.value <= 1:
            raise ParameterError(f"value is {shorten(self.value)}; expected a number in [0, 1]")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size with the border."""
        return height + 2 * self.pixels, width + 2 * self.pixels

    def sample(self, generator: np.random.Generator) -> Doubles:  # noqa: ARG002
        """Return an empty array: nothing is random."""
        return np.zeros(0)

    def bind(self, table: Table[Any], height: int, width: int) -> ApplyTransform:  # noqa: ARG002
        """Return the function over tensors that pads images; see `Transform.bind`."""
        side = (self.pixels, self.pixels)
        return lambda images, parameters: table.pad(  # noqa: ARG005
            images, padding=(side, side), value=self.value
        )


class _Composition(Affine):
    """Successive affine transforms, combined into one."""

    def __init__(self, transforms: Sequence[Affine]) -> None:
        self.transforms = transforms

    def sample(self, generator: np.random.Generator) -> Doubles:
        # The matrices map from the result to the source, so the last one is applied first.
        return reduce(np.matmul, [transform.sample(generator) for transform in self.transforms])


class TransformChain:
    """Successive transforms; the result is cropped from the center to the original size.

    Parameters
    ----------
    transforms
        In the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._transforms: list[Transform] = []
        affine: list[Affine] = []
        for transform in transforms:
            if isinstance(transform, Affine):
                affine.append(transform)
                continue
            if affine:
                self._transforms.append(_Composition(affine))
                affine = []
            self._transforms.append(transform)
        if affine:
            self._transforms.append(_Composition(affine))

    def __len__(self) -> int:
        """Return the number of arrays that `sample` returns."""
        return len(self._transforms)

    def sample(self, generator: np.random.Generator) -> list[Doubles]:
        """Return the random parameters of one step: an array for each combined transform."""
        return [transform.sample(generator) for transform in self._transforms]

    def bind(
        self, table: Table[Any], height: int, width: int
    ) -> Callable[[Any, Sequence[Any]], Any]:
        """Return the function over tensors that transforms images.

        Parameters
        ----------
        table
            The primitives.
        height, width
            The size of the images.

        Returns
        -------
        callable
            Takes images (n, height, width, 3) and the result of `sample` as tensors; returns
            images of the same shape.
        """
        size = (height, width)
        functions = []
        for transform in self._transforms:
            functions.append(transform.bind(table, *size))
            size = transform.size(*size)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2

        def apply_all(images: Any, parameters: Sequence[Any]) -> Any:
            for apply, values in zip(functions, parameters, strict=True):
                images = apply(images, values)
            if size == (height, width):
                return images
            return table.crop(images, top=top, left=left, height=height, width=width)

        return apply_all
