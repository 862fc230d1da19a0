"""Norms, projections and steepest ascent against their definitions in NumPy."""

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
    dual_norms,
    mask_saturated,
    project,
    steepest_ascent,
    tensor_norms,
    vector_norms,
)
from transferkit.optimization.attacks.rounding import has_uint8_neighbor, round_within_epsilon
from transferkit.testing import ReferenceTable

TABLE = ReferenceTable()
_SEEDS = st.integers(0, 2**16)
_RADII = {"linf": 0.5, "l2": 2.0, "l1": 5.0, "l0": 7.0}


def _perturbations(seed: int) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(3, 4, 5, 3)) * generator.uniform(0.01, 2, (3, 1, 1, 1))


def _column(value: float) -> npt.NDArray[np.float64]:
    return np.full((3, 1, 1, 1), value)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS)
def test_norm_is_that_of_numpy(norm: str, seed: int) -> None:
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    perturbations = _perturbations(seed)
    perturbations[:, 0] = 0
    expected = [np.linalg.norm(row.ravel(), ord=order) for row in perturbations]
    np.testing.assert_allclose(vector_norms(perturbations, norm), expected)
    np.testing.assert_allclose(tensor_norms(TABLE, perturbations, norm).ravel(), expected)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS)
def test_projection_is_the_nearest_point_of_the_ball(norm: str, seed: int) -> None:
    perturbations, radius = _perturbations(seed), _RADII[norm]
    projected = project(TABLE, perturbations, _column(radius), norm)
    assert (vector_norms(projected, norm) <= radius * (1 + 1e-6)).all()
    inside = vector_norms(perturbations, norm) <= radius
    np.testing.assert_allclose(projected[inside], perturbations[inside], atol=1e-12)
    # No other point of the ball is nearer, neither on the line to the center nor at random.
    best = np.sqrt(((perturbations - projected) ** 2).sum(axis=(1, 2, 3)))
    others = np.random.default_rng(seed).normal(size=(50, *perturbations.shape)) * 0.5
    others = np.concatenate([others + projected, others, perturbations[None] * 0.3])
    for other in others:
        if norm == "l0":
            kept = np.argsort(-np.abs(other.reshape(3, -1)), axis=1)[:, : int(radius)]
            within = np.zeros((3, other[0].size))
            values = np.take_along_axis(perturbations.reshape(3, -1), kept, 1)
            np.put_along_axis(within, kept, values, 1)
            within = within.reshape(perturbations.shape)
        else:
            ratios = vector_norms(other, norm) / radius
            within = other / np.maximum(ratios, 1).reshape(-1, 1, 1, 1)
        distances = np.sqrt(((perturbations - within) ** 2).sum(axis=(1, 2, 3)))
        assert (best <= distances + 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(_SEEDS)
def test_steepest_ascent_increases_by_the_dual_norm(norm: str, seed: int) -> None:
    gradients = _perturbations(seed)
    direction = steepest_ascent(TABLE, gradients, norm, fraction=1 / gradients[0].size)
    np.testing.assert_allclose(vector_norms(direction, norm), 1)
    increase = (direction * gradients).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(increase, dual_norms(TABLE, gradients, norm).ravel(), rtol=1e-6)


@given(_SEEDS)
def test_steepest_ascent_in_l1_changes_a_fraction_of_the_values(seed: int) -> None:
    gradients = _perturbations(seed)
    direction = steepest_ascent(TABLE, gradients, "l1", fraction=0.1)
    assert (np.count_nonzero(direction.reshape(3, -1), axis=1) == 6).all()
    smallest_used = np.abs(gradients)[direction != 0].reshape(3, -1).min(axis=1)
    largest_unused = np.where(direction == 0, np.abs(gradients), 0).max(axis=(1, 2, 3))
    assert (smallest_used >= largest_unused).all()


def test_steepest_ascent_exists_for_equal_gradients() -> None:
    """A network that starts with a mean has such gradients; the first values are chosen."""
    ones = np.ones((1, 8, 8, 3))
    direction = steepest_ascent(TABLE, ones, "l1")
    assert np.count_nonzero(direction) == 9
    np.testing.assert_allclose(direction.ravel()[:9], 1 / 9)
    sparse = np.zeros((1, 8, 8, 3))
    sparse.ravel()[[5, 50, 100]] = [1, -2, 1]
    direction = steepest_ascent(TABLE, sparse, "l1")
    assert direction.ravel()[50] == -1
    assert np.count_nonzero(direction) == 1
    np.testing.assert_array_equal(steepest_ascent(TABLE, np.zeros_like(sparse), "l1"), 0)


def test_l0_projection_keeps_as_many_values_as_the_radius() -> None:
    values = [[3, -3, 1, 0], [2, 2, 2, 2], [0, 0, 1, 0]]
    perturbations = np.array(values, float).reshape(3, 2, 2, 1)
    for radius, expected in ((1, [1, 1, 1]), (2, [2, 2, 1]), (3, [3, 3, 1]), (4, [3, 4, 1])):
        projected = project(TABLE, perturbations, np.full((3, 1, 1, 1), float(radius)), "l0")
        assert np.count_nonzero(projected.reshape(3, -1), axis=1).tolist() == expected
        assert np.abs(projected).max() == 3


def test_gradients_that_lead_out_of_the_pixel_range_are_masked() -> None:
    x = np.array([0.0, 0.0, 1.0, 1.0, 0.5, 0.5]).reshape(1, 1, 2, 3)
    gradients = np.array([1.0, -1, 1, -1, 1, -1]).reshape(1, 1, 2, 3)
    assert mask_saturated(TABLE, gradients, x).ravel().tolist() == [1, 0, 0, -1, 1, -1]


@pytest.mark.parametrize("norm", NORMS)
def test_results_are_the_same_on_every_backend(differentiable: Backend, norm: str) -> None:
    perturbations = _perturbations(0).astype(np.float32)
    radius = _column(_RADII[norm]).astype(np.float32)

    def functions(table: Any) -> Any:
        return lambda x, radius: {
            "project": project(table, x, radius, norm),
            "steepest_ascent": steepest_ascent(table, x, norm),
            "tensor_norms": tensor_norms(table, x, norm),
        }

    table = differentiable.table
    compiled = differentiable.compile_tensors(functions(table))
    results = compiled(table.asarray(perturbations), table.asarray(radius))
    expected = functions(TABLE)(perturbations.astype(np.float64), radius.astype(np.float64))
    for name, array in expected.items():
        np.testing.assert_allclose(table.to_numpy(results[name]), array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@given(_SEEDS, st.floats(0, 1))
def test_rounded_images_stay_within_epsilon(norm: str, seed: int, fraction: float) -> None:
    generator = np.random.default_rng(seed)
    originals = (generator.integers(0, 256, (3, 4, 5, 3)) / 255).astype(np.float32)
    epsilon = {"linf": 0.03, "l2": 0.2, "l1": 1.0, "l0": 20}[norm] * fraction
    perturbations = project(TABLE, generator.normal(size=(3, 4, 5, 3)), _column(epsilon), norm)
    images = np.clip(originals + perturbations, 0, 1).astype(np.float32)
    rounded, is_within = round_within_epsilon(images, originals, epsilon, norm)
    assert is_within.all()
    original_levels = np.rint(originals.astype(np.float64) * 255)
    assert (vector_norms((rounded - original_levels) / 255, norm) <= epsilon + 2e-6).all()
    # Rounding towards the original changes a value by at most one level.
    assert np.abs(rounded / 255 - images).max() <= 1 / 255 + 1e-6


def test_uint8_neighbors_are_one_level_away() -> None:
    on, between = (np.full((1, 2, 2, 3), level / 255, np.float32) for level in (100, 100.4))
    both = np.concatenate([on, between])
    has_neighbor = [has_uint8_neighbor(both, levels / 255).tolist() for levels in (0.3, 0.7, 1)]
    # From 100.4, 100 is 0.4 away and 101 is 0.6.
    assert has_neighbor == [[False, False], [False, True], [True, True]]


def test_original_between_levels_may_have_no_8_bit_image_within_epsilon() -> None:
    original = np.full((1, 2, 2, 3), 100.5 / 255, np.float32)
    for norm in ("linf", "l2", "l1"):
        _, is_within = round_within_epsilon(original, original, 0.1 / 255, norm)
        assert not is_within.any()
