"""Accuracy of classifiers on real photos, and parity of their predictions between backends.

Features are computed once for each backend, and `fit_head` is called directly. Other tests
show that `Classifier` does the same.
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
def part(folder: Path, backend: str) -> Part:
    paths, labels = list_labeled_images(folder)
    found = FeatureExtractor("mobilenet_v2", backend=backend).transform(paths)
    return Part(found / np.linalg.norm(found, axis=1, keepdims=True), np.asarray(labels))


def train(chosen: Part, test: Part) -> npt.NDArray[np.str_]:
    """Return the predictions for ``test`` of a classifier that is fitted to ``chosen``."""
    classes, numbers = np.unique(chosen.labels, return_inverse=True)
    weight, bias, C, *_ = fit_head(chosen.embeddings, numbers, C=None, seed=0)
    print(f"\n{len(numbers)} photos, {len(classes)} classes: C = {C:g}", end="")  # noqa: T201
    return classes[(test.embeddings @ weight.T + bias).argmax(axis=1)]


def some(whole: Part, number: int) -> Part:
    """Return ``number`` photos of each class, sampled with a fixed seed."""
    generator = np.random.default_rng(0)
    rows = np.concatenate(
        [
            generator.permutation(np.flatnonzero(whole.labels == name))[:number]
            for name in np.unique(whole.labels)
        ]
    )
    return Part(whole.embeddings[rows], whole.labels[rows])


@cache
def predictions(folder: Path, name: str, backend: str, number: int | None) -> Part:
    """Return the test photos with their predicted labels."""
    whole, test = (part(folder / name / which, backend) for which in ("train", "test"))
    predicted = train(whole if number is None else some(whole, number), test)
    return Part(test.embeddings, predicted)


CASES = [
    pytest.param("cats_dogs", None, 0.985, id="cats and dogs, all"),
    pytest.param("cats_dogs", 100, 0.97, id="cats and dogs, 100 each"),
    pytest.param("pets", None, 0.81, id="pets"),
]


@pytest.mark.parametrize(("name", "number", "minimum"), CASES)
def test_accuracy(
    data_folder: Path, backend: Backend, name: str, number: int | None, minimum: float
) -> None:
    test = part(data_folder / name / "test", backend.name)
    predicted = predictions(data_folder, name, backend.name, number)
    accuracy = np.mean(predicted.labels == test.labels)
    print(f", accuracy {accuracy:.4f} on {len(test.labels)} with {backend.name}")  # noqa: T201
    assert accuracy >= minimum


@pytest.mark.parametrize(("name", "number", "minimum"), CASES)
def test_parity_of_predictions(
    data_folder: Path,
    backend_pair: tuple[Backend, Backend],
    name: str,
    number: int | None,
    minimum: float,
) -> None:
    first, second = (
        predictions(data_folder, name, backend.name, number) for backend in backend_pair
    )
    differing = np.flatnonzero(first.labels != second.labels)
    print(f", {len(differing)} of {len(first.labels)} differ")  # noqa: T201
    assert minimum < 1
    assert len(differing) == 0
