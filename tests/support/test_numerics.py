"""Softmax and normalization in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from transferkit.support.numerics import as_array, l2_normalize, softmax


def test_tensors_and_data_frames_are_converted_to_arrays() -> None:
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    values = [0.5, 2.0]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.tensor(values, dtype=dtype, requires_grad=True)
        assert as_array(tensor).tolist() == values
        assert as_array(tensor, object).tolist() == values
    assert as_array(pandas.DataFrame({"x": values})).tolist() == values
    assert as_array(pandas.DataFrame({"x": values, "y": values})).shape == (2, 2)


def test_softmax_is_computed_in_float64_by_its_definition() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 7)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    result = softmax(logits)
    assert result.dtype == np.float64
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_softmax_of_large_logits_does_not_overflow() -> None:
    result = softmax(np.array([[1e30, -1e30], [3e38, 3e38]], np.float32))
    np.testing.assert_array_equal(result, [[1.0, 0.0], [0.5, 0.5]])


def test_rows_have_norm_one_after_normalization() -> None:
    x = np.random.default_rng(0).normal(0, 3, (5, 700)).astype(np.float32)
    result = l2_normalize(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(result * np.linalg.norm(x, axis=1, keepdims=True), x, rtol=1e-5)


def test_squares_do_not_overflow_and_zeros_stay_zero() -> None:
    x = np.array([[3e30, 4e30], [3e-20, 4e-20], [0, 0]], np.float32)
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
