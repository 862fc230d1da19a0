"""Exponential moving averages over tensors."""

from __future__ import annotations

from typing import Any

from transferkit.backends.base import Table
from transferkit.support.validation import is_number

__all__ = ["moving_average"]


def moving_average(table: Table[Any], average: Any, value: Any, decay: float | Any) -> Any:
    """Return an exponential moving average, updated with one value.

    Parameters
    ----------
    table
        The primitives.
    average
        The average before: a tensor of any shape.
    value
        The new value: a tensor of the same shape.
    decay
        The weight of the old average, in [0, 1]; the new value has ``1 - decay``. A number, or a
        tensor that is broadcast, such as one weight per image.

    Returns
    -------
    tensor
        ``decay * average + (1 - decay) * value``.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing import ReferenceTable
    >>> from transferkit.training import moving_average
    >>> moving_average(ReferenceTable(), np.array([1.0]), np.array([2.0]), 0.75)
    array([1.25])
    """
    if is_number(decay):
        # Subtracted in double precision.
        weight, complement = table.asarray(decay), table.asarray(1 - decay)
    else:
        weight, complement = decay, table.subtract(table.asarray(1.0), decay)
    return table.add(table.multiply(average, weight), table.multiply(value, complement))
