"""Lengths, balls and steepest directions against their definitions in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.backends import Backend
from transferkit.optimization.attacks.norms import (
    NORMS,
    dual_length,
    length,
    lengths,
    movable,
    project,
    steepest,
)
from transferkit.optimization.attacks.rounding import is_any_level_reached, round_within
from transferkit.testing import ReferenceTable

TABLE = ReferenceTable()
_SEEDS = st.integers(0, 2**16)
_RADII = {"linf": 0.5, "l2": 2.0, "l1": 5.0, "l0": 7.0}


def _changes(seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(3, 4, 5, 3)) * generator.uniform(0.01, 2, (3, 1, 1, 1))


def _column(value: float) -> npt.NDArray[np.float64]:
    return np.full((3, 1, 1, 1), value)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS)
def test_length(norm: str, seed: int) -> None:
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    changes = _changes(seed)
    changes[:, 0] = 0
    expected = [np.linalg.norm(row.ravel(), ord=order) for row in changes]
    np.testing.assert_allclose(lengths(changes, norm), expected)
    np.testing.assert_allclose(length(TABLE, changes, norm).ravel(), expected)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS)
def test_projection_is_the_nearest_point_of_the_ball(norm: str, seed: int) -> None:
    changes, radius = _changes(seed), _RADII[norm]
    found = project(TABLE, changes, _column(radius), norm)
    assert (lengths(found, norm) <= radius * (1 + 1e-6)).all()
    inside = lengths(changes, norm) <= radius
    np.testing.assert_allclose(found[inside], changes[inside], atol=1e-12)
    # No other point of the ball is nearer: not those on the way, nor random ones.
    best = np.sqrt(((changes - found) ** 2).sum(axis=(1, 2, 3)))
    others = np.random.default_rng(seed).normal(size=(50, *changes.shape)) * 0.5
    others = np.concatenate([others + found, others, changes[None] * 0.3])
    for other in others:
        if norm == "l0":
            kept = np.argsort(-np.abs(other.reshape(3, -1)), axis=1)[:, : int(radius)]
            within = np.zeros((3, other[0].size))
            np.put_along_axis(within, kept, np.take_along_axis(changes.reshape(3, -1), kept, 1), 1)
            within = within.reshape(changes.shape)
        else:
            within = other / np.maximum(lengths(other, norm) / radius, 1).reshape(-1, 1, 1, 1)
        assert (best <= np.sqrt(((changes - within) ** 2).sum(axis=(1, 2, 3))) + 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(_SEEDS)
def test_steepest_direction(norm: str, seed: int) -> None:
    gradients = _changes(seed)
    found = steepest(TABLE, gradients, norm, share=1 / gradients[0].size)
    np.testing.assert_allclose(lengths(found, norm), 1)
    rise = (found * gradients).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(rise, dual_length(TABLE, gradients, norm).ravel(), rtol=1e-6)


@given(_SEEDS)
def test_steepest_direction_in_l1_is_shared(seed: int) -> None:
    gradients = _changes(seed)
    found = steepest(TABLE, gradients, "l1", share=0.1)
    assert (np.count_nonzero(found.reshape(3, -1), axis=1) == 6).all()
    least = np.abs(gradients)[found != 0].reshape(3, -1).min(axis=1)
    most = np.where(found == 0, np.abs(gradients), 0).max(axis=(1, 2, 3))
    assert (least >= most).all()


def test_equal_gradients_have_a_steepest_direction() -> None:
    """As those of a network that begins with a mean have; the first of equals are chosen."""
    ones = np.ones((1, 8, 8, 3))
    found = steepest(TABLE, ones, "l1")
    assert np.count_nonzero(found) == 9
    np.testing.assert_allclose(found.ravel()[:9], 1 / 9)
    few = np.zeros((1, 8, 8, 3))
    few.ravel()[[5, 50, 100]] = [1, -2, 1]
    found = steepest(TABLE, few, "l1")
    assert found.ravel()[50] == -1
    assert np.count_nonzero(found) == 1
    np.testing.assert_array_equal(steepest(TABLE, np.zeros_like(few), "l1"), 0)


def test_as_many_values_as_the_ball_of_l0_has() -> None:
    changes = np.array([[3, -3, 1, 0], [2, 2, 2, 2], [0, 0, 1, 0]], float).reshape(3, 2, 2, 1)
    for radius, expected in ((1, [1, 1, 1]), (2, [2, 2, 1]), (3, [3, 3, 1]), (4, [3, 4, 1])):
        found = project(TABLE, changes, np.full((3, 1, 1, 1), float(radius)), "l0")
        assert np.count_nonzero(found.reshape(3, -1), axis=1).tolist() == expected
        assert np.abs(found).max() == 3


def test_what_cannot_move_is_left_out() -> None:
    x = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 0.5]).reshape(1, 1, 2, 3)
    gradients = np.array([1.0, -1, 1, -1, 1, -1]).reshape(1, 1, 2, 3)
    assert movable(TABLE, gradients, x).ravel().tolist() == [1, 0, 0, -1, 1, -1]


@pytest.mark.parametrize("norm", NORMS)
def test_on_every_backend(differentiable: Backend, norm: str) -> None:
    changes = _changes(0).astype(np.float32)
    radius = _column(_RADII[norm]).astype(np.float32)

    def function(table: Any) -> Any:
        return lambda x, r: {
            "project": project(table, x, r, norm),
            "steepest": steepest(table, x, norm),
            "length": length(table, x, norm),
        }

    table = differentiable.table
    compiled = differentiable.compile_tensors(function(table))
    given = compiled(table.asarray(changes), table.asarray(radius))
    found = {name: table.to_numpy(tensor) for name, tensor in given.items()}
    expected = function(TABLE)(changes.astype(np.float64), radius.astype(np.float64))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS, st.floats(0, 1))
def test_rounding_stays_within(norm: str, seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    originals = (generator.integers(0, 256, (3, 4, 5, 3)) / 255).astype(np.float32)
    epsilon = {"linf": 0.03, "l2": 0.2, "l1": 1.0, "l0": 20}[norm] * share
    changes = project(TABLE, generator.normal(size=(3, 4, 5, 3)), _column(epsilon), norm)
    pictures = np.clip(originals + changes, 0, 1).astype(np.float32)
    rounded, fits = round_within(pictures, originals, epsilon, norm)
    assert fits.all()
    starts = np.rint(originals.astype(np.float64) * 255)
    assert (lengths((rounded - starts) / 255, norm) <= epsilon + 2e-6).all()
    # No value is further from what it should be than rounding towards the original takes it.
    assert np.abs(rounded / 255 - pictures).max() <= 1 / 255 + 1e-6


def test_which_levels_are_reached() -> None:
    on, between = (np.full((1, 2, 2, 3), level / 255, np.float32) for level in (100, 100.4))
    both = np.concatenate([on, between])
    found = [is_any_level_reached(both, share / 255).tolist() for share in (0.3, 0.7, 1)]
    # From 100.4, 100 is 0.4 away and 101 is 0.6.
    assert found == [[False, False], [False, True], [True, True]]


def test_an_original_between_levels_may_have_no_8_bit_picture_near() -> None:
    original = np.full((1, 2, 2, 3), 100.5 / 255, np.float32)
    for norm in ("linf", "l2", "l1"):
        _, fits = round_within(original, original, 0.1 / 255, norm)
        assert not fits.any()
