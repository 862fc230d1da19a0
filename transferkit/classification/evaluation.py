"""The result of evaluating a classifier on labeled images."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.images import Skipped
from transferkit.support.validation import check_integer

__all__ = [
    "ClassScore",
    "Confusion",
    "Evaluation",
    "Mistake",
    "format_score",
    "wilson_interval",
]

# Of the standard normal distribution, for a two-sided interval of 95%.
_NORMAL_QUANTILE = 1.959963984540054


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


class Mistake(NamedTuple):
    """A misclassified image.

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
        labels, predicted = self.classes.tolist(), self.predicted_indices
        rows = np.flatnonzero(predicted != self.label_indices)
        confidence = self.probabilities[rows, predicted[rows]]
        return [
            Mistake(
                self.sources[row],
                labels[self.label_indices[row]],
                labels[predicted[row]],
                float(self.probabilities[row, predicted[row]]),
            )
            for row in rows[np.argsort(-confidence, kind="stable")]
        ]

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
            f"<td>{format_score(score.recall)}</td><td>{score.support}</td></tr>"
            for label, score in self.per_class.items()
        )
        headings = "".join(f"<th>{name}</th>" for name in ("class", *ClassScore._fields))
        return (
            f"<p>{escape(str(self).splitlines()[0])}</p>"
            f"<table><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>"
        )


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
