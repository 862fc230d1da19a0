"""How good the classifiers are on real photos, and whether each backend makes the same.

Features are computed once for each backend; what `Classifier` does with them, `fit_head`
does here. That the two are one is shown elsewhere, on smaller pictures.
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
    """The photos of a folder as vectors of length 1, and what they show."""

    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.str_]


@cache
def part(folder: Path, backend: str) -> Part:
    paths, labels = list_labeled_images(folder)
    found = FeatureExtractor("mobilenet_v2", backend=backend).transform(paths)
    return Part(found / np.linalg.norm(found, axis=1, keepdims=True), np.asarray(labels))


def train(chosen: Part, test: Part) -> npt.NDArray[np.str_]:
    """What the photos of ``test`` are taken for by a classifier made of ``chosen``."""
    classes, numbers = np.unique(chosen.labels, return_inverse=True)
    weight, bias, strength = fit_head(chosen.embeddings, numbers, C=None, seed=0)
    print(f"\n{len(numbers)} photos, {len(classes)} classes: C = {strength:g}", end="")  # noqa: T201
    return classes[(test.embeddings @ weight.T + bias).argmax(axis=1)]


def some(whole: Part, number: int) -> Part:
    """So many photos of each class, drawn at random but always the same."""
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
    """The photos to judge on, with what they are taken for."""
    whole, test = (part(folder / name / which, backend) for which in ("train", "test"))
    taken = train(whole if number is None else some(whole, number), test)
    return Part(test.embeddings, taken)


CASES = [
    pytest.param("cats_dogs", None, 0.985, id="cats and dogs, all"),
    pytest.param("cats_dogs", 100, 0.97, id="cats and dogs, 100 each"),
    pytest.param("pets", None, 0.81, id="pets"),
]


@pytest.mark.parametrize(("name", "number", "least"), CASES)
def test_accuracy(
    data_folder: Path, backend: Backend, name: str, number: int | None, least: float
) -> None:
    test = part(data_folder / name / "test", backend.name)
    taken = predictions(data_folder, name, backend.name, number)
    accuracy = np.mean(taken.labels == test.labels)
    print(f", accuracy {accuracy:.4f} on {len(test.labels)} with {backend.name}")  # noqa: T201
    assert accuracy >= least


@pytest.mark.parametrize(("name", "number", "least"), CASES)
def test_parity_of_predictions(
    data_folder: Path,
    backend_pair: tuple[Backend, Backend],
    name: str,
    number: int | None,
    least: float,
) -> None:
    first, second = (
        predictions(data_folder, name, backend.name, number) for backend in backend_pair
    )
    differing = np.flatnonzero(first.labels != second.labels)
    print(f", {len(differing)} of {len(first.labels)} differ")  # noqa: T201
    assert least < 1
    assert len(differing) == 0
