from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import log_loss

from transferkit.backends import Backend
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.training.losses import cross_entropy, one_hot, smooth_labels

CLASSES = np.array([2, 0, 2, 1])


def random_logits(num_classes: int, scale: float, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, scale, (len(CLASSES), num_classes))


# scikit-learn clips probabilities, so that they must not be tiny.
@given(st.integers(3, 20), st.floats(0.0, 2.0))
def test_cross_entropy_is_the_log_loss_of_scikit_learn(num_classes: int, scale: float) -> None:
    logits = random_logits(num_classes, scale)
    losses = cross_entropy(ReferenceTable(), logits, one_hot(CLASSES, num_classes))
    expected = log_loss(CLASSES, special.softmax(logits, axis=1), labels=range(num_classes))
    assert losses.shape == (len(CLASSES),)
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-9, atol=1e-12)


@given(st.integers(2, 20), st.floats(0.0, 20.0), st.integers(0, 100))
def test_cross_entropy_is_entropy_plus_divergence(
    num_classes: int, scale: float, seed: int
) -> None:
    logits = random_logits(num_classes, scale, seed)
    targets = np.random.default_rng(seed).dirichlet(np.ones(num_classes), len(logits))
    divergence = special.rel_entr(targets, special.softmax(logits, axis=1)).sum(axis=1)
    expected = special.entr(targets).sum(axis=1) + divergence
    losses = cross_entropy(ReferenceTable(), logits, targets)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)


def test_large_logits_do_not_overflow(backend: Backend) -> None:
    """The loss of a class whose logit is 2000 less is 2000, on every backend."""

    def losses(logits: object, targets: object) -> dict[str, object]:
        return {"losses": cross_entropy(backend.table, logits, targets)}

    logits = np.array([[1000.0, -1000.0], [1000.0, -1000.0]], np.float32)
    result = backend.compile(losses)(logits, one_hot([1, 0], 2))["losses"]
    assert_close(result, np.array([2000.0, 0.0]), ACTIVATION_TOLERANCE, "losses")


def test_one_hot_rows() -> None:
    targets = one_hot(CLASSES, 3)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, np.eye(3)[[2, 0, 2, 1]])
    assert one_hot([], 3).shape == (0, 3)


@given(st.integers(2, 50), st.integers(0, 99))
def test_smoothing_takes_probability_from_the_class(num_classes: int, percent: int) -> None:
    smoothing = percent / 100
    targets = one_hot([0], num_classes)
    smoothed = smooth_labels(targets, smoothing)
    assert smoothed.dtype == np.float32
    np.testing.assert_allclose(smoothed.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(smoothed[0, 1:], smoothing / num_classes, rtol=1e-6)
    np.testing.assert_array_equal(targets, one_hot([0], num_classes))


@pytest.mark.parametrize("smoothing", [0.25, 0.5])
def test_mixed_targets_can_be_smoothed(smoothing: float) -> None:
    """Smoothing is linear: that of a mixture is the mixture of the smoothed targets."""
    first, second = one_hot([0], 4), one_hot([3], 4)
    mixed = smooth_labels(0.25 * first + 0.75 * second, smoothing)
    expected = 0.25 * smooth_labels(first, smoothing) + 0.75 * smooth_labels(second, smoothing)
    np.testing.assert_array_equal(mixed, expected)
