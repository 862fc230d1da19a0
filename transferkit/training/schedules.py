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

# A fraction is a quotient of steps: that of the first step of an epoch may be just below the epoch.
_ROUNDING = 1e-9


def _between(start: float, end: float, fraction: float) -> float:
    """Return a value between two, along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def _power(gamma: float, num_parts: int, fraction: float) -> float:
    """Return ``gamma`` to the power of the number of complete parts of the run."""
    return float(gamma ** math.floor(num_parts * fraction + _ROUNDING))


def _check_gamma(gamma: object) -> None:
    if not is_number(gamma) or not 0 < gamma <= 1:
        raise ParameterError(f"gamma is {shorten(gamma)}; expected a number in (0, 1]")


def _check_fraction(name: str, value: object) -> None:
    if not is_number(value) or not 0 < value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in (0, 1)")


@dataclass(frozen=True)
class Constant:
    """The same learning rate in all steps.

    Examples
    --------
    >>> from transferkit.training import Constant
    >>> Constant()(0.5)
    1.0
    """

    def __call__(self, fraction: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Linear:
    """A learning rate that falls linearly to 0.

    Examples
    --------
    >>> from transferkit.training import Linear
    >>> Linear()(0.25)
    0.75
    """

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

    Examples
    --------
    >>> from transferkit.training import Cosine
    >>> Cosine()(0.5)
    0.5
    """

    def __call__(self, fraction: float) -> float:
        """Return ``(1 + cos(pi * fraction)) / 2``."""
        return _between(1.0, 0.0, fraction)


@dataclass(frozen=True)
class Step:
    """A learning rate that is multiplied by ``gamma`` after each of several equal parts of the run.

    The factor is ``gamma ** floor(num_parts * fraction)``: by default the learning rate is divided
    by 10 after each third of the run, as in the training of many networks on ImageNet (Huang et
    al., 2017, "Densely Connected Convolutional Networks", section 4.2).

    Parameters
    ----------
    gamma
        In (0, 1].
    num_parts
        At least 1.

    Examples
    --------
    >>> from transferkit.training import Step
    >>> [Step(gamma=0.5, num_parts=2)(step / 4) for step in range(4)]
    [1.0, 1.0, 0.5, 0.5]
    """

    gamma: float = 0.1
    num_parts: int = 3

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)
        check_integer("num_parts", self.num_parts, 1)

    def __call__(self, fraction: float) -> float:
        """Return the factor in the part that contains ``fraction``."""
        return _power(self.gamma, self.num_parts, fraction)


