"""Rounding of adversarial images to the 8 bits of the files, without leaving the epsilon ball."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transferkit.images.conversion import to_uint8
from transferkit.optimization.attacks.norms import vector_norms

__all__ = ["TOLERANCE", "has_uint8_neighbor", "round_within_epsilon", "uint8_levels"]

TOLERANCE = 5e-7
"""How much a norm may exceed epsilon because of float32 rounding, as a fraction of
max(1, epsilon)."""

_SAME_LEVEL = 1e-3


def round_within_epsilon(
    images: npt.NDArray[np.float32],
    originals: npt.NDArray[np.float32],
    epsilon: float | None,
    norm: str,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Round images to 8 bits, toward the originals where they would leave the epsilon ball.

    Parameters
    ----------
    images
        (n, h, w, 3), float32; clipped to [0, 1].
    originals
        The same shape, in [0, 1].
    epsilon, norm
        The largest allowed norm of each perturbation; None: no limit.

    Returns
    -------
    rounded
        (n, h, w, 3), uint8.
    is_within
        (n,) bool: whether each rounded image is within epsilon. Always True if the originals are
        8-bit images and the images are within epsilon.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization.attacks.rounding import round_within_epsilon
    >>> originals = np.full((1, 1, 1, 3), 100 / 255, np.float32)
    >>> images = originals + np.float32(1.6 / 255)
    >>> rounded, is_within = round_within_epsilon(images, originals, 1.6 / 255, "linf")
    >>> rounded.ravel().tolist(), is_within.tolist()
    ([101, 101, 101], [True])
    """
    clipped = np.clip(images.astype(np.float64), 0, 1)
    nearest = to_uint8(clipped)
    if epsilon is None:
        return nearest, np.ones(len(images), np.bool_)
    levels, original_levels = nearest.astype(np.float64), uint8_levels(originals)
    limit = epsilon + TOLERANCE * max(1.0, epsilon)
    if norm == "linf":
        low, high = original_levels - limit * 255, original_levels + limit * 255
        levels = np.clip(np.clip(levels, np.ceil(low), np.floor(high)), 0, 255)
    elif norm in ("l1", "l2"):
        power = 1 if norm == "l1" else 2
        levels = np.stack(
            [
                _round_into_ball(exact, rounded, original, 255 * limit, power)
                for exact, rounded, original in zip(
                    clipped * 255, levels, original_levels, strict=True
                )
            ]
        )
    is_within = vector_norms(levels / 255 - original_levels / 255, norm) <= limit
    if norm == "l0":
        # Rounding an original that lies between two levels does not count as a change.
        is_within = vector_norms(levels - np.rint(original_levels), norm) <= limit
    return levels.astype(np.uint8), is_within


def has_uint8_neighbor(originals: npt.NDArray[np.float32], epsilon: float) -> npt.NDArray[np.bool_]:
    """Return whether an 8-bit image other than its own rounding may be within epsilon of each.

    Parameters
    ----------
    originals
        (n, h, w, 3), in [0, 1].
    epsilon
        The largest allowed norm, ``"linf"``, ``"l2"`` or ``"l1"``: a perturbation of a single
        value has the same norm in each.

    Returns
    -------
    array
        (n,) bool. An 8-bit image is at a distance of at least 1/255 from all others.
    """
    limit = 255 * (epsilon + TOLERANCE * max(1.0, epsilon))
    levels = uint8_levels(originals)
    has_other_level = np.floor(levels + limit) > np.ceil(levels - limit)
    return np.asarray(has_other_level.any(axis=(1, 2, 3)))


def uint8_levels(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return images in [0, 1] in units of 8-bit levels; whole numbers for 8-bit images."""
    levels = images.astype(np.float64) * 255
    nearest = np.rint(levels)
    # Multiples of 1/255 are not exact in float32.
    return np.where(np.abs(levels - nearest) < _SAME_LEVEL, nearest, levels)


def _round_into_ball(
    exact: npt.NDArray[np.float64],
    rounded: npt.NDArray[np.float64],
    original: npt.NDArray[np.float64],
    radius: float,
    power: int,
) -> npt.NDArray[np.float64]:
    """Round as few values as necessary toward the original, those with the largest effect first.

    All arguments are in units of 8-bit levels; ``power`` is 1 for l1, 2 for l2.
    """
    inwards = np.where(exact > original, np.floor(exact), np.ceil(exact))
    savings = np.abs(rounded - original) ** power - np.abs(inwards - original) ** power
    savings = savings.ravel()
    excess = float((np.abs(rounded - original) ** power).sum()) - radius**power
    if excess <= 0:
        return rounded
    order = np.argsort(-savings, kind="stable")
    order = order[savings[order] > 0]
    count = int(np.searchsorted(np.cumsum(savings[order]), excess)) + 1
    result = rounded.copy()
    result.ravel()[order[:count]] = inwards.ravel()[order[:count]]
    return result
