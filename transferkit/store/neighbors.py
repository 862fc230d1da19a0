"""The nearest images by the angle between their features, with little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import NotFiniteError, ShapeError

__all__ = ["Neighbors", "check_query", "find_nearest"]

_ONE = np.float32(1)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """The images of a store that are most similar to a query, the most similar first.

    Attributes
    ----------
    sources
        (k,) their sources.
    rows
        (k,) their rows in the arrays of the store, from 0.
    similarities
        (k,) the cosine of the angle between their features and the query, in [-1, 1].
    """

    sources: Sequence[str]
    rows: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


def check_query(query: npt.ArrayLike, shape: Sequence[int], layer: str) -> npt.NDArray[np.float32]:
    """Return a query as a vector.

    Raises
    ------
    ShapeError
        If it is not the output of a layer with this shape for one image.
    NotFiniteError
        If a value is NaN or infinite.
    """
    array = np.asarray(query)
    length = int(np.prod(shape))
    if array.dtype.kind not in "fiu" or array.size != length or max(array.shape, default=1) < 1:
        described = " x ".join(map(str, array.shape)) or "none"
        raise ShapeError(
            f"the query is an array of dtype {array.dtype} and shape {described}; expected "
            f"{length:,} numbers, the output of layer {layer!r} for one image"
        )
    vector = array.reshape(-1).astype(np.float32)
    if not np.isfinite(vector).all():
        raise NotFiniteError("the query has values that are NaN or infinite")
    return vector


def find_nearest(
    query: npt.NDArray[np.float32], blocks: Iterable[npt.NDArray[Any]], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the rows with the largest cosine similarity to a query, in blocks of rows.

    Parameters
    ----------
    query
        (d,) finite.
    blocks
        Arrays (m, d), whose rows are counted from the first of the first. One at a time is in
        memory. The similarity of a vector of length 0, or that is not finite, is 0.
    k
        The number of rows.

    Returns
    -------
    rows, similarities
        (k,), or fewer if there are fewer rows; sorted by similarity, then by row.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.store.neighbors import find_nearest
    >>> vectors = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
    >>> rows, similarities = find_nearest(np.array([0, 1], np.float32), [vectors], 2)
    >>> rows.tolist(), similarities.round(4).astype(str).tolist()
    ([2, 1], ['1.0', '0.7071'])
    """
    unit = _unit(query[None])[0]
    rows: npt.NDArray[np.int64] = np.empty(0, np.int64)
    best: npt.NDArray[np.float32] = np.empty(0, np.float32)
    start = 0
    for block in blocks:
        similarities = _unit(block.astype(np.float32)) @ unit
        similarities[~np.isfinite(similarities)] = 0
        rows = np.concatenate([rows, np.arange(start, start + len(block))])
        best = np.concatenate([best, similarities.clip(-1, 1)])
        order = np.lexsort((rows, -best))[:k]
        rows, best = rows[order], best[order]
        start += len(block)
    return rows, best


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale vectors to unit length; those of length 0 remain so."""
    # By the largest value first, whose square could overflow or vanish.
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scaled = vectors / np.where(largest > 0, largest, _ONE)
        length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        unit = scaled / np.where(length > 0, length, _ONE)
    return np.asarray(unit, np.float32)
