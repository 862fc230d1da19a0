"""The metrics of an evaluation follow from its confusion matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from transferkit import Evaluation
from transferkit.classification.evaluation import wilson_interval
from transferkit.errors import ParameterError

MATRICES = st.integers(2, 6).flatmap(
    lambda classes: from_numpy.arrays(np.intp, (classes, classes), elements=st.integers(0, 4))
).filter(lambda matrix: matrix.sum() > 0)  # fmt: skip


def evaluation(matrix: npt.NDArray[np.intp]) -> Evaluation:
    """Return an evaluation with a given confusion matrix."""
    rows, columns = np.nonzero(matrix)
    labels, predicted = (np.repeat(axis, matrix[rows, columns]) for axis in (rows, columns))
    probabilities = np.full((len(labels), len(matrix)), 0.1)
    probabilities[np.arange(len(labels)), predicted] = 0.6
    sources = [f"{index}.jpg" for index in range(len(labels))]
    return Evaluation(np.array(list("abcdef")[: len(matrix)]), labels, probabilities, sources, [])


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
    np.testing.assert_array_equal(found.confusion_matrix, matrix)
    scores = [found.per_class[label] for label in found.classes]
    for values, reference in (
        ([score.precision for score in scores], precision),
        ([score.recall for score in scores], recall),
    ):
        assert [value is None for value in values] == np.isnan(reference).tolist()
        np.testing.assert_allclose(
            [np.nan if value is None else value for value in values], reference
        )
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
        "accuracy 0.8750 (7 of 8; 95% interval 0.5291 to 0.9776)",
        "a: precision 1.000, recall 0.750, 4 images",
        "b: precision 0.800, recall 1.000, 4 images",
    ]
    assert "<td>0.800</td>" in found._repr_html_()
    assert repr(found).startswith("<Evaluation of 2 classes: accuracy 0.8750")


def test_class_that_is_never_predicted_has_no_precision() -> None:
    found = evaluation(np.array([[0, 2], [0, 3]]))
    assert found.per_class["a"] == (None, 0.0, 2)
    assert "a: precision -, recall 0.000, 2 images" in str(found)


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 100))
def test_top_k_is_that_of_scikit_learn(classes: int, number: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.random((number, classes))
    labels = generator.integers(0, classes, number)
    found = Evaluation(np.arange(classes), labels, probabilities, [""] * number, [])
    for k in range(1, classes):
        expected = top_k_accuracy_score(
            labels, probabilities, k=k,
            labels=np.arange(classes),
        ) if classes > 2 else np.mean(probabilities.argmax(axis=1) == labels)  # fmt: skip
        assert np.isclose(found.top_k(k), expected)
    assert found.top_k(classes) == found.top_k(classes + 3) == 1.0
    with pytest.raises(ParameterError, match="k is 0"):
        found.top_k(0)


@pytest.mark.parametrize(("correct", "number"), [(0, 5), (3, 7), (97, 100), (12, 12)])
def test_interval_is_wilsons(correct: int, number: int) -> None:
    interval = binomtest(correct, number).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(
        wilson_interval(correct / number, number), (interval.low, interval.high), atol=1e-12
    )


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_invalid_numbers_of_pairs_are_rejected(number: float) -> None:
    found = Evaluation(np.array(["a", "b"]), np.array([0]), np.array([[0.9, 0.1]]), ["x"], [])
    with pytest.raises(ParameterError, match="number is"):
        found.worst_pairs(number)  # type: ignore[arg-type]
