"""RMSprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transferkit.backends.base import Table
from transferkit.support.validation import check_bool, check_positive
from transferkit.training.averages import moving_average
from transferkit.training.optimizers.terms import check_decay, multiply_add
from transferkit.training.optimizers.weight_decay import WeightDecayOptimizer

__all__ = ["RMSprop"]


@dataclass(frozen=True)
class RMSprop(WeightDecayOptimizer):
    """Steps along the gradient divided by the root of its average square.

    ``square = rho * square + (1 - rho) * gradient**2``; the direction is
    ``gradient / (sqrt(square) + epsilon)``, as in PyTorch. Keras divides by
    ``sqrt(square + epsilon)``, and the directions in its velocity are already multiplied by the
    learning rates of their steps.

    Parameters
    ----------
    rho
        The decay of the average square, in [0, 1); PyTorch's ``alpha``.
    epsilon
        Greater than 0.
    momentum
        In [0, 1); with it, the step is along a velocity of these directions.
    centered
        Whether the square of the average gradient is subtracted from the average square, so that
        the gradient is divided by its standard deviation. A gradient that stays the same then
        makes the step arbitrarily large.

    References
    ----------
    Hinton, 2012, "Neural Networks for Machine Learning", lecture 6e; Graves, 2013, "Generating
    Sequences With Recurrent Neural Networks", equations 38 to 41, for the centered form.

    Examples
    --------
    >>> from transferkit.training import RMSprop
    >>> RMSprop(0.001, momentum=0.9, centered=True).num_slots
    3
    """

    learning_rate: float = 0.001
    rho: float = 0.9
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay("rho", self.rho)
        check_decay("momentum", self.momentum)
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
            direction = multiply_add(table, slots[-1], self.momentum, direction)
            after.append(direction)
        return direction, tuple(after)
