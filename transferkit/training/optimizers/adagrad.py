"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transferkit.backends.base import Table
from transferkit.support.validation import check_positive
from transferkit.training.optimizers.weight_decay import WeightDecayOptimizer

__all__ = ["Adagrad"]


@dataclass(frozen=True)
class Adagrad(WeightDecayOptimizer):
    """Steps along the gradient divided by the root of the sum of all its squares.

    ``total = total + gradient**2``; the direction is ``gradient / (sqrt(total) + epsilon)``, where
    the total is 0 before the first step, as in PyTorch. Keras divides by
    ``sqrt(total + epsilon)``, and its total is ``initial_accumulator_value`` before the first
    step, by default 0.1.

    Parameters
    ----------
    epsilon
        Greater than 0.

    References
    ----------
    Duchi et al., 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", equation 1 with a diagonal matrix.

    Examples
    --------
    >>> from transferkit.training import Adagrad
    >>> Adagrad(learning_rate=0.05).num_slots
    1
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
