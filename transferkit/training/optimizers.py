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
from transferkit.support.validation import (
    check_bool,
    check_non_negative,
    check_positive,
    is_number,
)
from transferkit.training.averages import moving_average
from transferkit.training.schedules import Schedule, find_schedule

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "RMSprop",
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
    ) -> npt.NDArray[np.float64]:
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
        return np.asarray([self.learning_rate_at(step, steps)], np.float64)

    @property
    def decay(self) -> float:
        """The weight decay; 0 for an optimizer without one."""
        return 0.0

    @property
    def is_decay_decoupled(self) -> bool:
        """Whether the decay is added to the step instead of to the gradient."""
        return False

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
        *,
        learning_rate_factor: float = 1.0,
        decays: bool = True,
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
        learning_rate_factor
            A factor of the learning rate of these parameters.
        decays
            Whether the weight decay of the optimizer, if it has one, applies to them.

        Returns
        -------
        parameters : tensor
            The parameters after this step.
        slots : tuple of tensors
            The slots after this step.
        """
        penalty = None
        if decays and self.decay:
            penalty = table.multiply(parameters, table.asarray(self.decay))
        if penalty is not None and not self.is_decay_decoupled:
            gradient = table.add(gradient, penalty)
        direction, slots = self.direction(table, gradient, slots, coefficients)
        if penalty is not None and self.is_decay_decoupled:
            direction = table.add(direction, penalty)
        learning_rate = _coefficient(table, coefficients, 0)
        if learning_rate_factor != 1.0:
            learning_rate = table.multiply(learning_rate, table.asarray(learning_rate_factor))
        return table.subtract(parameters, table.multiply(learning_rate, direction)), slots


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
        velocity = _accelerate(table, velocity, _divide_by_rms(table, gradient), self.momentum)
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

    def coefficients(self, step: int, steps: int, *, reset_at: int = 0) -> npt.NDArray[np.float64]:
        """Return the learning rate and both bias corrections; see `Optimizer.coefficients`."""
        count = step - reset_at + 1
        corrections = [1 / (1 - beta**count) for beta in (self.beta1, self.beta2)]
        return np.asarray([self.learning_rate_at(step, steps), *corrections], np.float64)

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


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay.

    The step of Adam for a learning rate of 1 plus ``weight_decay`` times the parameters is
    multiplied by the learning rate and subtracted.

    Parameters
    ----------
    weight_decay
        At least 0.

    References
    ----------
    Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization", algorithm 2.
    """

    learning_rate: float = 0.001
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("weight_decay", self.weight_decay)

    @property
    def decay(self) -> float:
        """The weight decay."""
        return self.weight_decay

    @property
    def is_decay_decoupled(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class _WithPenalty(Optimizer):
    """An optimizer whose weight decay is the gradient of a squared norm, as in PyTorch.

    Parameters
    ----------
    weight_decay
        At least 0; ``weight_decay`` times the parameters is added to the gradient.
    """

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("weight_decay", self.weight_decay)

    @property
    def decay(self) -> float:
        """The weight decay."""
        return self.weight_decay


@dataclass(frozen=True)
class SGD(_WithPenalty):
    """Stochastic gradient descent, with momentum.

    ``velocity = momentum * velocity + gradient``; the step is the learning rate times the
    velocity or, with Nesterov's momentum, times ``gradient + momentum * velocity``. This is
    PyTorch's form. Keras multiplies by the learning rate before the velocity, which differs while
    the learning rate changes.

    Parameters
    ----------
    momentum
        In [0, 1).
    nesterov
        Whether the momentum is Nesterov's.

    References
    ----------
    Sutskever et al., 2013, "On the importance of initialization and momentum in deep learning",
    equations 1 to 4.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("momentum", self.momentum)
        check_bool("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ParameterError("nesterov is True, but momentum is 0; set momentum, such as 0.9")

    @property
    def num_slots(self) -> int:
        """1, the velocity, with momentum."""
        return int(self.momentum > 0)

    def direction(
        self,
        table: Table[Any],
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,  # noqa: ARG002
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the velocity, or the gradient; see `Optimizer.direction`."""
        if not slots:
            return gradient, slots
        velocity = _accelerate(table, slots[0], gradient, self.momentum)
        if self.nesterov:
            return _accelerate(table, velocity, gradient, self.momentum), (velocity,)
        return velocity, (velocity,)


@dataclass(frozen=True)
class RMSprop(_WithPenalty):
    """Steps along the gradient divided by the root of its average square.

    ``square = rho * square + (1 - rho) * gradient ** 2``; the direction is
    ``gradient / (sqrt(square) + epsilon)``, as in PyTorch. Keras adds epsilon before the root.

    Parameters
    ----------
    rho
        The decay of the average square, in [0, 1).
    epsilon
        Greater than 0.
    momentum
        In [0, 1); with it, the step is along a velocity of these directions.
    centered
        Whether the square of the average gradient is subtracted from the average square.

    References
    ----------
    Hinton, 2012, "Neural Networks for Machine Learning", lecture 6e; Graves, 2013, "Generating
    Sequences With Recurrent Neural Networks", equations 38 to 41, for the centered form.
    """

    learning_rate: float = 0.001
    rho: float = 0.9
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("rho", self.rho)
        _check_decay("momentum", self.momentum)
        check_positive("epsilon", self.epsilon)
        check_bool("centered", self.centered)

    @property
    def num_slots(self) -> int:
        """The average square, and with these settings the average gradient and the velocity."""
        return 1 + int(self.centered) + int(self.momentum > 0)

    def direction(
        self,
        table: Table[Any],
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,  # noqa: ARG002
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the divided gradient, or its velocity; see `Optimizer.direction`."""
        square = moving_average(table, slots[0], table.multiply(gradient, gradient), self.rho)
        after = [square]
        if self.centered:
            mean = moving_average(table, slots[1], gradient, self.rho)
            after.append(mean)
            square = table.subtract(square, table.multiply(mean, mean))
        root = table.add(table.sqrt(square), table.asarray(self.epsilon))
        direction = table.divide(gradient, root)
        if self.momentum:
            direction = _accelerate(table, slots[-1], direction, self.momentum)
            after.append(direction)
        return direction, tuple(after)


@dataclass(frozen=True)
class Adagrad(_WithPenalty):
    """Steps along the gradient divided by the root of the sum of all its squares.

    ``gradient / (sqrt(sum of squares) + epsilon)``, where the sum begins at 0, as in PyTorch.
    Keras adds epsilon before the root, and its sum begins at 0.1 by default.

    Parameters
    ----------
    epsilon
        Greater than 0.

    References
    ----------
    Duchi et al., 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", equation 1 with a diagonal matrix.
    """

    learning_rate: float = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("epsilon", self.epsilon)

    @property
    def num_slots(self) -> int:
        """1: the sum of squares."""
        return 1

    def direction(
        self,
        table: Table[Any],
        gradient: Any,
        slots: tuple[Any, ...],
        coefficients: Any,  # noqa: ARG002
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the divided gradient; see `Optimizer.direction`."""
        total = table.add(slots[0], table.multiply(gradient, gradient))
        root = table.add(table.sqrt(total), table.asarray(self.epsilon))
        return table.divide(gradient, root), (total,)


_OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType(
    {
        "adagrad": Adagrad,
        "adam": Adam,
        "adamw": AdamW,
        "normalized_gradient_descent": NormalizedGradientDescent,
        "normalized_momentum": NormalizedMomentum,
        "rmsprop": RMSprop,
        "sgd": SGD,
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


def _accelerate(table: Table[Any], velocity: Any, direction: Any, momentum: float) -> Any:
    """Return ``momentum * velocity + direction``."""
    return table.add(table.multiply(velocity, table.asarray(momentum)), direction)


def _divide_by_rms(table: Table[Any], gradient: Any) -> Any:
    """Return the gradient (n, ...) of each image, divided by its root mean square."""
    axes = tuple(range(1, len(gradient.shape)))
    mean_square = table.mean(table.multiply(gradient, gradient), axes=axes, keepdims=True)
    rms = table.sqrt(table.add(mean_square, table.asarray(_MIN_MEAN_SQUARE)))
    return table.divide(gradient, rms)


def _check_decay(name: str, value: object) -> None:
    if not is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in [0, 1)")
