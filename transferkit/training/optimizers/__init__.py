"""Optimizers, written once over the table, since the frameworks' own differ in their defaults.

An optimizer is immutable. Its state, the slots, are tensors that each update takes and returns:
they stay on the device, and one optimizer can serve several runs. Training and the optimization of
images share them; the normalized ones are for images alone.
"""

from transferkit.training.optimizers.adagrad import Adagrad
from transferkit.training.optimizers.adam import Adam, AdamW
from transferkit.training.optimizers.base import Optimizer
from transferkit.training.optimizers.catalog import find_optimizer
from transferkit.training.optimizers.normalized import (
    NormalizedGradientDescent,
    NormalizedMomentum,
)
from transferkit.training.optimizers.rmsprop import RMSprop
from transferkit.training.optimizers.sgd import SGD
from transferkit.training.optimizers.weight_decay import WeightDecayOptimizer

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "NormalizedGradientDescent",
    "NormalizedMomentum",
    "Optimizer",
    "RMSprop",
    "WeightDecayOptimizer",
    "find_optimizer",
]
