"""The result of evaluating a classifier on labeled images."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from transferkit.classification.calibration import Calibration, measure_calibration
from transferkit.classification.provenance import Provenance
from transferkit.errors import ParameterError, UnknownNameError, shorten
from transferkit.images import ImageLike, Skipped
from transferkit.support.data_frames import import_pandas
from transferkit.support.random_state import RandomState, as_generator
from transferkit.support.validation import check_integer, is_number
from transferkit.training.history import History

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ClassScore",
    "Confusion",
    "EvaluatedImage",
    "Evaluation",
    "Mistake",
    "format_score",
    "wilson_interval",
]

# Of the standard normal distribution, for a two-sided interval of 95%.
_NORMAL_QUANTILE = 1.959963984540054
# Probabilities are in float32; one that is rounded to 0 does not make the log loss infinite.
_SMALLEST = float(np.finfo(np.float32).tiny)
_RESAMPLES = 1000
_CONFIDENCE = 0.95

# The metrics of `Evaluation.interval_of`, which are its properties.
_METRICS = (
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "log_loss",
    "macro_f1",
    "roc_auc",
)


class ClassScore(NamedTuple):
    """Precision and recall of one class.

    Attributes
    ----------
    precision
        The fraction of the images predicted as this class that belong to it; None if no image
        is.
    recall
        The fraction of the images of this class that are predicted as such; None if there are
        no images of it.
    support
        The number of images of this class.
    """

    precision: float | None
    recall: float | None
    support: int

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None if there are no such images at all."""
        precision, recall = self.precision or 0.0, self.recall or 0.0
        if self.precision is None and self.recall is None:
            return None
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


class EvaluatedImage(NamedTuple):
    """An image with its true and its predicted class.

    Attributes
    ----------
    source
        Its path, or its position in the input.
    label
        The true label.
    predicted
        The predicted label.
    probability
        The probability of the predicted label, in [0, 1].
    """

    source: str
    label: Hashable
    predicted: Hashable
    probability: float


class Mistake(EvaluatedImage):
    """A misclassified image, with the attributes of `EvaluatedImage`."""

    __slots__ = ()


