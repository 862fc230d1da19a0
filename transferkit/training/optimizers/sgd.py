"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transferkit.backends.base import Table
from transferkit.errors import ParameterError
from transferkit.support.validation import check_bool
from transferkit.training.optimizers.terms import check_decay, multiply_add
from transferkit.training.optimizers.weight_decay import WeightDecayOptimizer

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD(WeightDecayOptimizer):
    """Stochastic gradient descent, with momentum.

    ``velocity = momentum * velocity + gradient``; the direction is the velocity or, with Nesterov's
    momentum, ``gradient + momentum * velocity``. This is PyTorch's form. In Keras and in the paper
    the gradients in the velocity are already multiplied by the learning rates of their steps,
    which is the same while the learning rate is constant.

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

    Examples
    --------
    >>> from transferkit.training import SGD
    >>> SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-4).num_slots
    1
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay("momentum", self.momentum)
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
        velocity = multiply_add(table, slots[0], self.momentum, gradient)
        if self.nesterov:
            return multiply_add(table, velocity, self.momentum, gradient), (velocity,)
        return velocity, (velocity,)
