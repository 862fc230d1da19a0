"""What training and optimising have in common: optimisers and their schedules."""

from transferkit.training.optimizers import (
    SCHEDULES,
    Adam,
    NormalizedGradientDescent,
    NormalizedMomentum,
    Optimizer,
    find_optimizer,
)

__all__ = [
    "SCHEDULES",
    "Adam",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "find_optimizer",
]
