"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.support.validation import check_positive
from transferkit.training.averages import moving_average
from transferkit.training.optimizers.base import Optimizer
from transferkit.training.optimizers.terms import check_decay, coefficient
from transferkit.training.optimizers.weight_decay import WeightDecayOptimizer

__all__ = ["Adam", "AdamW"]


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: steps along the average gradient, divided by the root of the average squared gradient.

    With the moving averages ``mean`` and ``square`` after step t, counted from 1, the direction is
    ``mean / (1 - beta1**t) / (sqrt(square / (1 - beta2**t)) + epsilon)``, as in PyTorch. In Keras,
    epsilon is that of section 2 of the paper, which is ``sqrt(1 - beta2**t)`` times this one.
    There is no weight decay; see `AdamW`.

    Parameters
    ----------
    beta1, beta2
        The decays of the moving averages of the gradient and of its square, in [0, 1).
    epsilon
        Added to the root of the average squared gradient, greater than 0.

    References
    ----------
    Kingma and Ba, 2015, "Adam: A Method for Stochastic Optimization", algorithm 1.

    Examples
    --------
    >>> from transferkit.training import Adam
    >>> Adam(learning_rate=0.001).coefficients(0, 100).round(3)
    array([1.e-03, 1.e+01, 1.e+03])
    """

    learning_rate: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay("beta1", self.beta1)
        check_decay("beta2", self.beta2)
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
        mean_correction = coefficient(table, coefficients, 1)
        square_correction = coefficient(table, coefficients, 2)
        root = table.sqrt(table.multiply(square, square_correction))
        root = table.add(root, table.asarray(self.epsilon))
        return table.divide(table.multiply(mean, mean_correction), root), (mean, square)


@dataclass(frozen=True)
class AdamW(Adam, WeightDecayOptimizer):
    """Adam with decoupled weight decay.

    ``learning_rate * (direction + weight_decay * parameters)`` is subtracted from the parameters,
    where ``direction`` is that of Adam, as in PyTorch and Keras. The decay of the paper is
    ``weight_decay`` times the learning rate before the schedule.

    References
    ----------
    Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    Examples
    --------
    >>> from transferkit.training import AdamW
    >>> AdamW(schedule="cosine", weight_decay=0.05).learning_rate_at(50, 100)
    0.0005
    """

    is_decay_decoupled: ClassVar[bool] = True

    learning_rate: float = 0.001
    weight_decay: float = field(default=0.01, kw_only=True)
