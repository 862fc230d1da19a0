from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.comparison.folds import assign_folds, check_training_parts
from transferkit.errors import DatasetError

CLASSES = np.array(["cat", "dog", "fox"])


@given(st.integers(2, 6), st.lists(st.integers(6, 30), min_size=3, max_size=3), st.integers(0, 99))
def test_each_class_is_spread_evenly(cv: int, counts: list[int], seed: int) -> None:
    indices = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], counts))
    folds = assign_folds(CLASSES, indices, None, cv, seed)
    for index, count in enumerate(counts):
        sizes = np.bincount(folds[indices == index], minlength=cv)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1


@given(st.integers(2, 4), st.integers(0, 99))
def test_groups_stay_together(cv: int, seed: int) -> None:
    groups = np.repeat(np.arange(30), 3)
    indices = groups % 3
    folds = assign_folds(CLASSES, indices, groups, cv, seed)
    for group in range(30):
        assert len(set(folds[groups == group])) == 1
    assert set(folds) == set(range(cv))


def test_too_few_images() -> None:
    with pytest.raises(DatasetError, match=r"only one class, 'cat'; at least two"):
        assign_folds(CLASSES[:1], np.zeros(10, int), None, 5, 0)
    with pytest.raises(
        DatasetError,
        match=r"fewer than 5 images: 'dog'; .* cv=5 needs 5 of each class\. Pass cv=3, add images",
    ):
        assign_folds(CLASSES[:2], np.repeat([0, 1], [9, 3]), None, 5, 0)
    with pytest.raises(DatasetError, match=r"fewer than 4 images: 'dog'; .* Pass cv=3"):
        assign_folds(CLASSES[:2], np.repeat([0, 1], [9, 3]), None, 2, 0)
    with pytest.raises(DatasetError, match=r"each class\. Add images, or leave"):
        assign_folds(CLASSES[:2], np.repeat([0, 1], [9, 2]), None, 3, 0)


def test_the_remedy_works() -> None:
    indices = np.repeat([0, 1], [9, 3])
    assert set(assign_folds(CLASSES[:2], indices, None, 3, 0)) == {0, 1, 2}


def test_too_few_groups() -> None:
    indices = np.repeat([0, 1], 10)
    with pytest.raises(DatasetError, match="there are 4 groups"):
        assign_folds(CLASSES[:2], indices, np.repeat([0, 1, 2, 3], 5), 5, 0)
    # All dogs are photos of one animal: the fold that tests it has none to train on.
    groups = np.concatenate([np.arange(10), np.full(10, 99)])
    with pytest.raises(DatasetError, match="fewer than 2 images are left of 'dog'"):
        assign_folds(CLASSES[:2], indices, groups, 3, 0)


def test_a_fold_without_images() -> None:
    indices, folds = np.array([0, 1] * 4), np.repeat([0, 2], 4)
    with pytest.raises(DatasetError, match="no image is left in fold 2 of 3"):
        check_training_parts(CLASSES[:2], indices, folds, 3)