@dataclass(frozen=True)
class Exponential:
    """A learning rate that is multiplied by ``gamma`` after each epoch.

    The factor in epoch e, counted from 0, is ``gamma**e``, where ``e = floor(epochs * fraction)``.

    Parameters
    ----------
    gamma
        In (0, 1].
    epochs
        The number of epochs of the run, at least 1. None: `find_schedule` sets it to that of the
        training that uses the schedule.

    Examples
    --------
    >>> from transferkit.training import Exponential
    >>> [round(Exponential(0.98, epochs=3)(epoch / 3), 4) for epoch in range(3)]
    [1.0, 0.98, 0.9604]
    """

    gamma: float = 0.98
    epochs: int | None = None

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)
        if self.epochs is not None:
            check_integer("epochs", self.epochs, 1)

    def __call__(self, fraction: float) -> float:
        """Return the factor in the epoch that contains ``fraction``.

        Raises
        ------
        ParameterError
            If the number of epochs is not known.
        """
        if self.epochs is None:
            raise ParameterError(
                "the exponential schedule lowers the learning rate after each epoch, but the "
                "number of epochs is unknown here; pass it, as in Exponential(epochs=10)"
            )
        return _power(self.gamma, self.epochs, fraction)


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that rises to its maximum and falls to nearly 0, each along half a cosine.

    The factor goes from ``1 / div_factor`` to 1 in the first ``warmup`` of the steps, and then to
    ``1 / (div_factor * final_div_factor)``, which it would reach in the step after the last.

    The names and default values are those of PyTorch's ``OneCycleLR``, whose ``pct_start`` is
    ``warmup``; in the paper the learning rate changes linearly. The momentum is not changed.

    Parameters
    ----------
    warmup
        In (0, 1).
    div_factor, final_div_factor
        Greater than 0.

    References
    ----------
    Smith and Topin, 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates", section 3.

    Examples
    --------
    >>> from transferkit.training import OneCycle
    >>> [round(OneCycle()(fraction), 2) for fraction in (0.0, 0.3, 0.65)]
    [0.04, 1.0, 0.5]
    """

    warmup: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check_fraction("warmup", self.warmup)
        check_positive("div_factor", self.div_factor)
        check_positive("final_div_factor", self.final_div_factor)

    def __call__(self, fraction: float) -> float:
        """Return the factor at ``fraction``."""
        start = 1.0 / self.div_factor
        if fraction < self.warmup:
            return _between(start, 1.0, fraction / self.warmup)
        rest = (fraction - self.warmup) / (1.0 - self.warmup)
        return _between(1.0, start / self.final_div_factor, rest)


@dataclass(frozen=True)
class Warmup:
    """A linear rise of the learning rate before another schedule.

    The factor goes from ``start`` to 1 in the first ``fraction`` of the steps, times the factor
    with which the other schedule begins. Then the other schedule runs from its beginning to its
    end in the remaining steps (He et al., 2019, "Bag of Tricks for Image Classification with
    Convolutional Neural Networks", section 5.1), except for `Exponential`, which follows the
    epochs of the whole run, including the warm-up (Goyal et al., 2017).

    Parameters
    ----------
    schedule
        The other schedule: one of `SCHEDULES`, or a function.
    fraction
        In (0, 1).
    start
        In [0, 1].

    References
    ----------
    Goyal et al., 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.2.

    Examples
    --------
    >>> from transferkit.training import Warmup
    >>> schedule = Warmup("linear", fraction=0.5, start=0.0)
    >>> [schedule(fraction) for fraction in (0.0, 0.25, 0.5, 0.75)]
    [0.0, 0.5, 1.0, 0.5]
    """

    schedule: str | Schedule
    fraction: float = 0.1
    start: float = 0.01

    def __post_init__(self) -> None:
        find_schedule(self.schedule)
        _check_fraction("fraction", self.fraction)
        if not is_number(self.start) or not 0 <= self.start <= 1:
            raise ParameterError(f"start is {shorten(self.start)}; expected a number in [0, 1]")

    def __call__(self, fraction: float) -> float:
        """Return the factor at ``fraction`` of the whole run."""
        schedule = find_schedule(self.schedule)
        rise = self.start + (1.0 - self.start) * min(fraction / self.fraction, 1.0)
        if not isinstance(schedule, Exponential):
            fraction = max((fraction - self.fraction) / (1.0 - self.fraction), 0.0)
        return rise * schedule(fraction)


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
        The number of epochs of the run, for an `Exponential` that does not have it, also in a
        `Warmup`; None: unknown.

    Raises
    ------
    UnknownNameError
        If no schedule has that name.
    ParameterError
        If the schedule is neither a name nor a function, or a class.

    Examples
    --------
    >>> from transferkit.training import find_schedule
    >>> find_schedule("linear")(0.25)
    0.75
    >>> find_schedule("exponential", epochs=10)
    Exponential(gamma=0.98, epochs=10)
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise UnknownNameError("schedule", schedule, SCHEDULES)
        schedule = SCHEDULES[schedule]
    if not callable(schedule) or isinstance(schedule, type):
        names = ", ".join(map(repr, SCHEDULES))
        raise ParameterError(
            f"schedule is {shorten(schedule)}; expected {names}, an object such as Cosine() or a "
            "function"
        )
    if epochs is None:
        return schedule
    if isinstance(schedule, Exponential) and schedule.epochs is None:
        return dataclasses.replace(schedule, epochs=epochs)
    if isinstance(schedule, Warmup):
        inner = find_schedule(schedule.schedule, epochs=epochs)
        return dataclasses.replace(schedule, schedule=inner)
    return schedule
