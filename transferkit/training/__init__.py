"""Training: optimizers, schedules, moving averages, histories, the learning rate range test."""

from transferkit.training.averages import moving_average
from transferkit.training.history import Candidate, EpochRecord, History, StepRecord, Trial
from transferkit.training.learning_rate_range import LearningRateRange, geometric_learning_rates
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
    "Candidate",
    "EpochRecord",
    "History",
    "LearningRateRange",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "Schedule",
    "StepRecord",
    "Trial",
    "find_optimizer",
    "geometric_learning_rates",
    "moving_average",
]
