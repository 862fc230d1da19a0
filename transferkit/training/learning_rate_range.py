"""The learning rate range test: the loss while the learning rate rises from step to step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from transferkit.errors import ParameterError, shorten
from transferkit.support.validation import check_integer, check_positive

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LearningRateRange", "geometric_learning_rates"]

Floats = npt.NDArray[np.float64]

# The weight of the earlier losses in the moving average.
_DECAY = 0.9


def geometric_learning_rates(smallest: float, largest: float, steps: int) -> Floats:
    """Return the learning rates of a range test, each larger than the last by the same factor.

    Smith increases the learning rate linearly; a constant factor gives every power of ten the same
    number of steps.

    Parameters
    ----------
    smallest, largest
        The first and the last learning rate, greater than 0.
    steps
        The number of learning rates, at least 2.

    Returns
    -------
    array
        (steps,) float64.

    Raises
    ------
    ParameterError
        If a value is out of range, or ``smallest`` is not less than ``largest``.

    Examples
    --------
    >>> from transferkit.training import geometric_learning_rates
    >>> geometric_learning_rates(1e-4, 1.0, 5).tolist()
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    check_positive("smallest", smallest)
    check_positive("largest", largest)
    steps = check_integer("steps", steps, 2)
    if smallest >= largest:
        raise ParameterError(
            f"smallest is {shorten(smallest)} and largest {shorten(largest)}; expected smallest to "
            "be less than largest"
        )
    return np.geomspace(smallest, largest, steps)


@dataclass(frozen=True, eq=False)
class LearningRateRange:
    """The result of a learning rate range test.

    A network is trained for a few steps while the learning rate rises; the loss falls as soon as
    the learning rate is large enough, and rises when it is too large.

    Parameters
    ----------
    learning_rates
        (n,) the learning rate of each step: positive, in ascending order; n is at least 2.
    losses
        (n,) the loss of each step's batch, before the update. From the first that is NaN or
        infinite, they are ignored.

    Raises
    ------
    ParameterError
        If the arrays differ in length, or a learning rate is out of order.

    References
    ----------
    Smith, 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """

    learning_rates: Floats
    losses: Floats

    @cached_property
    def smoothed_losses(self) -> Floats:
        """(n,) the exponential moving average of `losses`, with bias correction."""
        raise NotImplementedError

    @cached_property
    def smoothed_learning_rates(self) -> Floats:
        """(n,) the learning rates to which `smoothed_losses` belong."""
        raise NotImplementedError

    @property
    def suggestion(self) -> float | None:
        """The learning rate at which the loss falls fastest; None if it never falls."""
        raise NotImplementedError

    def to_pandas(self) -> DataFrame:
        """Return the losses as a data frame; requires pandas."""
        raise NotImplementedError

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot the losses over the learning rate to a PNG file."""
        raise NotImplementedError
