"""How good a classifier is on labelled pictures, and where it is wrong."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.images import Skipped

__all__ = ["ClassScore", "Confusion", "Evaluation", "Mistake"]


class ClassScore(NamedTuple):
    """How well one class is recognised.

    Attributes
    ----------
    precision
        Of the pictures taken for this class, the share that are; nan if there are none.
    recall
        Of the pictures of this class, the share taken for it; nan if there are none.
    support
        How many pictures of this class there are.
    """

    precision: float
    recall: float
    support: int


class Mistake(NamedTuple):
    """A picture that was taken for something else.

    Attributes
    ----------
    source
        Its path, or its place in the input.
    label
        What it is.
    predicted
        What it was taken for.
    probability
        How sure the classifier was of that, in [0, 1].
    """

    source: str
    label: Hashable
    predicted: Hashable
    probability: float


class Confusion(NamedTuple):
    """Two classes of which one was taken for the other.

    Attributes
    ----------
    label
        What the pictures are.
    predicted
        What they were taken for.
    images
        How many of them.
    """

    label: Hashable
    predicted: Hashable
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What `transferkit.Classifier.evaluate` found.

    Attributes
    ----------
    classes
        (c,) the classes, in the order of the matrix.
    confusion_matrix
        (c, c) integers: row is what the pictures are, column what they were taken for.
    mistakes
        The pictures that were taken for something else, the surest mistake first.
    skipped
        The pictures that could not be read, and why. They count in no figure.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.evaluation import Evaluation
    >>> found = Evaluation(np.array(["cat", "dog"]), np.array([[3, 1], [0, 4]]), [], [])
    >>> found.accuracy, found.per_class["cat"], found.worst_pairs(1)[0].images
    (0.875, ClassScore(precision=1.0, recall=0.75, support=4), 1)
    """

    classes: npt.NDArray[np.generic]
    confusion_matrix: npt.NDArray[np.intp]
    mistakes: list[Mistake]
    skipped: list[Skipped]

    @property
    def accuracy(self) -> float:
        """The share of pictures that were taken for what they are, in [0, 1]."""
        return float(self.confusion_matrix.trace() / self.confusion_matrix.sum())

    @property
    def per_class(self) -> Mapping[Hashable, ClassScore]:
        """Each class to its precision, recall and number of pictures."""
        right = self.confusion_matrix.diagonal()
        taken = self.confusion_matrix.sum(axis=0)
        there = self.confusion_matrix.sum(axis=1)
        return {
            label: ClassScore(_ratio(hit, chosen), _ratio(hit, number), int(number))
            for label, hit, chosen, number in zip(
                self.classes.tolist(), right, taken, there, strict=True
            )
        }

    def worst_pairs(self, number: int = 5) -> list[Confusion]:
        """The pairs of classes that are confused most often, at most ``number`` of them."""
        wrong = self.confusion_matrix.copy()
        np.fill_diagonal(wrong, 0)
        labels = self.classes.tolist()
        order = np.argsort(-wrong, axis=None, kind="stable")[:number]
        rows, columns = np.unravel_index(order, wrong.shape)
        return [
            Confusion(labels[row], labels[column], int(wrong[row, column]))
            for row, column in zip(rows, columns, strict=True)
            if wrong[row, column]
        ]

    def __str__(self) -> str:
        number = int(self.confusion_matrix.sum())
        right = int(self.confusion_matrix.trace())
        lines = [f"accuracy {self.accuracy:.4f} ({right} of {number})"]
        lines += [
            f"{label}: precision {score.precision:.3f}, recall {score.recall:.3f}, "
            f"{score.support} images"
            for label, score in self.per_class.items()
        ]
        return "\n".join(lines)


def _ratio(part: np.intp, whole: np.intp) -> float:
    return float(part / whole) if whole else float("nan")
