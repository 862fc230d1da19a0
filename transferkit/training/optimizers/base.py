"""The interface of an optimizer, and the update that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import NotFiniteError, ParameterError
from transferkit.support.validation import check_positive, is_number
from transferkit.training.optimizers.terms import coefficient
from transferkit.training.schedules import Schedule, find_schedule

__all__ = ["Optimizer"]


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule that updates parameters with the gradient of a loss, so that the loss decreases.

    Parameters
    ----------
    learning_rate
        The step size, greater than 0. Its unit depends on the optimizer.
    schedule
        One of `SCHEDULES`, or a function from the fraction of the steps already taken, in
        [0, 1), to a factor of the learning rate. A schedule that needs the number of epochs must
        have it; `find_schedule` sets it.

    Raises
    ------
    UnknownNameError
        If no schedule has that name.
    ParameterError
        If a value is of the wrong type or out of range.
    """

    learning_rate: float
    schedule: str | Schedule = "constant"

    is_decay_decoupled: ClassVar[bool] = False
    """Whether the weight decay is added to the direction instead of the gradient."""

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
        ParameterError
            If the schedule needs the number of epochs and does not have it, or makes the learning
            rate negative.
        """
        learning_rate = self.learning_rate * find_schedule(self.schedule)(step / steps)
        if not math.isfinite(learning_rate):
            raise NotFiniteError(
                f"the schedule makes the learning rate {learning_rate} at step {step} (counted "
                "from 0); expected a finite number"
            )
        if learning_rate < 0:
            raise ParameterError(
                f"the schedule makes the learning rate {learning_rate} at step {step} (counted "
                "from 0); expected a factor of at least 0"
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
        ParameterError
            If the schedule needs the number of epochs and does not have it, or makes the learning
            rate negative.
        """
        return np.asarray([self.learning_rate_at(step, steps)], np.float64)

    @property
    def weight_decay(self) -> float:
        """The weight decay; 0 for an optimizer without one."""
        return 0.0

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
        learning_rate_factor: float | Any = 1.0,
        decay_factor: float | Any = 1.0,
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
            A factor of the learning rate of these parameters, at least 0: a number, or a tensor
            with one for each of them.
        decay_factor
            The same for the weight decay of the optimizer, if it has one.

        Returns
        -------
        parameters : tensor
            The parameters after this step.
        slots : tuple of tensors
            The slots after this step.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit.testing import ReferenceTable
        >>> from transferkit.training import SGD
        >>> sgd, table = SGD(learning_rate=0.5), ReferenceTable()
        >>> weight, gradient = np.array([1.0, 2.0]), np.array([4.0, -4.0])
        >>> sgd.update(table, weight, gradient, (), sgd.coefficients(0, 10))
        (array([-1.,  4.]), ())
        >>> sgd.update(
        ...     table, weight, gradient, (), sgd.coefficients(0, 10), learning_rate_factor=0.1
        ... )
        (array([0.8, 2.2]), ())
        """
        decay: Any = None
        if self.weight_decay:
            decay = _product(table, table.asarray(self.weight_decay), decay_factor)
        if decay is not None and not self.is_decay_decoupled:
            gradient = table.add(table.multiply(parameters, decay), gradient)
        direction, slots = self.direction(table, gradient, slots, coefficients)
        if decay is not None and self.is_decay_decoupled:
            direction = table.add(table.multiply(parameters, decay), direction)
        learning_rate = _product(table, coefficient(table, coefficients, 0), learning_rate_factor)
        return table.subtract(parameters, table.multiply(learning_rate, direction)), slots


def _product(table: Table[Any], tensor: Any, factor: float | Any) -> Any:
    """Return the product of a tensor and a number or another tensor."""
    if is_number(factor):
        return tensor if factor == 1 else table.multiply(tensor, table.asarray(factor))
    return table.multiply(tensor, factor)
