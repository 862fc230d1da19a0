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
# Where embeddings are much closer to each other than usual in the data set, by this fraction of
# what is left to 1, less similarity in pixels is enough.
_CLOSE = 0.5
_ALLOWANCE = 0.12


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
    neighbors: Neighbors,
    threshold: float,
) -> list[Pair]:
    """Return the pairs of neighbors that are the same image in pixels.

    Parameters
    ----------
    copies
        (n, 64, 64) small gray copies.
    neighbors
        The nearest neighbors of each, by embedding.
    threshold
        The similarity in pixels from which on two images are copies.
    """
    number, k = neighbors.indices.shape
    first = np.repeat(np.arange(number), k)
    second, cosine = neighbors.indices.ravel(), neighbors.similarities.ravel()
    nearest = np.tile(np.arange(k) == 0, number)
    kept = cosine >= _MIN_COSINE
    first, second, cosine, nearest = (part[kept] for part in (first, second, cosine, nearest))
    # Each pair once; nearest if one of the two is the nearest neighbor of the other.
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((~nearest, high, low))
    low, high, cosine, nearest = low[order], high[order], cosine[order], nearest[order]
    is_new = np.ones(len(low), bool)
    is_new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    low, high, cosine, nearest = low[is_new], high[is_new], cosine[is_new], nearest[is_new]
    similarity = compare_copies(copies, low, high)
    usual = float(np.median(neighbors.similarities[:, 0]))
    is_close = cosine - usual >= _CLOSE * (1 - usual)
    required = np.where(is_close, threshold - _ALLOWANCE, threshold)
    searched = np.flatnonzero(
        (similarity < required) & nearest & (cosine >= _MIN_COSINE_OF_SEARCH)
    )
    similarity[searched] = np.maximum(
        similarity[searched], compare_copies(copies, low[searched], high[searched], search=True)
    )
    return [
        Pair(int(low[row]), int(high[row]), float(min(similarity[row], 1.0)), float(required[row]))
        for row in np.flatnonzero(similarity >= required)
    ]


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
