"""Optimizers with weight decay."""

from __future__ import annotations

from dataclasses import dataclass, field

from transferkit.support.validation import check_non_negative
from transferkit.training.optimizers.base import Optimizer

__all__ = ["WeightDecayOptimizer"]


@dataclass(frozen=True)
class WeightDecayOptimizer(Optimizer):
    """An optimizer with weight decay, which `Optimizer.update` applies.

    ``weight_decay * parameters`` is added to the gradient, as in PyTorch: it is the gradient of
    ``weight_decay / 2`` times the sum of the squared parameters (Krogh and Hertz, 1991, "A Simple
    Weight Decay Can Improve Generalization", equation 1). With ``is_decay_decoupled`` it is added
    to the direction instead, and so is multiplied by the learning rate alone. Keras's
    ``weight_decay`` is decoupled in all of its optimizers.

    Parameters
    ----------
    weight_decay
        At least 0; by keyword only.
    """

    weight_decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("weight_decay", self.weight_decay)
