"""The result of evaluating a classifier on labeled images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.images import Skipped

__all__ = ["ClassScore", "Confusion", "Evaluation", "Mistake"]


class ClassScore(NamedTuple):
    """Precision and recall of one class.

    Attributes
    ----------
    precision
        The fraction of the images predicted as this class that belong to it; nan if there are
        none.
    recall
        The fraction of the images of this class that are predicted as such; nan if there are
        none.
    support
        The number of images of this class.
    """

    precision: float
    recall: float
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
        (c,) the classes, in the order of the matrix.
    confusion_matrix
        (c, c) integers: rows are true classes, columns predicted ones.
    mistakes
        The misclassified images, most confident first.
    skipped
        The images that could not be read, and why. They are not counted anywhere.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import Evaluation
    >>> evaluation = Evaluation(np.array(["cat", "dog"]), np.array([[3, 1], [0, 4]]), [], [])
    >>> evaluation.accuracy, evaluation.worst_pairs(1)[0].images
    (0.875, 1)
    >>> evaluation.per_class["cat"]
    ClassScore(precision=1.0, recall=0.75, support=4)
    """

    classes: npt.NDArray[np.generic]
    confusion_matrix: npt.NDArray[np.intp]
    mistakes: list[Mistake]
    skipped: list[Skipped]

    @property
    def accuracy(self) -> float:
        """The fraction of correctly classified images, in [0, 1]."""
        return float(self.confusion_matrix.trace() / self.confusion_matrix.sum())

    @property
    def per_class(self) -> Mapping[Hashable, ClassScore]:
        """Each class with its precision, recall and number of images."""
        correct = self.confusion_matrix.diagonal()
        predicted = self.confusion_matrix.sum(axis=0)
        support = self.confusion_matrix.sum(axis=1)
        return {
            label: ClassScore(_ratio(hits, chosen), _ratio(hits, images), int(images))
            for label, hits, chosen, images in zip(
                self.classes.tolist(), correct, predicted, support, strict=True
            )
        }

    def worst_pairs(self, number: int = 5) -> list[Confusion]:
        """Return the pairs of classes that are confused most often, at most ``number``."""
        errors = self.confusion_matrix.copy()
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
        total = int(self.confusion_matrix.sum())
        correct = int(self.confusion_matrix.trace())
        lines = [f"accuracy {self.accuracy:.4f} ({correct} of {total})"]
        lines += [
            f"{label}: precision {score.precision:.3f}, recall {score.recall:.3f}, "
            f"{score.support} images"
            for label, score in self.per_class.items()
        ]
        return "\n".join(lines)


def _ratio(part: np.intp, whole: np.intp) -> float:
    return float(part / whole) if whole else float("nan")
