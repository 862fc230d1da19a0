"""Gradient descent with gradients that are normalized for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transferkit.backends.base import Table
from transferkit.training.optimizers.base import Optimizer
from transferkit.training.optimizers.terms import check_decay, multiply_add

__all__ = ["NormalizedGradientDescent", "NormalizedMomentum"]

# Prevents a division by 0 for an image whose gradient is 0 everywhere.
_MIN_MEAN_SQUARE = 1e-24


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
        check_decay("momentum", self.momentum)

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
        velocity = multiply_add(table, velocity, self.momentum, _divide_by_rms(table, gradient))
        return velocity, (velocity,)


def _divide_by_rms(table: Table[Any], gradient: Any) -> Any:
    """Return the gradient (n, ...) of each image, divided by its root mean square."""
    axes = tuple(range(1, len(gradient.shape)))
    mean_square = table.mean(table.multiply(gradient, gradient), axes=axes, keepdims=True)
    rms = table.sqrt(table.add(mean_square, table.asarray(_MIN_MEAN_SQUARE)))
    return table.divide(gradient, rms)
