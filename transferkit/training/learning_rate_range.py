"""The learning rate range test: the loss while the learning rate rises from step to step."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from transferkit.errors import ParameterError, shorten
from transferkit.support.data_frames import import_pandas
from transferkit.support.numerics import as_array
from transferkit.support.plots import plot_file
from transferkit.support.validation import check_integer, check_positive

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["LearningRateRange", "geometric_learning_rates"]

Floats = npt.NDArray[np.float64]

# The part of the steps over which the moving average extends.
_WINDOW = 0.1
# The smallest fall of the smoothed losses that is not taken for noise, in standard deviations of
# the losses. With noise alone, fewer than one of ten simulated tests of 50 steps had a larger fall,
# and one of a hundred of 100 steps.
_MIN_FALL = 1.5
# The space that the plot shows above the falling losses, as a part of their range; a divergence
# would flatten the curve.
_MARGIN = 0.5


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

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.training import LearningRateRange, geometric_learning_rates
    >>> rates = geometric_learning_rates(1e-5, 1.0, 200)
    >>> result = LearningRateRange(rates, 2 / (1 + (rates / 1e-3) ** 2) + rates)
    >>> result
    LearningRateRange(200 steps, 1.0e-05 to 1.0e+00; suggestion 6.4e-04)
    """

    learning_rates: Floats
    losses: Floats

    def __post_init__(self) -> None:
        for name in ("learning_rates", "losses"):
            object.__setattr__(self, name, _floats(name, getattr(self, name)))
        rates, losses = self.learning_rates, self.losses
        if len(rates) != len(losses) or len(rates) < 2:
            raise ParameterError(
                f"{len(rates)} learning rates and {len(losses)} losses; expected one loss for each "
                "learning rate, and at least 2"
            )
        if not (rates[0] > 0 and np.isfinite(rates[-1]) and (np.diff(rates) > 0).all()):
            raise ParameterError(
                f"learning_rates is {shorten(rates.tolist())}; expected finite numbers greater "
                "than 0 in ascending order"
            )

    @cached_property
    def smoothed_losses(self) -> Floats:
        """(n,) the exponential moving average of `losses`, with bias correction.

        The decay is ``1 - 10 / n``, so that a loss is averaged over about a tenth of the steps; 0
        for fewer than 10 steps. From the first loss that is NaN or infinite, the average is NaN.
        """
        return self._smooth(self.losses)

    @cached_property
    def smoothed_learning_rates(self) -> Floats:
        """(n,) the learning rates to which `smoothed_losses` belong.

        A moving average of losses belongs to an earlier step than its last one. Its learning rate
        is the geometric mean of the learning rates, with the same weights.
        """
        return np.exp(self._smooth(np.log(self.learning_rates)))

    @property
    def suggestion(self) -> float | None:
        """The learning rate at which the loss falls fastest.

        Of `smoothed_learning_rates`, the one at which the derivative of `smoothed_losses` by the
        logarithm of the learning rate is the most negative, between the first tenth of the steps,
        where few losses are averaged, and the minimum of `smoothed_losses`. None if they fall by
        less than 1.5 standard deviations there: of the losses around their trend, computed from
        the differences of successive losses.

        Averaging over past losses makes it smaller than the learning rate of the steepest point of
        a curve without noise, by up to a tenth of the steps.
        """
        smoothed = self.smoothed_losses[: self._finite_steps]
        first = int(_WINDOW * len(self.losses))
        if len(smoothed) == 0 or smoothed.argmin() <= first:
            return None
        falling = slice(first, smoothed.argmin() + 1)
        noise = np.diff(self.losses[: falling.stop]).std() / math.sqrt(2)
        fall = smoothed[falling].max() - smoothed.min()
        if fall <= _MIN_FALL * noise:
            return None
        rates = self.smoothed_learning_rates[: len(smoothed)]
        derivative = np.gradient(smoothed, np.log(rates))[falling]
        return float(rates[falling][derivative.argmin()])

    def to_pandas(self) -> DataFrame:
        """Return the losses as a data frame; requires pandas.

        Returns
        -------
        pandas.DataFrame
            One row for each step, with the float64 columns ``learning_rate``, ``loss``,
            ``smoothed_learning_rate`` and ``smoothed_loss``.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.

        Examples
        --------
        >>> from transferkit.training import LearningRateRange
        >>> LearningRateRange([0.01, 0.1], [0.7, 0.6]).to_pandas()["loss"].tolist()
        [0.7, 0.6]
        """
        return import_pandas().DataFrame(
            {
                "learning_rate": self.learning_rates,
                "loss": self.losses,
                "smoothed_learning_rate": self.smoothed_learning_rates,
                "smoothed_loss": self.smoothed_losses,
            }
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot the losses over the learning rate to a PNG file, with the suggestion.

        Losses after the minimum that are far above those before it, because the training diverged,
        are outside of the plot.

        Parameters
        ----------
        path
            Ends in ``.png``. An existing file is replaced when the new one is complete.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        with plot_file(path, 6, 4) as figure:
            axes = figure.subplots()
            axes.set_xscale("log")
            axes.set_xlim(self.learning_rates[0], self.learning_rates[-1])
            finite = np.where(np.isfinite(self.losses), self.losses, np.nan)
            axes.plot(self.learning_rates, finite, color="C0", alpha=0.35, label="loss")
            axes.plot(
                self.smoothed_learning_rates, self.smoothed_losses, color="C0", label="smoothed"
            )
            suggestion = self.suggestion
            if suggestion is not None:
                axes.axvline(
                    suggestion, color="C3", linestyle="--", label=f"suggestion: {suggestion:.1e}"
                )
            low, high = self._falling_losses()
            if low < high:
                axes.set_ylim(low - 0.1 * (high - low), high + _MARGIN * (high - low))
            axes.set_xlabel("learning rate")
            axes.set_ylabel("loss")
            axes.grid(alpha=0.3)
            figure.legend(loc="outside upper center", ncols=3, frameon=False)

    @property
    def _finite_steps(self) -> int:
        """The number of steps before the first loss that is NaN or infinite."""
        finite = np.isfinite(self.losses)
        return len(finite) if finite.all() else int(finite.argmin())

    def _smooth(self, values: Floats) -> Floats:
        """Return the exponential moving average of values; NaN after the finite losses."""
        decay = max(0.0, 1 - 1 / (_WINDOW * len(values)))
        smoothed = np.full(len(values), np.nan)
        total = weight = 0.0
        for step in range(self._finite_steps):
            total = decay * total + values[step]
            weight = decay * weight + 1
            smoothed[step] = total / weight
        return smoothed

    def _falling_losses(self) -> tuple[float, float]:
        """Return the range of the losses up to the minimum of the smoothed ones."""
        smoothed = self.smoothed_losses[: self._finite_steps]
        if len(smoothed) == 0:
            return 0.0, 0.0
        falling = self.losses[: smoothed.argmin() + 1]
        return min(smoothed.min(), falling.min()), falling.max()

    def __repr__(self) -> str:
        first, last = self.learning_rates[0], self.learning_rates[-1]
        suggestion = "none" if self.suggestion is None else f"{self.suggestion:.1e}"
        return (
            f"LearningRateRange({len(self.losses)} steps, {first:.1e} to {last:.1e}; "
            f"suggestion {suggestion})"
        )


def _floats(name: str, values: object) -> Floats:
    """Return an array of the caller's values, which later changes of them do not affect."""
    try:
        array = np.array(as_array(values, np.float64))
    except (TypeError, ValueError):
        array = np.empty(())
    if array.ndim != 1:
        raise ParameterError(f"{name} is {shorten(values)}; expected a sequence of numbers")
    return array
