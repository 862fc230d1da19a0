"""Learning rate schedules: how the learning rate changes over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from transferkit.errors import ParameterError, UnknownNameError, shorten

__all__ = ["SCHEDULES", "Schedule", "find_schedule"]

Schedule: TypeAlias = Callable[[float], float]
"""A function from the fraction of the steps already taken, in [0, 1), to a factor of the learning
rate."""

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": lambda fraction: 1.0,  # noqa: ARG005
        "linear": lambda fraction: 1.0 - fraction,
        "cosine": lambda fraction: 0.5 * (1.0 + math.cos(math.pi * fraction)),
    }
)
"""The schedules that can be selected by name."""


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Return the schedule with a name, or the given function.

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
        return SCHEDULES[schedule]
    if not callable(schedule):
        names = ", ".join(map(repr, SCHEDULES))
        raise ParameterError(f"schedule is {shorten(schedule)}; expected {names} or a function")
    return schedule
