"""Conversion between 8 bits and floats."""

from __future__ import annotations

import numpy as np

from transferkit.images.conversion import to_float32, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def test_every_level_survives_a_round_trip() -> None:
    floats = to_float32(LEVELS)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, LEVELS.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(to_uint8(floats), LEVELS)
    np.testing.assert_array_equal(to_uint8(floats.astype(np.float64)), LEVELS)


def test_values_go_to_the_nearest_level() -> None:
    offsets = np.array([-0.49, 0.49])
    values = (LEVELS[1:-1, None] + offsets) / 255
    result = to_uint8(values)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, LEVELS[1:-1, None].repeat(2, axis=1))


def test_the_result_can_be_written_to_a_given_array() -> None:
    out = np.empty(256, np.float32)
    assert to_float32(LEVELS, out=out) is out
    np.testing.assert_array_equal(out, to_float32(LEVELS))


def test_floats_are_kept() -> None:
    floats = np.linspace(0, 1, 9, dtype=np.float32)
    assert to_float32(floats) is floats
    out = np.empty(9, np.float32)
    assert to_float32(floats, out=out) is out
    np.testing.assert_array_equal(out, floats)
