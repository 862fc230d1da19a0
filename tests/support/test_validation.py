from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from transferkit.errors import ParameterError
from transferkit.support.validation import (
    check_bool,
    check_integer,
    check_non_negative,
    check_positive,
    is_number,
)


def test_numbers_of_every_type_are_numbers() -> None:
    for value in (1, 0.5, Fraction(1, 2), np.float32(0.5), np.int64(1)):
        assert is_number(value)
    for value in (True, "1", None, 1j, np.ones(1)):
        assert not is_number(value)


def test_integer_is_returned_as_an_int() -> None:
    assert type(check_integer("steps", np.int64(3), 1)) is int
    assert check_integer("steps", 1, 1) == 1


@pytest.mark.parametrize("value", [0, True, 1.0, "1", None])
def test_integer_below_the_minimum_or_of_another_type_is_rejected(value: Any) -> None:
    with pytest.raises(ParameterError, match=r"steps is .*; expected an integer of at least 1$"):
        check_integer("steps", value, 1)


def test_integer_above_the_maximum_is_rejected() -> None:
    assert check_integer("size", 10_000, 1, 10_000) == 10_000
    with pytest.raises(ParameterError, match=r"size is 10001; .* from 1 to 10,000$"):
        check_integer("size", 10_001, 1, 10_000)


def test_bool_of_python_and_numpy_is_returned_as_a_bool() -> None:
    assert check_bool("crop", np.bool_(True)) is True
    assert check_bool("crop", False) is False
    for value in (1, "True", None, np.ones(1, bool)):
        with pytest.raises(ParameterError, match=r"crop is .*; expected True or False$"):
            check_bool("crop", value)


def test_positive_and_non_negative_differ_in_zero() -> None:
    check_positive("x", 1e-9)
    check_non_negative("x", 0)
    with pytest.raises(ParameterError, match="x is 0; expected a finite number greater than 0"):
        check_positive("x", 0)
    with pytest.raises(ParameterError, match="x is -1; expected a finite number of at least 0"):
        check_non_negative("x", -1)


@pytest.mark.parametrize("check", [check_positive, check_non_negative])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, None])
def test_what_is_not_a_finite_number_is_rejected(check: Any, value: Any) -> None:
    with pytest.raises(ParameterError, match="x is"):
        check("x", value)
