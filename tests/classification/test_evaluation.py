"""The metrics of an evaluation follow from its confusion matrix."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from transferkit import Evaluation
from transferkit.classification.evaluation import wilson_interval
from transferkit.errors import OutputError, ParameterError, UnknownNameError

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
    np.testing.assert_allclose(found.macro_f1, f1_score(expected, predicted, average="macro"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Classes that are predicted, but have no images.
        balanced = balanced_accuracy_score(expected, predicted)
    np.testing.assert_allclose(found.balanced_accuracy, balanced)
    precision, recall, f1, support = precision_recall_fscore_support(
        expected, predicted, labels=found.classes, zero_division=np.nan
    )
    np.testing.assert_array_equal(found.confusion_matrix, matrix)
    scores = [found.per_class[label] for label in found.classes]
    for values, reference in (
        ([score.precision for score in scores], precision),
        ([score.recall for score in scores], recall),
        ([score.f1 for score in scores], f1),
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


def sampled(seed: int, number: int, classes: int) -> Evaluation:
    """Return an evaluation whose probabilities are exactly right."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.5), number)
    labels = (probabilities.cumsum(axis=1) < generator.random((number, 1))).sum(axis=1)
    labels = np.minimum(labels, classes - 1)
    sources = [f"{index}.jpg" for index in range(number)]
    return Evaluation(np.array(list("abcdef")[:classes]), labels, probabilities, sources, [])


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 5))
def test_metrics_of_probabilities_are_those_of_scikit_learn(
    seed: int, number: int, classes: int
) -> None:
    found = sampled(seed, number, classes)
    expected = log_loss(found.label_indices, found.probabilities, labels=range(classes))
    np.testing.assert_allclose(found.log_loss, expected, rtol=1e-6)
    present = np.unique(found.label_indices)
    if len(present) == 1:
        assert found.roc_auc is None
        assert found.average_precision is None
        assert found.interval_of("roc_auc", resamples=5) is None
        return
    truth, columns = (
        np.eye(classes)[found.label_indices][:, present],
        found.probabilities[:, present],
    )
    np.testing.assert_allclose(found.roc_auc, roc_auc_score(truth, columns, average="macro"))
    np.testing.assert_allclose(found.average_precision, average_precision_score(truth, columns))


def test_a_probability_of_0_does_not_make_the_log_loss_infinite() -> None:
    probabilities = np.array([[1.0, 0.0]], np.float32)
    found = Evaluation(np.array(["a", "b"]), np.array([1]), probabilities, ["x"], [])
    assert 80 < found.log_loss < 100


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_the_calibration_error_is_that_of_its_bins(seed: int, number: int) -> None:
    found = sampled(seed, number, 3)
    calibration = found.calibration
    assert len(calibration.bins) == 10
    assert sum(entry.images for entry in calibration.bins) == number
    confidence = found.probabilities.max(axis=1)
    hits = found.predicted_indices == found.label_indices
    error = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        error += abs((confidence[inside] - hits[inside]).sum()) / number
    np.testing.assert_allclose(calibration.ece, error, atol=1e-9)
    assert calibration.excess == max(calibration.ece - calibration.ece_by_chance, 0)


@pytest.mark.parametrize("number", [74, 1000])
def test_the_calibration_error_by_chance_is_that_of_right_probabilities(number: int) -> None:
    found = [sampled(seed, number, 4).calibration for seed in range(100)]
    mean = np.mean([one.ece for one in found])
    expected = np.mean([one.ece_by_chance for one in found])
    np.testing.assert_allclose(expected, mean, rtol=0.1)


def test_bootstrap_intervals_are_those_of_the_accuracy() -> None:
    found = sampled(0, 400, 3)
    low, high = found.interval_of("accuracy")  # type: ignore[misc]
    np.testing.assert_allclose((low, high), found.interval, atol=0.01)
    assert found.interval_of(lambda one: one.accuracy) == (low, high)
    assert found.interval_of("accuracy", random_state=1) != (low, high)
    narrow = found.interval_of("accuracy", confidence=0.5)
    assert low < narrow[0] < found.accuracy < narrow[1] < high  # type: ignore[index]
    for name in ("balanced_accuracy", "macro_f1", "log_loss", "roc_auc", "average_precision"):
        low, high = found.interval_of(name, resamples=50)  # type: ignore[misc]
        assert low < getattr(found, name) < high
    with pytest.raises(UnknownNameError, match="macro_f1"):
        found.interval_of("macro f1")
    for confidence in (95, "0.95", float("nan")):
        with pytest.raises(ParameterError, match=f"confidence is '?{confidence}"):
            found.interval_of("accuracy", confidence=confidence)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="resamples is 0"):
        found.interval_of("accuracy", resamples=0)


def test_the_least_confident_come_first() -> None:
    found = sampled(0, 50, 4)
    images = found.least_confident(50)
    confidences = [image.probability for image in images]
    assert confidences == sorted(found.probabilities.max(axis=1))
    assert [image.source for image in images[:7]] == [
        image.source for image in found.least_confident(7)
    ]
    wrong = {image.source for image in images if image.label != image.predicted}
    assert wrong == {mistake.source for mistake in found.mistakes}


def test_a_data_frame_has_one_row_for_each_image() -> None:
    pytest.importorskip("pandas")
    found = sampled(0, 20, 3)
    frame = found.to_pandas()
    columns = ["source", "label", "predicted", "probability"]
    assert frame.columns.tolist() == [*columns, *(f"probability_{name}" for name in "abc")]
    assert (frame["label"] == frame["predicted"]).mean() == found.accuracy
    np.testing.assert_array_equal(frame["probability_b"], found.probabilities[:, 1])


@pytest.mark.parametrize("name", ["$x_{$", "$5 to $10", "\udce9t\udce9"])
def test_names_of_classes_are_drawn_as_they_are(tmp_path: Path, name: str) -> None:
    """And not as formulas; the name of a folder need not be valid text."""
    text = pytest.importorskip("matplotlib.text")
    drawn: set[tuple[str, bool]] = set()

    class Text(text.Text):  # type: ignore[misc, name-defined]
        def draw(self, renderer: object) -> None:
            drawn.add((self.get_text(), self.get_parse_math()))
            super().draw(renderer)

    found = Evaluation(np.array([name, "b"]), np.array([0, 1]), np.eye(2), ["1", "2"], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.axis.mtext.Text", Text)
        found.plot_confusion_matrix(tmp_path / "matrix.png")
    assert (name.replace("\udce9", "?"), False) in drawn


@pytest.mark.parametrize("classes", [2, 37])
def test_plots_are_written(tmp_path: Path, classes: int) -> None:
    pytest.importorskip("matplotlib")
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(classes), 100)
    names = np.array([f"class {index}" for index in range(classes)])
    labels = generator.integers(0, classes, 100)
    found = Evaluation(names, labels, probabilities, [""] * 100, [])
    found.plot_confusion_matrix(tmp_path / "matrix.png")
    found.plot_calibration(tmp_path / "calibration.png")
    with Image.open(tmp_path / "matrix.png") as image:
        # A row of text needs about 15 pixels.
        assert image.height > 15 * classes
    assert (tmp_path / "calibration.png").stat().st_size > 1000
    with pytest.raises(OutputError, match=r"\.png"):
        found.plot_confusion_matrix(tmp_path / "matrix.pdf")
