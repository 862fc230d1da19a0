"""How well probabilities agree with the fraction of images that are classified correctly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Calibration", "ReliabilityBin", "measure_calibration"]

_NUM_BINS = 10


class ReliabilityBin(NamedTuple):
    """The images whose predicted class has a probability in one range.

    Attributes
    ----------
    low, high
        The range, from above ``low`` up to ``high``.
    images
        The number of images.
    confidence
        The mean probability of their predicted classes; None if there are none.
    accuracy
        The fraction of them that are classified correctly; None if there are none.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well probabilities agree with the fraction of correctly classified images.

    Attributes
    ----------
    ece
        The expected calibration error, in [0, 1]: the mean over all images of the difference
        between the mean probability and the accuracy of the image's bin. There are ten bins of
        equal width (Guo et al., 2017, "On Calibration of Modern Neural Networks", equation 3).
    ece_by_chance
        The mean ``ece`` of a classifier whose probabilities are exactly right, on as many images
        with the same probabilities: with few images in each bin it is well above 0. Of the
        normal approximation of the number of correct images in each bin.
    bins
        The ten bins, from 0 to 1.
    temperature
        By which the classifier divides its logits; None if unknown.
    """

    ece: float
    ece_by_chance: float
    bins: tuple[ReliabilityBin, ...]
    temperature: float | None = None

    @property
    def excess(self) -> float:
        """The part of ``ece`` that chance does not explain, at least 0."""
        return max(self.ece - self.ece_by_chance, 0.0)


def measure_calibration(
    probabilities: npt.NDArray[np.floating],
    classes: npt.NDArray[np.intp],
    temperature: float | None = None,
) -> Calibration:
    """Return the calibration of predicted probabilities.

    Parameters
    ----------
    probabilities
        (n, c) the probability of each class.
    classes
        (n,) the true class of each image, as a column of ``probabilities``.
    temperature
        By which the classifier divides its logits; None if unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.calibration import measure_calibration
    >>> calibration = measure_calibration(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1]))
    >>> calibration.ece, round(calibration.ece_by_chance, 3)
    (0.0, 0.173)
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = probabilities.argmax(axis=1) == classes
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    # The first edge that a probability does not exceed ends its bin.
    of_image = np.clip(np.searchsorted(edges, confidence) - 1, 0, _NUM_BINS - 1)
    bins: list[ReliabilityBin] = []
    error = by_chance = 0.0
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        inside = of_image == index
        number = int(inside.sum())
        if not number:
            bins.append(ReliabilityBin(low, high, 0, None, None))
            continue
        mean, accuracy = float(confidence[inside].mean()), float(hits[inside].mean())
        bins.append(ReliabilityBin(low, high, number, mean, accuracy))
        error += number * abs(mean - accuracy)
        # The mean of the absolute value of a normal variable.
        variance = float((confidence[inside] * (1 - confidence[inside])).sum())
        by_chance += math.sqrt(2 * max(variance, 0.0) / math.pi)
    total = len(classes)
    return Calibration(error / total, by_chance / total, tuple(bins), temperature)
