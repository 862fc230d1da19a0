"""Copies among images: exact ones by their digest, others by embeddings and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.inspection.alignment import compare_copies
from transferkit.inspection.neighbors import Neighbors

__all__ = ["Pair", "exact_pairs", "groups_of_copies", "near_pairs"]

NEIGHBORS = 6
"""The neighbors of each image that are compared in pixels."""

# Of embeddings: pairs below are not compared; below the second, no crops are searched.
_MIN_COSINE = 0.5
_MIN_COSINE_OF_SEARCH = 0.82
# How much mean colors may differ: absolutely, and relative to their distance from gray.
_COLOR_TOLERANCE = 0.04
_RELATIVE_COLOR_TOLERANCE = 0.4
# Where embeddings are much closer to each other than usual in the data set, by this fraction of
# what is left to 1, less similarity in pixels is enough.
_CLOSE = 0.5
_ALLOWANCE = 0.15


class Pair(NamedTuple):
    """Two images of which one is a copy of the other, as positions.

    Attributes
    ----------
    first, second
        The positions.
    similarity
        In pixels; 1 for exact copies.
    threshold
        What was required; None for exact copies.
    """

    first: int
    second: int
    similarity: float
    threshold: float | None


def exact_pairs(digests: Sequence[bytes], rank: npt.NDArray[np.intp]) -> Iterator[Pair]:
    """Yield pairs of images with the same digest: the first one of each group with each other one.

    Parameters
    ----------
    digests
        (n,) an empty one is equal to no other.
    rank
        (n,) the rank of each image: the one with the lowest rank is the first.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.inspection.duplicates import exact_pairs
    >>> list(exact_pairs([b"1", b"2", b"1"], np.arange(3)))
    [Pair(first=0, second=2, similarity=1.0, threshold=None)]
    """
    groups: dict[bytes, list[int]] = {}
    for index in np.argsort(rank, kind="stable").tolist():
        if digests[index]:
            groups.setdefault(digests[index], []).append(index)
    for first, *others in groups.values():
        for other in others:
            yield Pair(first, other, 1.0, None)


def near_pairs(
    copies: npt.NDArray[np.uint8],
    colors: npt.NDArray[np.float32],
    neighbors: Neighbors,
    threshold: float,
) -> list[Pair]:
    """Return the pairs of neighbors that are the same image in pixels.

    Parameters
    ----------
    copies
        (n, 64, 64) small gray copies.
    colors
        (n, 3) mean colors, `Measures.color`.
    neighbors
        The nearest neighbors of each, by embedding.
    threshold
        The similarity in pixels from which on two images are copies.
    """
    low, high, cosine, nearest = _candidates(neighbors, colors)
    similarity = compare_copies(copies, low, high)
    usual = float(np.median(neighbors.similarities[:, 0]))
    is_close = cosine - usual >= _CLOSE * (1 - usual)
    required = np.where(is_close, threshold - _ALLOWANCE, threshold)
    searched = np.flatnonzero((similarity < required) & nearest & (cosine >= _MIN_COSINE_OF_SEARCH))
    similarity[searched] = np.maximum(
        similarity[searched], compare_copies(copies, low[searched], high[searched], search=True)
    )
    return [
        Pair(int(low[row]), int(high[row]), float(min(similarity[row], 1.0)), float(required[row]))
        for row in np.flatnonzero(similarity >= required)
    ]


class _Candidates(NamedTuple):
    """Pairs of neighbors, each once.

    ``nearest`` is whether one of the two images is the nearest neighbor of the other.
    """

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    cosine: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.bool_]


def _candidates(neighbors: Neighbors, colors: npt.NDArray[np.float32]) -> _Candidates:
    number, k = neighbors.indices.shape
    first = np.repeat(np.arange(number), k)
    second = neighbors.indices.ravel()
    low, high = np.minimum(first, second), np.maximum(first, second)
    cosine = neighbors.similarities.ravel()
    nearest = np.tile(np.arange(k) == 0, number)
    # Each pair once, the entry of a nearest neighbor before others of the same pair.
    order = np.lexsort((~nearest, high, low))
    low, high = low[order], high[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    kept = (cosine[order] >= _MIN_COSINE) & _have_same_colors(colors[low], colors[high]) & is_new
    return _Candidates(low[kept], high[kept], cosine[order][kept], nearest[order][kept])


def _have_same_colors(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Return which pairs have similar colors; a brighter copy may also be more colorful."""
    larger = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    distance = np.linalg.norm(first - second, axis=1)
    same: npt.NDArray[np.bool_] = distance <= _COLOR_TOLERANCE + _RELATIVE_COLOR_TOLERANCE * larger
    return same


def groups_of_copies(number: int, pairs: Sequence[Pair]) -> npt.NDArray[np.intp]:
    """Return the group of each image: images that are linked by pairs have the same number.

    Examples
    --------
    >>> from transferkit.inspection.duplicates import Pair, groups_of_copies
    >>> groups_of_copies(4, [Pair(0, 2, 1.0, None), Pair(2, 3, 0.9, 0.87)]).tolist()
    [0, 1, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = [pair.first for pair in pairs]
    columns = [pair.second for pair in pairs]
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(number, number))
    groups: npt.NDArray[np.intp] = connected_components(links, directed=False)[1].astype(np.intp)
    return groups
