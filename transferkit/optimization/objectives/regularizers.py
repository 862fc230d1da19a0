"""Regularizers: penalties on the pixels of an image, added to the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from transferkit.backends.base import Table
from transferkit.support.validation import check_non_negative, check_positive

__all__ = ["L2", "DistanceToStart", "Regularizer", "TotalVariation"]

# Keeps the derivative of a root finite where neighboring pixels are equal.
_EPSILON = 1e-12


class Regularizer(ABC):
    """A penalty per image, computed from its pixels, that is added to the loss."""

    @abstractmethod
    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:
        """Return the penalty of each image.

        Parameters
        ----------
        table
            The primitives.
        images
            (n, h, w, 3), the pixels in [0, 1].
        start
            The images that the run started from, of the same shape.

        Returns
        -------
        tensor
            (n,)
        """


@dataclass(frozen=True)
class TotalVariation(Regularizer):
    """Total variation: the differences between neighboring pixels, summed over all channels.

    With dy and dx the differences to the pixel below and to the right, the anisotropic form is
    ``sum(|dy| ** power) + sum(|dx| ** power)``, and the isotropic form is
    ``sum((dy ** 2 + dx ** 2) ** (power / 2))``. The differences are 0 beyond the last row and
    column.

    Parameters
    ----------
    weight
        The factor of the sum, at least 0.
    power
        The exponent, greater than 0: 1 preserves edges, 2 blurs them.
    isotropic
        Whether edges in all directions have the same penalty.

    Raises
    ------
    ParameterError
        If a value is of the wrong type or out of range.

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
        check_non_negative("weight", self.weight)
        check_positive("power", self.power)

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:  # noqa: ARG002
        """Return the penalty of each image; see `Regularizer.evaluate`."""
        dy, dx = (_differences(table, images, axis) for axis in (1, 2))
        if self.isotropic:
            dy = table.pad(dy, padding=((0, 1), (0, 0)))
            dx = table.pad(dx, padding=((0, 0), (0, 1)))
            squares = table.add(table.multiply(dy, dy), table.multiply(dx, dx))
            total = _sum_per_image(table, self._power_of_root(table, squares))
        else:
            if self.power == 1:
                powers = [table.absolute(d) for d in (dy, dx)]
            else:
                powers = [self._power_of_root(table, table.multiply(d, d)) for d in (dy, dx)]
            total = table.add(*(_sum_per_image(table, values) for values in powers))
        return table.multiply(total, table.asarray(self.weight))

    def _power_of_root(self, table: Table[Any], squares: Any) -> Any:
        """Return ``squares ** (power / 2)``, with a finite derivative where they are 0."""
        if self.power == 2:
            return squares
        shifted = table.add(squares, table.asarray(_EPSILON))
        exponent = self.power / 2
        powers = (
            table.sqrt(shifted)
            if self.power == 1
            else table.exp(table.multiply(table.log(shifted), table.asarray(exponent)))
        )
        return table.subtract(powers, table.asarray(_EPSILON**exponent))


@dataclass(frozen=True)
class L2(Regularizer):
    """The squared distance of the pixels to gray: the sum of ``(pixel - 0.5) ** 2``.

    Parameters
    ----------
    weight
        The factor of the sum, at least 0.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, 2013, "Deep Inside Convolutional Networks", section 2.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        check_non_negative("weight", self.weight)

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:  # noqa: ARG002
        """Return the penalty of each image; see `Regularizer.evaluate`."""
        return _weighted_squared_distance(table, images, table.asarray(0.5), self.weight)


@dataclass(frozen=True)
class DistanceToStart(Regularizer):
    """The squared distance of the pixels to the start: the sum of ``(pixel - start) ** 2``.

    Parameters
    ----------
    weight
        The factor of the sum, at least 0.
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        check_non_negative("weight", self.weight)

    def evaluate(self, table: Table[Any], images: Any, start: Any) -> Any:
        """Return the penalty of each image; see `Regularizer.evaluate`."""
        return _weighted_squared_distance(table, images, start, self.weight)


def _weighted_squared_distance(table: Table[Any], images: Any, center: Any, weight: float) -> Any:
    difference = table.subtract(images, center)
    squares = _sum_per_image(table, table.multiply(difference, difference))
    return table.multiply(squares, table.asarray(weight))


def _differences(table: Table[Any], images: Any, axis: int) -> Any:
    """Return the difference of each pixel to the next one along an axis."""
    following = table.slice(images, axis=axis, start=1, stop=None)
    return table.subtract(following, table.slice(images, axis=axis, start=0, stop=-1))


def _sum_per_image(table: Table[Any], values: Any) -> Any:
    return table.sum(values, axes=(1, 2, 3))
