"""Doubtful labels and outliers among embeddings that are made up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.inspection.labels import label_disagreement, outlier_scores

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]


def clusters(number: int, classes: int, noise: float = 1.0) -> tuple[Floats, Labels]:
    """Return embeddings of unit length around one direction for each class."""
    generator = np.random.default_rng(0)
    labels = np.arange(number) % classes
    found = np.eye(classes, 64)[labels] * 4 + noise * generator.normal(size=(number, 64))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_wrong_labels_have_the_largest_margins(classes: int) -> None:
    embeddings, right = clusters(200, classes)
    labels = right.copy()
    wrong = np.random.default_rng(1).permutation(200)[:10]
    labels[wrong] = (labels[wrong] + 1) % classes
    margins, predicted = label_disagreement(embeddings, labels, np.arange(200), 0)
    assert set(np.argsort(-margins)[:10]) == set(wrong)
    np.testing.assert_array_equal(predicted[wrong], right[wrong])
    assert margins[np.setdiff1d(np.arange(200), wrong)].max() < margins[wrong].min()
    assert np.abs(margins).max() <= 1


def test_copies_do_not_confirm_each_other() -> None:
    embeddings, labels = clusters(60, 2)
    # An image with a wrong label, and nine copies of it with the same wrong label.
    embeddings = np.concatenate([embeddings, embeddings[[0] * 10]])
    labels = np.concatenate([labels, [1] * 10])
    groups = np.concatenate([np.arange(1, 61), [100] * 10])
    doubted = label_disagreement(embeddings, labels, groups, 0).margins[60:]
    confirmed = label_disagreement(embeddings, labels, np.arange(70), 0).margins[60:]
    assert doubted.min() > 0.3
    assert confirmed.max() < doubted.min()


def test_classes_of_one_or_two_images_are_not_judged() -> None:
    embeddings, labels = clusters(40, 2)
    labels = labels.copy()
    labels[:2] = 2
    labels[2] = 3
    margins, predicted = label_disagreement(embeddings, labels, np.arange(40), 0)
    assert np.isnan(margins[:3]).all()
    assert not np.isnan(margins[3:]).any()
    assert set(predicted[3:]) <= {0, 1}


def test_one_class_has_no_wrong_labels() -> None:
    embeddings, _ = clusters(20, 2)
    assert np.isnan(
        label_disagreement(embeddings, np.zeros(20, int), np.arange(20), 0).margins
    ).all()


def test_a_class_of_which_all_images_are_in_one_group_is_judged() -> None:
    embeddings, labels = clusters(40, 2)
    labels = labels.copy()
    labels[:4] = 2
    groups = np.arange(40)
    groups[:3] = 0
    margins, _ = label_disagreement(embeddings, labels, groups, 0)
    assert not np.isnan(margins[4:]).any()


def test_outliers_are_unlike_their_class() -> None:
    embeddings, labels = clusters(100, 2, noise=0.3)
    embeddings[7] = np.eye(64, dtype=np.float32)[50]
    scores = outlier_scores(embeddings, labels)
    assert scores.argmax() == 7
    assert scores[7] > 5 > np.delete(scores, 7).max()
    assert np.median(scores[labels == 0]) == pytest.approx(0, abs=1e-6)


def test_small_classes_have_no_outliers() -> None:
    embeddings, _ = clusters(38, 2)
    assert np.isnan(outlier_scores(embeddings, np.arange(38) % 2)).all()
