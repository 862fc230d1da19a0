"""The head equals scikit-learn's logistic regression on the embeddings."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from transferkit.classification.head import fit_head


def problem(
    rows: int, columns: int, classes: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Return embeddings of length 1 that differ between classes, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    embeddings = generator.normal(size=(rows, columns)) + 1
    embeddings += generator.normal(size=(classes, columns))[labels]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float32), labels


def probabilities(
    embeddings: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    logits = embeddings.astype(np.float64) @ weight.T + bias
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


@given(
    rows=st.integers(10, 60),
    columns=st.integers(1, 60),
    classes=st.integers(2, 5),
    C=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
def test_the_fit_equals_that_of_scikit_learn(
    rows: int, columns: int, classes: int, C: float, seed: int
) -> None:
    """The rotation to principal axes is exact, with fewer images than columns and with more."""
    embeddings, labels = problem(rows, columns, classes, seed)
    weight, bias, used, *_ = fit_head(embeddings, labels, C=C, seed=0)
    assert weight.shape == (classes, columns)
    assert bias.shape == (classes,)
    assert weight.dtype == bias.dtype == np.float32
    assert used == C
    direct = LogisticRegression(C=C, tol=1e-9, max_iter=10_000, solver="newton-cg")
    direct.fit(embeddings.astype(np.float64), labels)
    np.testing.assert_allclose(
        probabilities(embeddings, weight, bias),
        direct.predict_proba(embeddings.astype(np.float64)),
        atol=1e-4,
    )
    new, _ = problem(20, columns, classes, seed + 1)
    np.testing.assert_allclose(
        probabilities(new, weight, bias), direct.predict_proba(new.astype(np.float64)), atol=1e-4
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_the_fit_does_not_depend_on_the_order_of_classes_or_images(classes: int) -> None:
    embeddings, labels = problem(40, 12, classes, seed=5)
    weight, bias, *_ = fit_head(embeddings, labels, C=10.0, seed=0)
    other = np.roll(np.arange(classes), 1)  # The new index of each class.
    renamed, renamed_bias, *_ = fit_head(embeddings, other[labels], C=10.0, seed=0)
    expected = probabilities(embeddings, weight, bias)
    np.testing.assert_allclose(
        probabilities(embeddings, renamed, renamed_bias)[:, other], expected, atol=1e-5
    )
    order = np.random.default_rng(0).permutation(40)
    shuffled, shuffled_bias, *_ = fit_head(embeddings[order], labels[order], C=10.0, seed=0)
    np.testing.assert_allclose(
        probabilities(embeddings, shuffled, shuffled_bias), expected, atol=1e-5
    )


def test_the_fit_does_not_depend_on_a_rotation_of_the_embeddings() -> None:
    embeddings, labels = problem(30, 8, 3, seed=2)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    rotated = (embeddings @ rotation).astype(np.float32)
    expected = probabilities(embeddings, *fit_head(embeddings, labels, C=5.0, seed=0)[:2])
    found = probabilities(rotated, *fit_head(rotated, labels, C=5.0, seed=0)[:2])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_regularization_is_chosen_by_cross_validation(seed: int) -> None:
    """No other candidate is noticeably more accurate on held-out images."""
    embeddings, labels = problem(60, 30, 3, seed)
    embeddings += np.random.default_rng(seed).normal(scale=0.2, size=(60, 30)).astype(np.float32)
    chosen = fit_head(embeddings, labels, C=None, seed=seed)[2]
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    accuracies = {
        C: cross_val_score(
            LogisticRegression(C=C, max_iter=10_000), embeddings, labels, cv=folds
        ).mean()
        for C in (3.0, 10.0, 30.0, 100.0)
    }
    assert accuracies[chosen] >= max(accuracies.values()) - 0.02
    assert min(accuracies.values()) < 1


def test_two_images_of_each_class_are_enough() -> None:
    embeddings, labels = problem(6, 50, 3, seed=0)
    weight, bias, *_ = fit_head(embeddings, labels, C=None, seed=0)
    assert probabilities(embeddings, weight, bias).argmax(axis=1).tolist() == labels.tolist()


def test_identical_images_give_equal_probabilities() -> None:
    embeddings = np.full((6, 4), 0.5, np.float32)
    weight, bias, *_ = fit_head(embeddings, np.array([0, 1, 0, 1, 0, 1]), C=None, seed=0)
    np.testing.assert_allclose(probabilities(embeddings, weight, bias), 0.5, atol=1e-3)


def test_few_images_of_each_of_many_classes_are_no_reason_to_warn() -> None:
    embeddings, labels = problem(60, 20, 30, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_head(embeddings, labels, C=None, seed=0)
