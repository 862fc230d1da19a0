"""Training: optimizers, schedules, moving averages, histories, the learning rate range test."""

from transferkit.training.averages import moving_average
from transferkit.training.history import Candidate, EpochRecord, History, StepRecord, Trial
from transferkit.training.learning_rate_range import LearningRateRange, geometric_learning_rates
from transferkit.training.optimizers import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    NormalizedGradientDescent,
    NormalizedMomentum,
    Optimizer,
    RMSprop,
    WeightDecayOptimizer,
    find_optimizer,
)
from transferkit.training.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Schedule,
    Step,
    Warmup,
    find_schedule,
)

__all__ = [
    "SCHEDULES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Candidate",
    "Constant",
    "Cosine",
    "EpochRecord",
    "Exponential",
    "History",
    "LearningRateRange",
    "Linear",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "Step",
    "StepRecord",
    "Trial",
    "Warmup",
    "WeightDecayOptimizer",
    "find_optimizer",
    "find_schedule",
    "geometric_learning_rates",
    "moving_average",
]
