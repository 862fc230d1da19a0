"""Intervals of the difference between two accuracies on the same images."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from transferkit.classification.evaluation import wilson_interval

__all__ = ["paired_interval"]


def paired_interval(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the 95% confidence interval of the accuracy of one classifier minus another's.

    Both classify the same images and mostly fail on the same ones, so that the difference is known
    better than either accuracy.

    Parameters
    ----------
    first, second
        (n,) whether each image is classified correctly, with n of at least 1.

    Returns
    -------
    low, high
        In [-1, 1].

    References
    ----------
    Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", method 10: Wilson's intervals of both accuracies, combined with their
    correlation.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.comparison import paired_interval
    >>> first = np.arange(100) < 90
    >>> low, high = paired_interval(first, np.arange(100) < 85)
    >>> round(low, 3), round(high, 3)
    (0.001, 0.108)
    """
    n = len(first)
    both = int((first & second).sum())
    only_first = int((first & ~second).sum())
    only_second = int((~first & second).sum())
    neither = n - both - only_first - only_second
    p1, p2 = (both + only_first) / n, (both + only_second) / n
    low1, high1 = wilson_interval(p1, n)
    low2, high2 = wilson_interval(p2, n)
    phi = _correlation(both, only_first, only_second, neither)
    below = _combine(p1 - low1, high2 - p2, phi)
    above = _combine(high1 - p1, p2 - low2, phi)
    return max(p1 - p2 - below, -1.0), min(p1 - p2 + above, 1.0)


def _combine(one: float, other: float, phi: float) -> float:
    """Return the margin of a difference from those of its parts and their correlation."""
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Return the correlation phi of a table of 2 x 2, with Newcombe's continuity correction."""
    n = both + only_first + only_second + neither
    product = (
        (both + only_first)
        * (only_second + neither)
        * (both + only_second)
        * (only_first + neither)
    )
    if product == 0:
        return 0.0
    determinant = both * neither - only_first * only_second
    if determinant > 0:
        return max(determinant - n / 2, 0.0) / math.sqrt(product)
    return determinant / math.sqrt(product)
