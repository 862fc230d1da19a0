"""The metrics of an evaluation follow from its confusion matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from transferkit import Evaluation

MATRICES = st.integers(2, 6).flatmap(
    lambda classes: from_numpy.arrays(np.intp, (classes, classes), elements=st.integers(0, 4))
).filter(lambda matrix: matrix.sum() > 0)  # fmt: skip


def evaluation(matrix: npt.NDArray[np.intp]) -> Evaluation:
    return Evaluation(np.array(list("abcdef")[: len(matrix)]), matrix, [], [])


@given(matrix=MATRICES)
def test_metrics_are_those_of_scikit_learn(matrix: npt.NDArray[np.intp]) -> None:
    found = evaluation(matrix)
    rows, columns = np.nonzero(matrix)
    counts = matrix[rows, columns]
    expected = found.classes[np.repeat(rows, counts)]
    predicted = found.classes[np.repeat(columns, counts)]
    assert np.isclose(found.accuracy, accuracy_score(expected, predicted))
    precision, recall, _, support = precision_recall_fscore_support(
        expected, predicted, labels=found.classes, zero_division=np.nan
    )
    scores = [found.per_class[label] for label in found.classes]
    np.testing.assert_allclose([score.precision for score in scores], precision)
    np.testing.assert_allclose([score.recall for score in scores], recall)
    assert [score.support for score in scores] == support.tolist()


@given(matrix=MATRICES, number=st.integers(1, 40))
def test_worst_pairs_are_the_largest_off_the_diagonal(
    matrix: npt.NDArray[np.intp], number: int
) -> None:
    before = matrix.copy()
    found = evaluation(matrix)
    pairs = found.worst_pairs(number)
    np.testing.assert_array_equal(matrix, before)
    errors = sorted(matrix[~np.eye(len(matrix), dtype=bool)].tolist(), reverse=True)
    assert [pair.images for pair in pairs] == [count for count in errors if count][:number]
    for pair in pairs:
        row, column = (found.classes.tolist().index(name) for name in pair[:2])
        assert matrix[row, column] == pair.images
        assert pair.label != pair.predicted
    assert len(set(pairs)) == len(pairs)


def test_the_text_lists_accuracy_precision_and_recall() -> None:
    found = evaluation(np.array([[3, 1], [0, 4]]))
    assert str(found).splitlines() == [
        "accuracy 0.8750 (7 of 8)",
        "a: precision 1.000, recall 0.750, 4 images",
        "b: precision 0.800, recall 1.000, 4 images",
    ]
