"""Parts shared by training and image optimization: optimizers, schedules, moving averages."""

from transferkit.training.averages import moving_average
from transferkit.training.optimizers import (
    Adam,
    NormalizedGradientDescent,
    NormalizedMomentum,
    Optimizer,
    find_optimizer,
)
from transferkit.training.schedules import SCHEDULES, Schedule

__all__ = [
    "SCHEDULES",
    "Adam",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "Schedule",
    "find_optimizer",
    "moving_average",
]
