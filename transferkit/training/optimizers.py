"""Optimisers, written once over the table: frameworks' own differ in defaults and epsilons.

An optimiser holds no state of its own. What it keeps from step to step are tensors that go into
a step and come out of it, so that they stay on the device, and one optimiser serves many runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import NotFiniteError, ParameterError, UnknownNameError

__all__ = [
    "SCHEDULES",
    "Adam",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "find_optimizer",
]

Schedule: TypeAlias = Callable[[float], float]
"""From the part of the run that is done, in [0, 1), to what the rate is multiplied by."""

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant": lambda done: 1.0,  # noqa: ARG005
        "linear": lambda done: 1.0 - done,
        "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    }
)
"""How the rate may change over a run, by name."""

# Keeps a picture without any gradient from being divided by 0.
_SMALLEST_MEAN_SQUARE = 1e-24


@dataclass(frozen=True)
class Optimizer(ABC):
    """How parameters follow a gradient downhill.

    Parameters
    ----------
    rate
        The size of a step, greater than 0; what that is, each optimiser says.
    schedule
        One of `SCHEDULES`, or a function from the part of the run that is done, in [0, 1),
        to what the rate is multiplied by.

    Raises
    ------
    ParameterError
        If a value is not one of these.
    """

    rate: float
    schedule: str | Schedule = "constant"

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate)
        if isinstance(self.schedule, str):
            if self.schedule not in SCHEDULES:
                raise UnknownNameError("schedule", self.schedule, SCHEDULES)
        elif not callable(self.schedule):
            raise ParameterError(
                f"schedule is {self.schedule!r}; it must be {' or '.join(map(repr, SCHEDULES))}, "
                "or a function"
            )

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The rate at a step, counted from 0, of a run of ``steps``.

        Raises
        ------
        NotFiniteError
            If the schedule gives a number that is not finite.
        """
        schedule = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        rate = self.rate * schedule(step / steps)
        if not math.isfinite(rate):
            raise NotFiniteError(f"step {step}, counted from 0: the schedule makes the rate {rate}")
        return rate

    def numbers(
        self,
        step: int,
        steps: int,
        *,
        begun: int = 0,  # noqa: ARG002 - for optimisers that keep something
    ) -> npt.NDArray[np.float32]:
        """What `update` needs to know of a step: (k,), the rate first.

        Parameters
        ----------
        step, steps
            Which step, counted from 0, and how many there are.
        begun
            The step at which what is kept was last 0.

        Raises
        ------
        NotFiniteError
            If the schedule gives a number that is not finite.
        """
        return np.asarray([self.learning_rate_at(step, steps)], np.float32)

    @property
    @abstractmethod
    def kept(self) -> int:
        """How many tensors, of the parameters' shape and at first 0, are kept between steps."""

    @abstractmethod
    def update(
        self,
        table: Table[Any],
        parameters: Any,
        gradient: Any,
        state: tuple[Any, ...],
        numbers: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        """One step.

        Parameters
        ----------
        table
            What computes.
        parameters
            Of any shape.
        gradient
            Of what is to become small; of the same shape.
        state
            What was kept from the step before, as many tensors as `kept` says.
        numbers
            A tensor of `numbers` of this step.

        Returns
        -------
        parameters : tensor
            The new ones.
        state : tuple of tensors
            To be kept for the next step.
        """


@dataclass(frozen=True)
class NormalizedGradientDescent(Optimizer):
    """A step along each picture's gradient, divided by its root mean square.

    So the rate is how far a number goes at a step, in the mean, whatever the scale of the
    objective: the usual way of optimising pictures, as in Mordvintsev et al., 2015.
    """

    rate: float = 0.01

    @property
    def kept(self) -> int:
        """Nothing."""
        return 0

    def update(
        self,
        table: Table[Any],
        parameters: Any,
        gradient: Any,
        state: tuple[Any, ...],
        numbers: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        """As for every `Optimizer`; the first axis of the parameters goes over pictures."""
        step = table.multiply(_number(table, numbers, 0), _normalized(table, gradient))
        return table.subtract(parameters, step), state


@dataclass(frozen=True)
class NormalizedMomentum(NormalizedGradientDescent):
    """Gradient descent that goes on in the direction it came from.

    Where the gradient stays the same, steps grow to ``1 / (1 - momentum)`` times the rate.

    Parameters
    ----------
    momentum
        What is kept of each step for the next, in [0, 1).

    References
    ----------
    Polyak, 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("momentum", self.momentum)

    @property
    def kept(self) -> int:
        """The velocity."""
        return 1

    def update(
        self,
        table: Table[Any],
        parameters: Any,
        gradient: Any,
        state: tuple[Any, ...],
        numbers: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        """As for every `Optimizer`; the first axis of the parameters goes over pictures."""
        (velocity,) = state
        velocity = table.add(
            table.multiply(velocity, table.asarray(self.momentum)), _normalized(table, gradient)
        )
        step = table.multiply(_number(table, numbers, 0), velocity)
        return table.subtract(parameters, step), (velocity,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """A step of about the rate along each number's mean gradient, by its own mean square.

    Parameters
    ----------
    beta1, beta2
        What is kept of the mean gradient and of its mean square at each step, in [0, 1).
    epsilon
        Added to the root of the mean square, greater than 0.

    References
    ----------
    Kingma and Ba, 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.
    """

    rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("beta1", self.beta1)
        _check_decay("beta2", self.beta2)
        _check_positive("epsilon", self.epsilon)

    @property
    def kept(self) -> int:
        """The mean gradient and its mean square."""
        return 2

    def numbers(self, step: int, steps: int, *, begun: int = 0) -> npt.NDArray[np.float32]:
        """The rate, and what undoes that both means began at 0."""
        taken = step - begun + 1
        corrections = [1 / (1 - beta**taken) for beta in (self.beta1, self.beta2)]
        return np.asarray([self.learning_rate_at(step, steps), *corrections], np.float32)

    def update(
        self,
        table: Table[Any],
        parameters: Any,
        gradient: Any,
        state: tuple[Any, ...],
        numbers: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        """As for every `Optimizer`."""
        mean, square = state
        mean = _moving(table, mean, gradient, self.beta1)
        square = _moving(table, square, table.multiply(gradient, gradient), self.beta2)
        rate, of_mean, of_square = (_number(table, numbers, index) for index in range(3))
        root = table.sqrt(table.multiply(square, of_square))
        root = table.add(root, table.asarray(self.epsilon))
        step = table.divide(table.multiply(mean, of_mean), root)
        return table.subtract(parameters, table.multiply(rate, step)), (mean, square)


_OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {
        "adam": Adam,
        "normalized_gradient_descent": NormalizedGradientDescent,
        "normalized_momentum": NormalizedMomentum,
    }
)


def find_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """The optimiser of a name, with its usual settings, or the one that is given.

    Raises
    ------
    UnknownNameError
        If there is none of that name.

    Examples
    --------
    >>> from transferkit.training import find_optimizer
    >>> find_optimizer("adam").rate
    0.05
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer not in _OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, _OPTIMIZERS)
    return _OPTIMIZERS[optimizer]()  # type: ignore[call-arg]


def _number(table: Table[Any], numbers: Any, index: int) -> Any:
    """One of a step's numbers, of shape (1,)."""
    return table.slice(numbers, axis=0, start=index, stop=index + 1)


def _normalized(table: Table[Any], gradient: Any) -> Any:
    axes = tuple(range(1, len(gradient.shape)))
    mean_square = table.mean(table.multiply(gradient, gradient), axes=axes, keepdims=True)
    root = table.sqrt(table.add(mean_square, table.asarray(_SMALLEST_MEAN_SQUARE)))
    return table.divide(gradient, root)


def _moving(table: Table[Any], mean: Any, value: Any, decay: float) -> Any:
    """A moving mean, one value further."""
    return table.add(
        table.multiply(mean, table.asarray(decay)),
        table.multiply(value, table.asarray(1 - decay)),
    )


def _check_positive(name: str, value: object) -> None:
    if not _is_number(value) or not 0 < value < math.inf:
        raise ParameterError(f"{name} is {value!r}; it must be a finite number greater than 0")


def _check_decay(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {value!r}; it must be in [0, 1)")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)
