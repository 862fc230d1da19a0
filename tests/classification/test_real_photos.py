"""Accuracy of classifiers on real photos, and parity of their predictions between backends.

Features are computed once for each backend, and `fit_head` is called directly. Other tests
show that `Classifier` does the same. The accuracy is measured on one backend, with whose
predictions those of the others are compared.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from transferkit import FeatureExtractor, list_labeled_images
from transferkit.backends import Backend
from transferkit.classification.head import fit_head


class Part(NamedTuple):
    """The embeddings of the photos of a folder, scaled to length 1, and their labels."""

    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.str_]


@cache
def part(folder: Path, backend: str, number: int | None = None) -> Part:
    """Return all photos, or ``number`` of each class, sampled with a fixed seed."""
    paths, names = list_labeled_images(folder)
    labels = np.asarray(names)
    generator = np.random.default_rng(0)
    rows = np.concatenate(
        [
            generator.permutation(np.flatnonzero(labels == name))[:number]
            for name in np.unique(labels)
        ]
    )
    chosen = [paths[row] for row in rows]
    found = FeatureExtractor("mobilenet_v2", backend=backend).transform(chosen)
    return Part(found / np.linalg.norm(found, axis=1, keepdims=True), labels[rows])


def train(chosen: Part, test: Part) -> npt.NDArray[np.str_]:
    """Return the predictions for ``test`` of a classifier that is fitted to ``chosen``."""
    classes, numbers = np.unique(chosen.labels, return_inverse=True)
    weight, bias, C, *_ = fit_head(chosen.embeddings, numbers, C=None, seed=0)
    print(f"\n{len(numbers)} photos, {len(classes)} classes: C = {C:g}", end="")  # noqa: T201
    return classes[(test.embeddings @ weight.T + bias).argmax(axis=1)]


@cache
def predictions(folder: Path, name: str, backend: str, number: int | None) -> Part:
    """Return the test photos with their predicted labels."""
    test = part(folder / name / "test", backend)
    return Part(test.embeddings, train(part(folder / name / "train", backend, number), test))


CASES = [
    pytest.param("cats_dogs", None, 0.985, id="cats and dogs, all"),
    pytest.param("cats_dogs", 100, 0.97, id="cats and dogs, 100 each"),
    pytest.param("pets", None, 0.81, id="pets"),
]


@pytest.mark.parametrize(("name", "number", "minimum"), CASES)
def test_accuracy(data_folder: Path, name: str, number: int | None, minimum: float) -> None:
    test = part(data_folder / name / "test", "onnxruntime")
    predicted = predictions(data_folder, name, "onnxruntime", number)
    accuracy = np.mean(predicted.labels == test.labels)
    print(f", accuracy {accuracy:.4f} on {len(test.labels)}")  # noqa: T201
    assert accuracy >= minimum


@pytest.mark.parametrize(("name", "number"), [("cats_dogs", 100), ("pets", None)])
def test_parity_of_predictions(
    data_folder: Path, backend_pair: tuple[Backend, Backend], name: str, number: int | None
) -> None:
    first, second = (
        predictions(data_folder, name, backend.name, number) for backend in backend_pair
    )
    differing = np.flatnonzero(first.labels != second.labels)
    print(f", {len(differing)} of {len(first.labels)} differ")  # noqa: T201
    assert len(differing) == 0
