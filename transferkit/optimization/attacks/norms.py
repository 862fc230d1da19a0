"""Norms of perturbations: values, projections and steepest ascent for l0, l1, l2 and l-infinity.

All functions but `vector_norms` are written over the table of primitives, so that they run on the
device. They take perturbations (n, h, w, c) whose shape is known when they are compiled, and
represent one value per image as a tensor (n, 1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.training.averages import moving_average

__all__ = [
    "NORMS",
    "dual_norms",
    "mask_saturated",
    "project",
    "steepest_ascent",
    "tensor_norms",
    "vector_norms",
    "where",
]

NORMS = ("linf", "l2", "l1", "l0")
"""The norms: the largest absolute value, the Euclidean norm, the sum of the absolute values, and
the number of nonzero values among the h * w * c."""

_AXES = (1, 2, 3)
_TINY = 1e-20
# Each step halves the interval of the threshold; more would not change a float32 value.
_BISECTION_STEPS = 26


def vector_norms(perturbations: npt.NDArray[Any], norm: str) -> npt.NDArray[np.float64]:
    """Return the norm of each perturbation, computed in float64.

    Parameters
    ----------
    perturbations
        (n, h, w, c), for pixel values in [0, 1].
    norm
        One of `NORMS`.

    Returns
    -------
    array
        (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization.attacks.norms import NORMS, vector_norms
    >>> perturbation = np.array([0.3, -0.4, 0.0]).reshape(1, 1, 1, 3)
    >>> {norm: vector_norms(perturbation, norm).round(6).item() for norm in NORMS}
    {'linf': 0.4, 'l2': 0.5, 'l1': 0.7, 'l0': 2.0}
    """
    rows = np.abs(perturbations.reshape(len(perturbations), -1).astype(np.float64))
    if norm == "linf":
        return np.asarray(rows.max(axis=1))
    if norm == "l2":
        return np.asarray(np.sqrt((rows**2).sum(axis=1)))
    if norm == "l1":
        return np.asarray(rows.sum(axis=1))
    return np.asarray(np.count_nonzero(rows, axis=1), np.float64)


def tensor_norms(table: Table[Any], perturbations: Any, norm: str) -> Any:
    """Return the norm of each perturbation, (n, 1, 1, 1)."""
    if norm == "l2":
        squares = table.multiply(perturbations, perturbations)
        return table.sqrt(table.sum(squares, axes=_AXES, keepdims=True))
    magnitudes = table.absolute(perturbations)
    if norm == "linf":
        return table.max(magnitudes, axes=_AXES, keepdims=True)
    if norm == "l1":
        return table.sum(magnitudes, axes=_AXES, keepdims=True)
    return table.sum(table.sign(magnitudes), axes=_AXES, keepdims=True)


def dual_norms(table: Table[Any], gradients: Any, norm: str) -> Any:
    """Return the dual norm of each gradient, (n, 1, 1, 1).

    This is the largest increase of a linear function with these gradients over all perturbations
    of norm 1. For l0, which has no unit ball, it is the largest absolute component.
    """
    dual = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}[norm]
    return tensor_norms(table, gradients, dual)


def steepest_ascent(table: Table[Any], gradients: Any, norm: str, fraction: float = 0.05) -> Any:
    """Return the steepest ascent direction: the perturbation of norm 1 with the largest increase.

    For l1 that direction would be a single value of the image. Instead, the ``fraction`` of the
    nonzero components with the largest absolute gradients change equally, as in SLIDE (Tramer
    and Boneh 2019).
    """
    if norm == "linf":
        return table.sign(gradients)
    if norm == "l2":
        norms = tensor_norms(table, gradients, "l2")
        return table.divide(gradients, _at_least(table, norms, _TINY))
    count = table.multiply(tensor_norms(table, gradients, "l0"), table.asarray(fraction))
    count = _at_least(table, count, 1.0)
    mask = _top_k_mask(table, table.absolute(gradients), count)
    signs = table.multiply(table.sign(gradients), mask)
    return table.divide(signs, _at_least(table, tensor_norms(table, signs, "l1"), 1.0))


def mask_saturated(table: Table[Any], gradients: Any, x: Any) -> Any:
    """Return the gradients, set to 0 where a value of ``x`` is 0 or 1 and would leave [0, 1]."""
    minus, one = table.asarray(-1.0), table.asarray(1.0)
    upwards = table.multiply(table.relu(gradients), table.relu(table.sign(table.subtract(one, x))))
    downwards = table.multiply(
        table.relu(table.multiply(gradients, minus)), table.relu(table.sign(x))
    )
    return table.subtract(upwards, downwards)


def project(table: Table[Any], perturbations: Any, radius: Any, norm: str) -> Any:
    """Return the nearest point to each perturbation in the ball around 0 of ``radius``.

    ``radius`` is (n, 1, 1, 1). Norms may exceed it by float32 rounding.
    """
    if norm == "linf":
        units = table.divide(perturbations, _at_least(table, radius, _TINY))
        return table.multiply(table.clip(units, low=-1.0, high=1.0), radius)
    if norm == "l2":
        return _scale_into_ball(table, perturbations, radius, norm)
    magnitudes = table.absolute(perturbations)
    if norm == "l0":
        return table.multiply(perturbations, _top_k_mask(table, magnitudes, radius))

    # Duchi et al. 2008: soft thresholding with the threshold that gives the l1 norm.
    def soft_threshold(threshold: Any) -> Any:
        return table.relu(table.subtract(magnitudes, threshold))

    def l1_norm(threshold: Any) -> Any:
        return table.sum(soft_threshold(threshold), axes=_AXES, keepdims=True)

    _, threshold = _bracket_threshold(table, magnitudes, radius, l1_norm)
    projected = table.multiply(table.sign(perturbations), soft_threshold(threshold))
    return _scale_into_ball(table, projected, radius, norm)


def where(table: Table[Any], condition: Any, x: Any, y: Any) -> Any:
    """Return ``x`` where ``condition`` is 1, ``y`` where it is 0."""
    return moving_average(table, x, y, condition)


def _scale_into_ball(table: Table[Any], perturbations: Any, radius: Any, norm: str) -> Any:
    """Return the perturbations, those with a norm above ``radius`` scaled down to it."""
    norms = tensor_norms(table, perturbations, norm)
    # radius / max(radius, norm), written without a comparison.
    larger = table.add(radius, table.relu(table.subtract(norms, radius)))
    return table.multiply(perturbations, table.divide(radius, _at_least(table, larger, _TINY)))


def _top_k_mask(table: Table[Any], magnitudes: Any, k: Any) -> Any:
    """Return 1 for the ``k`` largest magnitudes of each image, 0 for the others.

    Ties are resolved in favor of the first. A magnitude of 0 is never selected.
    """
    above, at_least = _threshold_masks(table, magnitudes, k)
    # Those that differ between the masks are ties: their positions, which are unique, decide.
    height, width, channels = magnitudes.shape[1:]
    positions = np.arange(height * width * channels, 0, -1).reshape(1, height, width, channels)
    ranks = table.multiply(table.subtract(at_least, above), table.asarray(positions))
    missing = table.subtract(k, table.sum(above, axes=_AXES, keepdims=True))
    return table.add(above, _threshold_masks(table, ranks, missing)[0])


def _threshold_masks(table: Table[Any], magnitudes: Any, k: Any) -> tuple[Any, Any]:
    """Return masks of the magnitudes above a threshold: at most ``k`` of them, and just more."""

    def mask(threshold: Any) -> Any:
        return table.relu(table.sign(table.subtract(magnitudes, threshold)))

    def count(threshold: Any) -> Any:
        return table.sum(mask(threshold), axes=_AXES, keepdims=True)

    low, high = _bracket_threshold(table, magnitudes, k, count)
    return mask(high), mask(low)


def _bracket_threshold(
    table: Table[Any], magnitudes: Any, limit: Any, measure: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Return bounds of the smallest threshold whose measure is at most ``limit``, by bisection.

    ``measure`` decreases as the threshold grows. It is at most ``limit`` at the upper bound and
    not at the lower one, unless it is at 0: then both bounds are 0.
    """
    half, one = table.asarray(0.5), table.asarray(1.0)
    high = table.max(magnitudes, axes=_AXES, keepdims=True)
    # Where a threshold of 0 is enough, it must be 0: what is within the ball stays unchanged.
    low = table.multiply(high, table.asarray(0.0))
    high = table.multiply(high, _above_mask(table, measure(low), limit))
    for _ in range(_BISECTION_STEPS):
        middle = table.multiply(table.add(low, high), half)
        above = _above_mask(table, measure(middle), limit)
        fits = table.subtract(one, above)
        # As `where` does, with one complement of the mask for both.
        low = table.add(table.multiply(fits, low), table.multiply(above, middle))
        high = table.add(table.multiply(fits, middle), table.multiply(above, high))
    return low, high


def _above_mask(table: Table[Any], x: Any, limit: Any) -> Any:
    """Return 1 where ``x > limit``, else 0."""
    return table.relu(table.sign(table.subtract(x, limit)))


def _at_least(table: Table[Any], x: Any, low: float) -> Any:
    return table.add(table.relu(table.subtract(x, table.asarray(low))), table.asarray(low))
