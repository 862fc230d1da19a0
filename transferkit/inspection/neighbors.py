"""The most similar embeddings of each image: an exact search, or an index for very many images."""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt

from transferkit.errors import UnsupportedError

__all__ = ["MAX_EXACT", "Neighbors", "check_number", "find_neighbors"]

MAX_EXACT = 100_000
"""The largest number of images for which the neighbors are searched exactly."""

# Rows whose similarities to all others are computed together: 40 MB for 100,000 images.
_BLOCK_SIZE = 10_000_000
# Of the graph of the index: neighbors of a node, and candidates of a search.
_GRAPH_NEIGHBORS = 32
_GRAPH_CANDIDATES = 128

Floats = npt.NDArray[np.float32]


class Neighbors:
    """The nearest neighbors of each image.

    Attributes
    ----------
    indices
        (n, k) the most similar images, the most similar one first.
    similarities
        (n, k) float32, the cosine similarity of each.
    """

    def __init__(self, indices: npt.NDArray[np.intp], similarities: Floats) -> None:
        self.indices = indices
        self.similarities = similarities


def check_number(number: int) -> None:
    """Check that the neighbors of so many images can be searched, before the work.

    Raises
    ------
    UnsupportedError
        If there are more than 100,000 images and faiss is not installed.

    Examples
    --------
    >>> from transferkit.inspection.neighbors import check_number
    >>> check_number(100_000)
    """
    if number > MAX_EXACT and importlib.util.find_spec("faiss") is None:
        raise UnsupportedError(
            f"{number:,} images; with more than {MAX_EXACT:,}, the search for copies needs faiss, "
            'which is not installed; pip install "transferkit[index]", or leave out the kinds of '
            "copies except 'duplicate'"
        )


def find_neighbors(embeddings: Floats, k: int) -> Neighbors:
    """Return the most similar embeddings of each.

    Up to 100,000 images the search is exact, in blocks of bounded size; beyond, it uses a graph of
    neighbors (Malkov and Yashunin 2018) of the library faiss.

    Parameters
    ----------
    embeddings
        (n, d) of unit length.
    k
        The number of neighbors, less than n.

    Raises
    ------
    UnsupportedError
        If there are more than 100,000 images and faiss is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.inspection.neighbors import find_neighbors
    >>> angles = np.array([0.0, 0.1, 2.0, 2.3], np.float32)
    >>> found = find_neighbors(np.stack([np.cos(angles), np.sin(angles)], axis=1), 1)
    >>> found.indices.ravel().tolist()
    [1, 0, 3, 2]
    """
    if len(embeddings) > MAX_EXACT:
        return _find_with_index(embeddings, k)
    number = len(embeddings)
    indices = np.empty((number, k), np.intp)
    similarities = np.empty((number, k), np.float32)
    block = max(1, _BLOCK_SIZE // number)
    for start in range(0, number, block):
        rows = np.arange(start, min(start + block, number))
        products = embeddings[rows] @ embeddings.T
        products[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(products, number - k, axis=1)[:, number - k :]
        values = np.take_along_axis(products, nearest, axis=1)
        # By position among equal ones, so that the result does not depend on the block.
        order = np.lexsort((nearest, -values), axis=1)
        indices[rows] = np.take_along_axis(nearest, order, axis=1)
        similarities[rows] = np.take_along_axis(values, order, axis=1)
    return Neighbors(indices, similarities)


def _find_with_index(embeddings: Floats, k: int) -> Neighbors:
    check_number(len(embeddings))
    import faiss

    index = faiss.IndexHNSWFlat(embeddings.shape[1], _GRAPH_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = _GRAPH_CANDIDATES
    index.add(embeddings)
    # One more, because an image is its own neighbor, but not always found.
    similarities, indices = index.search(embeddings, k + 1)
    is_self = indices == np.arange(len(embeddings))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(embeddings), k)
    return Neighbors(
        indices[~is_self].reshape(shape).astype(np.intp), similarities[~is_self].reshape(shape)
    )
