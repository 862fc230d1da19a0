"""Learning rate schedules: how the learning rate changes over a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from transferkit.errors import ParameterError, UnknownNameError, shorten
from transferkit.support.validation import check_integer, check_positive, is_number

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "OneCycle",
    "Schedule",
    "Step",
    "Warmup",
    "find_schedule",
]

Schedule: TypeAlias = Callable[[float], float]
"""A function from the fraction of the steps already taken, in [0, 1), to a factor of the learning
rate."""

# The fraction is a quotient: the first step of an epoch may be just below it.
_ROUNDING = 1e-9


def _between(start: float, end: float, fraction: float) -> float:
    """Return a value between two, along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def _check_fraction(name: str, value: object) -> None:
    if not is_number(value) or not 0 < value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in (0, 1)")


@dataclass(frozen=True)
class Constant:
    """The same learning rate in all steps."""

    def __call__(self, fraction: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear:
    """A learning rate that falls linearly to 0."""

    def __call__(self, fraction: float) -> float:
        """Return ``1 - fraction``."""
        return 1.0 - fraction


@dataclass(frozen=True)
class Cosine:
    """A learning rate that falls to 0 along half a cosine.

    References
    ----------
    Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts",
    equation 5.
    """

    def __call__(self, fraction: float) -> float:
        """Return ``(1 + cos(pi * fraction)) / 2``."""
        return 0.5 * (1.0 + math.cos(math.pi * fraction))


@dataclass(frozen=True)
class _PerEpoch:
    """A schedule that changes the learning rate between epochs.

    Parameters
    ----------
    epochs
        The number of epochs of the run; None: that of the training that uses the schedule.
    """

    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            check_integer("epochs", self.epochs, 1)

    def _epoch(self, fraction: float) -> int:
        """Return the index of the epoch, from 0.

        Raises
        ------
        ParameterError
            If the number of epochs is not known.
        """
        if self.epochs is None:
            raise ParameterError(
                f"{type(self).__name__} changes the learning rate after each epoch, but the number "
                "of epochs is unknown here; pass epochs"
            )
        return math.floor(fraction * self.epochs + _ROUNDING)


@dataclass(frozen=True)
class Step(_PerEpoch):
    """A learning rate that is multiplied by ``gamma`` every ``step_size`` epochs.

    The factor in epoch e, counted from 0, is ``gamma ** floor(e / step_size)`` (He et al., 2016,
    "Deep Residual Learning for Image Recognition", section 3.4).

    Parameters
    ----------
    step_size
        In epochs, at least 1.
    gamma
        Greater than 0.

    Examples
    --------
    >>> from transferkit.training.schedules import Step
    >>> [Step(epochs=4, step_size=2, gamma=0.5)(epoch / 4) for epoch in range(4)]
    [1.0, 1.0, 0.5, 0.5]
    """

    step_size: int = 10
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("step_size", self.step_size, 1)
        check_positive("gamma", self.gamma)

    def __call__(self, fraction: float) -> float:
        """Return the factor in the epoch that contains ``fraction``."""
        return float(self.gamma ** (self._epoch(fraction) // self.step_size))


@dataclass(frozen=True)
class Exponential(_PerEpoch):
    """A learning rate that is multiplied by ``gamma`` after each epoch.

    The factor in epoch e, counted from 0, is ``gamma ** e``.

    Parameters
    ----------
    gamma
        Greater than 0.

    Examples
    --------
    >>> from transferkit.training.schedules import Exponential
    >>> [round(Exponential(epochs=3)(epoch / 3), 4) for epoch in range(3)]
    [1.0, 0.98, 0.9604]
    """

    gamma: float = 0.98

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("gamma", self.gamma)

    def __call__(self, fraction: float) -> float:
        """Return the factor in the epoch that contains ``fraction``."""
        return float(self.gamma ** self._epoch(fraction))


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that rises to its maximum and falls to nearly 0, each along half a cosine.

    The factor goes from ``1 / divisor`` to 1 in the first ``warmup`` of the steps, and then to
    ``1 / (divisor * final_divisor)``. The momentum is not changed.

    Parameters
    ----------
    warmup
        In (0, 1).
    divisor, final_divisor
        Greater than 0.

    References
    ----------
    Smith and Topin, 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", section 3.

    Examples
    --------
    >>> from transferkit.training.schedules import OneCycle
    >>> OneCycle()(0.0), OneCycle()(0.3)
    (0.04, 1.0)
    """

    warmup: float = 0.3
    divisor: float = 25.0
    final_divisor: float = 1e4

    def __post_init__(self) -> None:
        _check_fraction("warmup", self.warmup)
        check_positive("divisor", self.divisor)
        check_positive("final_divisor", self.final_divisor)

    def __call__(self, fraction: float) -> float:
        """Return the factor at ``fraction``."""
        start = 1.0 / self.divisor
        if fraction < self.warmup:
            return _between(start, 1.0, fraction / self.warmup)
        rest = (fraction - self.warmup) / (1.0 - self.warmup)
        return _between(1.0, start / self.final_divisor, rest)


@dataclass(frozen=True)
class Warmup:
    """A linear rise of the learning rate before another schedule.

    The factor goes from ``start`` to 1 in the first ``fraction`` of the steps; then the other
    schedule runs from its beginning to its end.

    Parameters
    ----------
    schedule
        The other schedule.
    fraction
        In (0, 1).
    start
        In [0, 1].

    References
    ----------
    Goyal et al., 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.2.

    Examples
    --------
    >>> from transferkit.training.schedules import Linear, Warmup
    >>> schedule = Warmup(Linear(), fraction=0.5, start=0.0)
    >>> [schedule(fraction) for fraction in (0.0, 0.25, 0.5, 0.75)]
    [0.0, 0.5, 1.0, 0.5]
    """

    schedule: Schedule
    fraction: float = 0.1
    start: float = 0.01

    def __post_init__(self) -> None:
        _check_fraction("fraction", self.fraction)
        if not is_number(self.start) or not 0 <= self.start <= 1:
            raise ParameterError(f"start is {shorten(self.start)}; expected a number in [0, 1]")

    def __call__(self, fraction: float) -> float:
        """Return the factor at ``fraction`` of the whole run."""
        if fraction < self.fraction:
            return self.start + (1.0 - self.start) * fraction / self.fraction
        return self.schedule((fraction - self.fraction) / (1.0 - self.fraction))


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": Constant(),
        "linear": Linear(),
        "cosine": Cosine(),
        "step": Step(),
        "exponential": Exponential(),
        "one_cycle": OneCycle(),
    }
)
"""The schedules that can be selected by name, with their default settings."""


def find_schedule(schedule: str | Schedule, *, epochs: int | None = None) -> Schedule:
    """Return the schedule with a name, or the given function.

    Parameters
    ----------
    schedule
        One of `SCHEDULES`, or a function.
    epochs
        The number of epochs of the run, for schedules that change the learning rate between
        epochs and do not have it.

    Raises
    ------
    UnknownNameError
        If no schedule has that name.
    ParameterError
        If the schedule is neither a name nor a function.

    Examples
    --------
    >>> from transferkit.training.schedules import find_schedule
    >>> find_schedule("linear")(0.25)
    0.75
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise UnknownNameError("schedule", schedule, SCHEDULES)
        schedule = SCHEDULES[schedule]
    if not callable(schedule):
        names = ", ".join(map(repr, SCHEDULES))
        raise ParameterError(f"schedule is {shorten(schedule)}; expected {names} or a function")
    if isinstance(schedule, _PerEpoch) and schedule.epochs is None:
        return dataclasses.replace(schedule, epochs=epochs)
    return schedule
