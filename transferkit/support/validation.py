"""Checks of parameters that are numbers."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from transferkit.errors import ParameterError, shorten

__all__ = ["check_integer", "check_non_negative", "check_positive", "is_number"]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number; a bool is not.

    Examples
    --------
    >>> from transferkit.support.validation import is_number
    >>> is_number(0.5), is_number(True), is_number("0.5")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_integer(name: str, value: object, minimum: int) -> int:
    """Return a parameter that is an integer of at least a minimum, as an int.

    Parameters
    ----------
    name
        The name of the parameter, for the message.
    value
        Its value.
    minimum
        The smallest allowed value.

    Raises
    ------
    ParameterError
        If the value is not an integer, or too small.

    Examples
    --------
    >>> from transferkit.support.validation import check_integer
    >>> check_integer("steps", 0, 1)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: steps is 0; expected an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < minimum:
        raise ParameterError(
            f"{name} is {shorten(value)}; expected an integer of at least {minimum}"
        )
    return int(value)


def check_positive(name: str, value: object) -> None:
    """Check that a parameter is a finite number greater than 0.

    Raises
    ------
    ParameterError
        If it is not.

    Examples
    --------
    >>> from transferkit.support.validation import check_positive
    >>> check_positive("epsilon", 0.0)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: epsilon is 0.0; expected a finite number greater than 0
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ParameterError(f"{name} is {shorten(value)}; expected a finite number greater than 0")


def check_non_negative(name: str, value: object) -> None:
    """Check that a parameter is a finite number of at least 0.

    Raises
    ------
    ParameterError
        If it is not.

    Examples
    --------
    >>> from transferkit.support.validation import check_non_negative
    >>> check_non_negative("weight", -1.0)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: weight is -1.0; expected a finite number of at least 0
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise ParameterError(f"{name} is {shorten(value)}; expected a finite number of at least 0")