class Confusion(NamedTuple):
    """A pair of classes of which one is predicted as the other.

    Attributes
    ----------
    label
        The true label.
    predicted
        The predicted label.
    images
        The number of such images.
    """

    label: Hashable
    predicted: Hashable
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The result of `transferkit.Classifier.evaluate`.

    Attributes
    ----------
    classes
        (c,) the classes.
    label_indices
        (n,) the true class of each image, as an index into ``classes``.
    probabilities
        (n, c) the predicted probabilities.
    sources
        The path of each image, or its position in the input.
    skipped
        The images that could not be read, and why. They are not counted anywhere.
    images
        (n,) the images, for the thumbnails of a report; None: read from ``sources``.
    temperature
        By which the classifier divides its logits; None if unknown.
    history
        Of the fine-tuning; None for none.
    provenance
        What it was made with; None if unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import Evaluation
    >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    >>> evaluation = Evaluation(
    ...     np.array(["cat", "dog"]), np.array([0, 0, 1, 1]), probabilities, list("abcd"), []
    ... )
    >>> evaluation.accuracy, evaluation.top_k(2), evaluation.mistakes[0].source
    (0.75, 1.0, 'b')
    >>> evaluation.per_class["cat"]
    ClassScore(precision=1.0, recall=0.5, support=2)
    """

    classes: npt.NDArray[np.generic]
    label_indices: npt.NDArray[np.intp]
    probabilities: npt.NDArray[np.floating]
    sources: list[str]
    skipped: list[Skipped]
    images: Sequence[ImageLike] | None = None
    temperature: float | None = None
    history: History | None = None
    provenance: Provenance | None = None

    @property
    def predicted_indices(self) -> npt.NDArray[np.intp]:
        """(n,) the predicted class of each image, as an index into ``classes``."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def confusion_matrix(self) -> npt.NDArray[np.intp]:
        """(c, c) numbers of images: rows are true classes, columns predicted ones."""
        number = len(self.classes)
        cells = self.label_indices * number + self.predicted_indices
        return np.bincount(cells, minlength=number**2).reshape(number, number)

    @property
    def accuracy(self) -> float:
        """The fraction of correctly classified images, in [0, 1]."""
        return self.top_k(1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the accuracy; see `wilson_interval`."""
        return wilson_interval(self.accuracy, len(self.label_indices))

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images, in [0, 1]."""
        matrix = self.confusion_matrix
        support = matrix.sum(axis=1)
        return float((matrix.diagonal()[support > 0] / support[support > 0]).mean())

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images or are predicted, in [0, 1]."""
        matrix = self.confusion_matrix
        # Of each class, the images that are of it and those that are predicted as it.
        totals = matrix.sum(axis=0) + matrix.sum(axis=1)
        return float((2 * matrix.diagonal()[totals > 0] / totals[totals > 0]).mean())

    @property
    def log_loss(self) -> float:
        """The mean of minus the logarithm of the probability of the true class, at least 0."""
        rows = np.arange(len(self.label_indices))
        true = self.probabilities[rows, self.label_indices].astype(np.float64)
        return float(-np.log(np.maximum(true, _SMALLEST)).mean())

    @property
    def roc_auc(self) -> float | None:
        """The area under the ROC curve of each class against the others, averaged, in [0, 1].

        Of the classes that some images are of, but not all; None if there is none.
        """
        return self._mean_over_classes(roc_auc_score)

    @property
    def average_precision(self) -> float | None:
        """The average precision of each class against the others, averaged, in [0, 1].

        Of the classes that some images are of, but not all; None if there is none.
        """
        return self._mean_over_classes(average_precision_score)

    @property
    def calibration(self) -> Calibration:
        """How well the probabilities agree with the accuracy: the expected calibration error."""
        return measure_calibration(self.probabilities, self.label_indices, self.temperature)

    @property
    def per_class(self) -> Mapping[Hashable, ClassScore]:
        """Each class with its precision, recall and number of images."""
        matrix = self.confusion_matrix
        correct, predicted, support = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
        return {
            label: ClassScore(_ratio(hits, chosen), _ratio(hits, images), int(images))
            for label, hits, chosen, images in zip(
                self.classes.tolist(), correct, predicted, support, strict=True
            )
        }

    @property
    def mistakes(self) -> list[Mistake]:
        """The misclassified images, most confident first."""
        wrong = np.flatnonzero(self.predicted_indices != self.label_indices)
        return [
            Mistake(*image)
            for image in self._images(wrong[np.argsort(-self._confidence[wrong], kind="stable")])
        ]

    def least_confident(self, number: int = 20) -> list[EvaluatedImage]:
        """Return the images whose predicted class is least probable, at most ``number``.

        Parameters
        ----------
        number
            At least 1.

        Raises
        ------
        ParameterError
            If ``number`` is not an integer of at least 1.
        """
        number = check_integer("number", number, 1)
        return self._images(np.argsort(self._confidence, kind="stable")[:number])

    @property
    def _confidence(self) -> npt.NDArray[np.floating]:
        """(n,) the probability of the predicted class of each image."""
        return np.asarray(self.probabilities.max(axis=1))

    def _images(self, rows: npt.NDArray[np.intp]) -> list[EvaluatedImage]:
        labels = self.classes.tolist()
        return [
            EvaluatedImage(self.sources[row], labels[true], labels[predicted], float(probability))
            for row, true, predicted, probability in zip(
                rows.tolist(),
                self.label_indices[rows].tolist(),
                self.predicted_indices[rows].tolist(),
                self._confidence[rows].tolist(),
                strict=True,
            )
        ]

    def _mean_over_classes(self, metric: Callable[..., float]) -> float | None:
        """Return the mean of a metric over the classes, each against the others."""
        present = np.unique(self.label_indices)
        if len(present) == 1:
            return None
        scores = [
            float(metric(self.label_indices == index, self.probabilities[:, index]))
            for index in present
        ]
        return float(np.mean(scores))

    def interval_of(
        self,
        metric: Metric,
        *,
        confidence: float = _CONFIDENCE,
        resamples: int = _RESAMPLES,
        random_state: RandomState = 0,
    ) -> tuple[float, float] | None:
        """Return a confidence interval of a metric, by the percentile bootstrap over images.

        For the accuracy, ``interval`` is more exact, and needs no resamples.

        Parameters
        ----------
        metric
            ``"accuracy"``, ``"balanced_accuracy"``, ``"macro_f1"``, ``"log_loss"``,
            ``"roc_auc"``, ``"average_precision"``, or a function from an evaluation to a number.
        confidence
            The probability that such intervals contain the true value, in (0, 1).
        resamples
            The number of samples of images, with replacement, at least 1.
        random_state
            Seed of the samples.

        Returns
        -------
        tuple of float or None
            The lower and the upper end; None if the metric is None for these images. Samples for
            which it is None do not count.

        Raises
        ------
        UnknownNameError
            If there is no metric of that name.
        ParameterError
            If ``confidence`` or ``resamples`` is invalid.

        References
        ----------
        Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapter 13.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit import Evaluation
        >>> labels = np.array([0] * 50 + [1] * 50)
        >>> probabilities = np.eye(2)[labels] * 0.8 + 0.1
        >>> probabilities[:10] = probabilities[:10, ::-1]
        >>> evaluation = Evaluation(np.array(["a", "b"]), labels, probabilities, [""] * 100, [])
        >>> low, high = evaluation.interval_of("balanced_accuracy")
        >>> low < evaluation.balanced_accuracy < high
        True
        """
        if not callable(metric) and metric not in _METRICS:
            raise UnknownNameError("metric", metric, _METRICS)
        if not is_number(confidence) or not 0 < confidence < 1:
            raise ParameterError(f"confidence is {shorten(confidence)}; expected one in (0, 1)")
        resamples = check_integer("resamples", resamples, 1)

        def measure(evaluation: Evaluation) -> float | None:
            return getattr(evaluation, metric) if isinstance(metric, str) else metric(evaluation)

        if measure(self) is None:
            return None
        generator = as_generator(random_state)
        number = len(self.label_indices)
        values = [
            measure(self._take(generator.integers(0, number, number))) for _ in range(resamples)
        ]
        known = [value for value in values if value is not None]
        if not known:
            return None
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def _take(self, rows: npt.NDArray[np.intp]) -> Evaluation:
        """Return the evaluation of some of the images, without what only a report needs."""
        return dataclasses.replace(
            self,
            label_indices=self.label_indices[rows],
            probabilities=self.probabilities[rows],
            sources=[self.sources[row] for row in rows],
            images=None,
        )

    def to_pandas(self) -> DataFrame:
        """Return one row for each image; requires pandas.

        Returns
        -------
        pandas.DataFrame
            With the columns ``source``, ``label``, ``predicted``, ``probability`` (of the
            predicted class) and, for each class, ``probability_`` and its label.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.
        """
        columns: dict[str, object] = {
            "source": self.sources,
            "label": self.classes[self.label_indices],
            "predicted": self.classes[self.predicted_indices],
            "probability": self._confidence,
        }
        for index, label in enumerate(self.classes.tolist()):
            columns[f"probability_{label}"] = self.probabilities[:, index]
        return import_pandas().DataFrame(columns)

    def plot_confusion_matrix(self, path: str | os.PathLike[str]) -> None:
        """Draw the confusion matrix to a PNG file.

        Rows are true classes. Each cell has its number of images, and the color of its share of
        the images of the class.

        Parameters
        ----------
        path
            Ends in ``.png``. An existing file is replaced when the new one is complete.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        from transferkit.classification.evaluation_plots import plot_confusion_matrix

        plot_confusion_matrix(path, self.confusion_matrix, self.classes)

    def plot_calibration(self, path: str | os.PathLike[str]) -> None:
        """Draw a reliability diagram to a PNG file: accuracy over probability, in ten bins.

        Parameters
        ----------
        path
            Ends in ``.png``. An existing file is replaced when the new one is complete.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        from transferkit.classification.evaluation_plots import plot_calibration

        plot_calibration(path, self.calibration)

    def report(self, path: str | os.PathLike[str], *, command: str | None = None) -> None:
        """Write a page with the metrics, the mistakes and how they were found.

        One HTML file that needs no network and no scripts.

        Parameters
        ----------
        path
            Ends in ``.html``. An existing file is replaced when the new one is complete.
        command
            The command that repeats the evaluation, for the page; None: unknown.

        Raises
        ------
        UnsupportedError
            If Jinja or matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.html``.
        """
        from transferkit.classification.report import write_report

        write_report(path, self, command)

    def top_k(self, k: int) -> float:
        """Return the fraction of images whose true class is among the ``k`` most probable.

        Parameters
        ----------
        k
            At least 1.

        Raises
        ------
        ParameterError
            If ``k`` is less than 1.
        """
        k = check_integer("k", k, 1)
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return float(np.mean((best == self.label_indices[:, None]).any(axis=1)))

    def worst_pairs(self, number: int = 5) -> list[Confusion]:
        """Return the pairs of classes that are confused most often, at most ``number``.

        Raises
        ------
        ParameterError
            If ``number`` is not an integer of at least 1.
        """
        number = check_integer("number", number, 1)
        errors = self.confusion_matrix
        np.fill_diagonal(errors, 0)
        labels = self.classes.tolist()
        order = np.argsort(-errors, axis=None, kind="stable")[:number]
        rows, columns = np.unravel_index(order, errors.shape)
        return [
            Confusion(labels[row], labels[column], int(errors[row, column]))
            for row, column in zip(rows, columns, strict=True)
            if errors[row, column]
        ]

    def __str__(self) -> str:
        total = len(self.label_indices)
        low, high = self.interval
        lines = [
            f"accuracy {self.accuracy:.4f} ({round(self.accuracy * total)} of {total}; 95% "
            f"interval {low:.4f} to {high:.4f})"
        ]
        lines += [
            f"{label}: precision {format_score(score.precision)}, recall "
            f"{format_score(score.recall)}, {score.support} images"
            for label, score in self.per_class.items()
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Evaluation of {len(self.classes)} classes: {str(self).splitlines()[0]}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(str(label))}</td><td>{format_score(score.precision)}</td>"
            f"<td>{format_score(score.recall)}</td><td>{format_score(score.f1)}</td>"
            f"<td>{score.support}</td></tr>"
            for label, score in self.per_class.items()
        )
        headings = "".join(
            f"<th>{name}</th>" for name in ("class", "precision", "recall", "F1", "images")
        )
        return (
            f"<p>{escape(str(self).splitlines()[0])}</p>"
            f"<table><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>"
        )


Metric: TypeAlias = str | Callable[[Evaluation], float | None]
"""The types of the parameter ``metric`` of `Evaluation.interval_of`."""


def format_score(score: float | None) -> str:
    """Return a precision or recall with three decimals; "-" for None."""
    return "-" if score is None else f"{score:.3f}"


def wilson_interval(accuracy: float, number: int) -> tuple[float, float]:
    """Return the 95% confidence interval of an accuracy, by Wilson's score method.

    Parameters
    ----------
    accuracy
        The fraction of correctly classified images.
    number
        The number of images, at least 1.

    References
    ----------
    Wilson, 1927, "Probable inference, the law of succession, and statistical inference".

    Examples
    --------
    >>> from transferkit.classification.evaluation import wilson_interval
    >>> low, high = wilson_interval(0.9, 100)
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    squared = _NORMAL_QUANTILE**2
    center = accuracy + squared / (2 * number)
    margin = _NORMAL_QUANTILE * math.sqrt(
        accuracy * (1 - accuracy) / number + squared / (4 * number**2)
    )
    scale = 1 + squared / number
    return max((center - margin) / scale, 0.0), min((center + margin) / scale, 1.0)


def _ratio(part: np.intp, whole: np.intp) -> float | None:
    return float(part / whole) if whole else None
