"""Computations and checks that optimizers share."""

from __future__ import annotations

from typing import Any

from transferkit.backends.base import Table
from transferkit.errors import ParameterError, shorten
from transferkit.support.validation import is_number

__all__ = ["check_decay", "coefficient", "multiply_add"]


def coefficient(table: Table[Any], coefficients: Any, index: int) -> Any:
    """Return one of a step's coefficients.

    It has no axes, so that its product with parameters has their shape, even if they have none.
    """
    one = table.slice(coefficients, axis=0, start=index, stop=index + 1)
    return table.sum(one, axes=(0,))


def multiply_add(table: Table[Any], x: Any, factor: float, y: Any) -> Any:
    """Return ``factor * x + y``."""
    return table.add(table.multiply(x, table.asarray(factor)), y)


def check_decay(name: str, value: object) -> None:
    """Check the weight of a moving average's or a velocity's old value.

    Raises
    ------
    ParameterError
        If it is not a number in [0, 1).
    """
    if not is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in [0, 1)")
