"""Optimizers, written once over the table, since the frameworks' own differ in their defaults.

An optimizer is immutable. Its state, the slots, are tensors that each update takes and returns:
they stay on the device, and one optimizer can serve several runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import NotFiniteError, ParameterError, UnknownNameError, shorten
from transferkit.support.validation import check_positive, is_number
from transferkit.training.averages import moving_average
from transferkit.training.schedules import Schedule, find_schedule

__all__ = [
    "Adam",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "find_optimizer",
]

# Prevents a division by 0 for an image whose gradient is 0 everywhere.
_MIN_MEAN_SQUARE = 1e-24


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule that updates parameters with the gradient of a loss, so that the loss decreases.

    Parameters
    ----------
    learning_rate
        The step size, greater than 0. Its unit depends on the optimizer.
    schedule
        One of `SCHEDULES`, or a function from the fraction of the steps already taken, in
        [0, 1), to a factor of the learning rate.

    Raises
    ------
    UnknownNameError
        If no schedule has that name.
    ParameterError
        If a value is of the wrong type or out of range.
    """

    learning_rate: float
    schedule: str | Schedule = "constant"

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        find_schedule(self.schedule)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step
            The index of the step, from 0.
        steps
            The number of steps of the run.

        Raises
        ------
        NotFiniteError
            If the schedule makes the learning rate infinite or NaN.
        """
        learning_rate = self.learning_rate * find_schedule(self.schedule)(step / steps)
        if not math.isfinite(learning_rate):
            raise NotFiniteError(
                f"the schedule makes the learning rate {learning_rate} at step {step} (counted "
                "from 0); expected a finite number"
            )
        return learning_rate

    def coefficients(
        self,
        step: int,
        steps: int,
        *,
        reset_at: int = 0,  # noqa: ARG002 - for optimizers with slots
    ) -> npt.NDArray[np.float32]:
        """Return the numbers that `update` needs at a step.

        Parameters
        ----------
        step
            The index of the step, from 0.
        steps
            The number of steps of the run.
        reset_at
            The step at which the slots were last 0.

        Returns
        -------
        array
            (k,); the learning rate is first.

        Raises
        ------
        NotFiniteError
            If the schedule makes the learning rate infinite or NaN.
        """
        return np.asarray([self.learning_rate_at(step, steps)], np.float32)

    @property
    @abstractmethod
    def num_slots(self) -> int:
        """The number of slots: tensors of the parameters' shape, 0 before the first step."""

    @abstractmethod
    def direction(
        self, table: Table[Any], gradient: Any, slots: tuple[Any, ...], coefficients: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the step for a learning rate of 1, which is subtracted from the parameters.

        Parameters
        ----------
        table
            The primitives.
        gradient
            The gradient of the loss: a tensor of the parameters' shape.
        slots
            The slots after the step before, as many as `num_slots`.
        coefficients
            The `coefficients` of this step as a tensor.

        Returns
        -------
        direction : tensor
            Of the parameters' shape.
        slots : tuple of tensors
            The slots after this step.
        """

    def update(
        self,
        table: Table[Any],
        parameters: Any,
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the parameters and the slots after one step.

        Parameters
        ----------
        table
            The primitives.
        parameters
            A tensor of any shape.
        gradient
            The gradient of the loss: a tensor of the same shape.
        slots
            The slots after the step before, as many as `num_slots`.
        coefficients
            The `coefficients` of this step as a tensor.

        Returns
        -------
        parameters : tensor
            The parameters after this step.
        slots : tuple of tensors
            The slots after this step.
        """
        direction, slots = self.direction(table, gradient, slots, coefficients)
        step = table.multiply(_coefficient(table, coefficients, 0), direction)
        return table.subtract(parameters, step), slots


@dataclass(frozen=True)
class NormalizedGradientDescent(Optimizer):
    """Gradient descent in which each image's gradient is divided by its root mean square (RMS).

    The learning rate is therefore the RMS change of an image's parameters in one step, whatever
    the scale of the loss, as is usual for the optimization of images (Mordvintsev et al., 2015).
    The first axis of the parameters is the images.
    """

    learning_rate: float = 0.01

    @property
    def num_slots(self) -> int:
        """0."""
        return 0

    def direction(
        self,
        table: Table[Any],
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,  # noqa: ARG002
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the normalized gradient; see `Optimizer.direction`."""
        return _divide_by_rms(table, gradient), slots


@dataclass(frozen=True)
class NormalizedMomentum(NormalizedGradientDescent):
    """Gradient descent with momentum; each image's gradient is divided by its RMS first.

    While the gradient stays the same, steps grow to ``1 / (1 - momentum)`` times the learning
    rate. The first axis of the parameters is the images.

    Parameters
    ----------
    momentum
        The decay of the velocity at each step, in [0, 1).

    References
    ----------
    Polyak, 1964, "Some methods of speeding up the convergence of iteration methods".
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("momentum", self.momentum)

    @property
    def num_slots(self) -> int:
        """1: the velocity."""
        return 1

    def direction(
        self,
        table: Table[Any],
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,  # noqa: ARG002
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the velocity; see `Optimizer.direction`."""
        (velocity,) = slots
        velocity = table.add(
            table.multiply(velocity, table.asarray(self.momentum)), _divide_by_rms(table, gradient)
        )
        return velocity, (velocity,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: steps along the average gradient, divided by the root of the average squared gradient.

    Parameters
    ----------
    beta1, beta2
        The decays of the moving averages of the gradient and of its square, in [0, 1).
    epsilon
        Added to the root of the average squared gradient, greater than 0.

    References
    ----------
    Kingma and Ba, 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.
    """

    learning_rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("beta1", self.beta1)
        _check_decay("beta2", self.beta2)
        check_positive("epsilon", self.epsilon)

    @property
    def num_slots(self) -> int:
        """2: the moving averages of the gradient and of its square."""
        return 2

    def coefficients(self, step: int, steps: int, *, reset_at: int = 0) -> npt.NDArray[np.float32]:
        """Return the learning rate and both bias corrections; see `Optimizer.coefficients`."""
        count = step - reset_at + 1
        corrections = [1 / (1 - beta**count) for beta in (self.beta1, self.beta2)]
        return np.asarray([self.learning_rate_at(step, steps), *corrections], np.float32)

    def direction(
        self, table: Table[Any], gradient: Any, slots: tuple[Any, ...], coefficients: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the bias-corrected step for a learning rate of 1; see `Optimizer.direction`."""
        mean, square = slots
        mean = moving_average(table, mean, gradient, self.beta1)
        square = moving_average(table, square, table.multiply(gradient, gradient), self.beta2)
        mean_correction = _coefficient(table, coefficients, 1)
        square_correction = _coefficient(table, coefficients, 2)
        root = table.sqrt(table.multiply(square, square_correction))
        root = table.add(root, table.asarray(self.epsilon))
        return table.divide(table.multiply(mean, mean_correction), root), (mean, square)


_OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {
        "adam": Adam,
        "normalized_gradient_descent": NormalizedGradientDescent,
        "normalized_momentum": NormalizedMomentum,
    }
)


def find_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer with a name and default settings, or the given optimizer.

    Raises
    ------
    UnknownNameError
        If no optimizer has that name.

    Examples
    --------
    >>> from transferkit.training import find_optimizer
    >>> find_optimizer("adam").learning_rate
    0.05
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer not in _OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, _OPTIMIZERS)
    return _OPTIMIZERS[optimizer]()  # type: ignore[call-arg]


def _coefficient(table: Table[Any], coefficients: Any, index: int) -> Any:
    """Return one of a step's coefficients, of shape (1,)."""
    return table.slice(coefficients, axis=0, start=index, stop=index + 1)


def _divide_by_rms(table: Table[Any], gradient: Any) -> Any:
    """Return the gradient (n, ...) of each image, divided by its root mean square."""
    axes = tuple(range(1, len(gradient.shape)))
    mean_square = table.mean(table.multiply(gradient, gradient), axes=axes, keepdims=True)
    rms = table.sqrt(table.add(mean_square, table.asarray(_MIN_MEAN_SQUARE)))
    return table.divide(gradient, rms)


def _check_decay(name: str, value: object) -> None:
    if not is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in [0, 1)")
