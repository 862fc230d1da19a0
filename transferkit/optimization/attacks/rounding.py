"""Rounding a picture to the 8 bits that it is saved with, without leaving its ball."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transferkit.optimization.attacks.norms import lengths

__all__ = ["TOLERANCE", "is_any_level_reached", "levels", "round_within"]

TOLERANCE = 5e-7
"""How much longer than epsilon a change may be by float32's rounding, as a part of max(1, epsilon)
for norms other than l-infinity."""

_SAME_LEVEL = 1e-3


def round_within(
    pictures: npt.NDArray[np.float32],
    originals: npt.NDArray[np.float32],
    epsilon: float | None,
    norm: str,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Pictures as 8-bit ones, rounded towards their originals where they would be too far.

    Parameters
    ----------
    pictures
        (n, h, w, 3), float32; clipped to [0, 1].
    originals
        The same shape, in [0, 1].
    epsilon, norm
        How far from its original each may be; None: as far as it likes.

    Returns
    -------
    rounded
        (n, h, w, 3), uint8.
    fits
        (n,) whether each is within epsilon. Always so if the originals are 8-bit pictures and
        the pictures are within.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization.attacks.rounding import round_within
    >>> original = np.full((1, 1, 1, 3), 100 / 255, np.float32)
    >>> rounded, fits = round_within(original + np.float32(1.6 / 255), original, 1.6 / 255, "linf")
    >>> rounded.ravel().tolist(), fits.tolist()
    ([101, 101, 101], [True])
    """
    values = np.clip(pictures.astype(np.float64), 0, 1) * 255
    starts = levels(originals)
    rounded = np.rint(values)
    if epsilon is None:
        return rounded.astype(np.uint8), np.ones(len(pictures), np.bool_)
    allowed = epsilon + TOLERANCE * max(1.0, epsilon)
    if norm == "linf":
        inside = np.clip(rounded, np.ceil(starts - allowed * 255), np.floor(starts + allowed * 255))
        rounded = np.clip(inside, 0, 255)
    elif norm in ("l1", "l2"):
        power = 1 if norm == "l1" else 2
        rounded = np.stack(
            [
                _shorten(value, row, start, 255 * allowed, power)
                for value, row, start in zip(values, rounded, starts, strict=True)
            ]
        )
    fits = lengths(rounded / 255 - starts / 255, norm) <= allowed
    if norm == "l0":
        # An original between two 8-bit values is no change by being rounded.
        fits = lengths(rounded - np.rint(starts), norm) <= allowed
    return rounded.astype(np.uint8), fits


def is_any_level_reached(
    originals: npt.NDArray[np.float32], epsilon: float
) -> npt.NDArray[np.bool_]:
    """Whether an 8-bit picture other than its own rounding may be within epsilon of each.

    Parameters
    ----------
    originals
        (n, h, w, 3), in [0, 1].
    epsilon
        How far a picture may be, in ``"linf"``, ``"l2"`` or ``"l1"``: the change of one value
        is as long in each.

    Returns
    -------
    array
        (n,) bool. An 8-bit picture is a 255th away from all others.
    """
    allowed = 255 * (epsilon + TOLERANCE * max(1.0, epsilon))
    starts = levels(originals)
    reached = np.floor(starts + allowed) > np.ceil(starts - allowed)
    return np.asarray(reached.any(axis=(1, 2, 3)))


def levels(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Pictures in [0, 1] in units of 8-bit levels; those that are 8-bit ones exactly so."""
    found = pictures.astype(np.float64) * 255
    whole = np.rint(found)
    # A 255th is no float32 number.
    return np.where(np.abs(found - whole) < _SAME_LEVEL, whole, found)


def _shorten(
    value: npt.NDArray[np.float64],
    rounded: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
    allowed: float,
    power: int,
) -> npt.NDArray[np.float64]:
    """As few values as will do rounded towards the start instead, those that save most first."""
    closer = np.where(value > start, np.floor(value), np.ceil(value))
    saved = (np.abs(rounded - start) ** power - np.abs(closer - start) ** power).ravel()
    excess = float((np.abs(rounded - start) ** power).sum()) - allowed**power
    if excess <= 0:
        return rounded
    order = np.argsort(-saved, kind="stable")
    order = order[saved[order] > 0]
    number = int(np.searchsorted(np.cumsum(saved[order]), excess)) + 1
    found = rounded.copy()
    found.ravel()[order[:number]] = closer.ravel()[order[:number]]
    return found
