"""The optimizers that can be selected by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from transferkit.errors import UnknownNameError
from transferkit.training.optimizers.adagrad import Adagrad
from transferkit.training.optimizers.adam import Adam, AdamW
from transferkit.training.optimizers.base import Optimizer
from transferkit.training.optimizers.normalized import (
    NormalizedGradientDescent,
    NormalizedMomentum,
)
from transferkit.training.optimizers.rmsprop import RMSprop
from transferkit.training.optimizers.sgd import SGD

__all__ = ["find_optimizer"]

_OPTIMIZERS: Mapping[str, Callable[[], Optimizer]] = MappingProxyType(
    {
        "adagrad": Adagrad,
        "adam": Adam,
        "adamw": AdamW,
        "normalized_gradient_descent": NormalizedGradientDescent,
        "normalized_momentum": NormalizedMomentum,
        "rmsprop": RMSprop,
        "sgd": SGD,
    }
)


def find_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """Return the optimizer with a name and default settings, or the given optimizer.

    Parameters
    ----------
    optimizer
        ``"adagrad"``, ``"adam"``, ``"adamw"``, ``"normalized_gradient_descent"``,
        ``"normalized_momentum"``, ``"rmsprop"``, ``"sgd"``, or an optimizer. The learning rate of
        ``"adam"`` is for the optimization of images.

    Raises
    ------
    UnknownNameError
        If no optimizer has that name.

    Examples
    --------
    The settings of an optimizer are replaced as those of any dataclass:

    >>> from dataclasses import replace
    >>> from transferkit.training import find_optimizer
    >>> replace(find_optimizer("adam"), learning_rate=0.001, schedule="cosine").learning_rate
    0.001
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer not in _OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, _OPTIMIZERS)
    return _OPTIMIZERS[optimizer]()
