"""Neighbors, compared with scikit-learn's."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from transferkit.errors import UnsupportedError
from transferkit.inspection import neighbors
from transferkit.inspection.neighbors import check_number, find_neighbors


@pytest.mark.parametrize("block", [1, 700, 10**7])
def test_neighbors_are_those_of_scikit_learn(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_SIZE", block)
    embeddings = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = find_neighbors(embeddings, 4)
    distances, indices = (
        NearestNeighbors(n_neighbors=4, metric="cosine").fit(embeddings).kneighbors()
    )
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is not None, reason="faiss is installed")
def test_more_images_need_the_extra() -> None:
    check_number(100_000)
    with pytest.raises(
        UnsupportedError, match=r'100,001 images.*pip install "transferkit\[index\]"'
    ):
        check_number(100_001)


def test_an_index_finds_the_same_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    embeddings = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    exact = find_neighbors(embeddings, 3)
    monkeypatch.setattr(neighbors, "MAX_EXACT", 100)
    found = find_neighbors(embeddings, 3)
    assert (found.indices == exact.indices).mean() > 0.95
    np.testing.assert_allclose(found.similarities, exact.similarities, atol=0.1)
    assert not (found.indices == np.arange(300)[:, None]).any()
