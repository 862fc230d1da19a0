"""Checks of parameters that are numbers or booleans."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

import numpy as np

from transferkit.errors import ParameterError, shorten

__all__ = ["check_bool", "check_integer", "check_non_negative", "check_positive", "is_number"]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number; a bool is not.

    Examples
    --------
    >>> from transferkit.support.validation import is_number
    >>> is_number(0.5), is_number(True), is_number("0.5")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_bool(name: str, value: object) -> bool:
    """Return a parameter that is True or False, of Python or NumPy, as a bool.

    Raises
    ------
    ParameterError
        If it is neither.

    Examples
    --------
    >>> from transferkit.support.validation import check_bool
    >>> check_bool("crop", 1)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: crop is 1; expected True or False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ParameterError(f"{name} is {shorten(value)}; expected True or False")
    return bool(value)


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return a parameter that is an integer in a range, as an int.

    Parameters
    ----------
    name
        The name of the parameter, for the message.
    value
        Its value.
    minimum
        The smallest allowed value.
    maximum
        The largest allowed value; None: there is none.

    Raises
    ------
    ParameterError
        If the value is not an integer, or not in the range.

    Examples
    --------
    >>> from transferkit.support.validation import check_integer
    >>> check_integer("steps", 0, 1)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: steps is 0; expected an integer of at least 1
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or int(value) < minimum
        or (maximum is not None and int(value) > maximum)
    ):
        expected = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum:,}"
        raise ParameterError(f"{name} is {shorten(value)}; expected an integer {expected}")
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
