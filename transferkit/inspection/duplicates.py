"""Copies among images: exact ones by their digest, others by embeddings and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.inspection.alignment import compare_copies
from transferkit.inspection.neighbors import find_neighbors

__all__ = ["Pair", "exact_pairs", "groups_of_copies", "near_pairs"]

# The neighbors of each image that are compared in 64 x 64 pixels: by embedding, and by a copy of
# 16 x 16 pixels if it correlates so much. Embeddings of drawings change when these are resized, but
# their copies do not.
_NEIGHBORS = 8
_PIXEL_NEIGHBORS = 2
_COARSE = 16
_MIN_CORRELATION = 0.9
# The closeness of two embeddings is their cosine similarity on a scale from 0, that of the last of
# the neighbors in most of the data set, to 1, identical. From the first number on, pairs are
# compared, as are nearest neighbors; from the second on, crops are searched.
_COMPARED, _SEARCHED = 0.3, 0.45
# Below, not even nearest neighbors are compared.
_MIN_COSINE = 0.5
# A data set of copies only has no usual distance.
_MIN_DISTANCE = 0.01
# How much mean colors may differ: absolutely, and relative to their distance from gray.
_COLOR_TOLERANCE = 0.04
_RELATIVE_COLOR_TOLERANCE = 0.4


Floats = npt.NDArray[np.float32]


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
    embeddings: Floats,
    threshold: float,
) -> list[Pair]:
    """Return the pairs of neighbors that are the same image in pixels.

    Parameters
    ----------
    copies
        (n, 64, 64) small gray copies, n at least 2.
    colors
        (n, 3) mean colors, `Measures.color`.
    embeddings
        (n, d) of unit length.
    threshold
        The similarity in pixels from which on two images are copies.
    """
    candidates = _candidates(copies, embeddings)
    same = _have_same_colors(colors[candidates.low], colors[candidates.high])
    low, high = candidates.low[same], candidates.high[same]
    similarity = compare_copies(copies, low, high)
    searched = np.flatnonzero((similarity < threshold) & candidates.is_searched[same])
    similarity[searched] = np.maximum(
        similarity[searched], compare_copies(copies, low[searched], high[searched], search=True)
    )
    return [
        Pair(int(low[row]), int(high[row]), float(min(similarity[row], 1.0)), threshold)
        for row in np.flatnonzero(similarity >= threshold)
    ]


class _Candidates(NamedTuple):
    """Pairs that may be copies, each once.

    ``is_searched`` is whether crops are searched.
    """

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    is_searched: npt.NDArray[np.bool_]


def _candidates(copies: npt.NDArray[np.uint8], embeddings: Floats) -> _Candidates:
    number = len(copies)
    by_embedding = find_neighbors(embeddings, min(_NEIGHBORS, number - 1))
    usual = np.median(by_embedding.similarities[:, -1])
    scale = np.maximum(1 - usual, np.float32(_MIN_DISTANCE))
    closeness = (by_embedding.similarities - usual) / scale
    nearest = np.zeros(closeness.shape, bool)
    nearest[:, 0] = True
    kept = nearest | (closeness >= _COMPARED)
    kept &= by_embedding.similarities >= _MIN_COSINE
    by_pixels = find_neighbors(_coarse_vectors(copies), min(_PIXEL_NEIGHBORS, number - 1))
    alike = by_pixels.similarities >= _MIN_CORRELATION
    first = np.concatenate([np.nonzero(kept)[0], np.nonzero(alike)[0]])
    second = np.concatenate([by_embedding.indices[kept], by_pixels.indices[alike]])
    low, high = np.minimum(first, second), np.maximum(first, second)
    is_nearest = np.concatenate([nearest[kept], np.zeros(alike.sum(), bool)])
    # Each pair once, that of a nearest neighbor before others.
    order = np.lexsort((~is_nearest, high, low))
    low, high, is_nearest = low[order], high[order], is_nearest[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    low, high, is_nearest = low[is_new], high[is_new], is_nearest[is_new]
    cosine = np.einsum("nd,nd->n", embeddings[low], embeddings[high])
    return _Candidates(low, high, is_nearest & ((cosine - usual) / scale >= _SEARCHED))


def _coarse_vectors(copies: npt.NDArray[np.uint8]) -> Floats:
    """Return vectors of unit length whose product is the correlation of small copies."""
    factor = copies.shape[1] // _COARSE
    means = copies.reshape(len(copies), _COARSE, factor, _COARSE, factor).mean((2, 4), np.float32)
    vectors: Floats = means.reshape(len(copies), -1)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1.0)
    return vectors


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
