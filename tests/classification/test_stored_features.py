"""Fitting a classifier to a store: the same classifier as from the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import colored, tiny_classifier, tiny_extractor, write_images

from transferkit import FeatureStore, FineTuning, Preprocessing
from transferkit.backends import Backend
from transferkit.datasets import LabelledImages
from transferkit.errors import (
    DatasetError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images.reading import ImageTypeError

LABELS = ["red", "green", "blue"] * 6


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """18 images of three colors, of which two cannot be read."""
    paths = write_images(tmp_path / "photos", colored([0, 1, 2] * 6))
    paths[3].write_bytes(b"")
    paths[17].write_bytes(b"")
    return paths


@pytest.fixture
def store(backend: Backend, photos: list[Path], tmp_path: Path) -> FeatureStore:
    extractor = tiny_extractor(backend=backend)
    return extractor.extract_to(tmp_path / "s", photos, ["embedding", "relu1"], shard_size=7)


@pytest.mark.parametrize("layer", ["embedding", "pooled", "relu1"])
def test_the_classifier_is_that_of_the_images(
    backend: Backend, store: FeatureStore, photos: list[Path], layer: str
) -> None:
    classifier = tiny_classifier(backend=backend, layer=layer, C=1.0)
    classifier.fit(photos, LABELS, on_error="skip")
    expected = classifier.predict_proba(colored([0, 1, 2], seed=1))
    readable = [label for index, label in enumerate(LABELS) if index not in (3, 17)]
    for labels in (LABELS, readable):
        fitted = tiny_classifier(backend=backend, layer=layer, C=1.0).fit(store, labels)
        assert fitted.n_samples_fit_ == 16
        probabilities = fitted.predict_proba(colored([0, 1, 2], seed=1))
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert fitted.predict(colored([0, 1, 2], seed=1)).tolist() == ["red", "green", "blue"]


def test_weights_are_those_of_the_images(
    backend: Backend, store: FeatureStore, photos: list[Path]
) -> None:
    weights = np.arange(18) % 4
    images = tiny_classifier(backend=backend, C=1.0).fit(
        photos, LABELS, sample_weight=weights, on_error="skip"
    )
    stored = tiny_classifier(backend=backend, C=1.0).fit(store, LABELS, sample_weight=weights)
    np.testing.assert_allclose(
        stored.model_.weights["head.weight"], images.model_.weights["head.weight"], atol=1e-4
    )


def test_float16_and_images_that_are_gone_are_enough(
    backend: Backend, photos: list[Path], tmp_path: Path
) -> None:
    store = tiny_extractor(backend=backend).extract_to(tmp_path / "h", photos, dtype="float16")
    for path in photos:
        path.unlink()
    classifier = tiny_classifier(backend=backend, C=1.0).fit(store, LABELS)
    assert classifier.predict(colored([2], seed=1)).tolist() == ["blue"]


@pytest.mark.parametrize(
    ("parameters", "labels", "error", "message"),
    [
        ({}, LABELS[:15], DatasetError, "16 rows and 2 skipped images, but y has 15 labels"),
        ({}, None, DatasetError, "one label for each of its rows"),
        ({"layer": "conv1"}, LABELS, UnknownNameError, "has no layer 'conv1'"),
        ({"layer": "embeding"}, LABELS, UnknownNameError, "did you mean 'embedding'"),
        (
            {"preprocessing": Preprocessing(32)},
            LABELS,
            ParameterError,
            "preprocessing.size is 16 in the store, 32 in the classifier",
        ),
        (
            {"network": "mobilenet_v2", "weights": "random", "preprocessing": None},
            LABELS,
            ParameterError,
            "network is 'tiny' in the store, 'mobilenet_v2' in the classifier; .*; pass the",
        ),
        (
            {"fine_tuning": FineTuning(epochs=1)},
            LABELS,
            UnsupportedError,
            "X is a store of features, which has none",
        ),
    ],
)
def test_bad_input_is_a_typed_error(
    backend: Backend,
    store: FeatureStore,
    parameters: dict[str, Any],
    labels: list[str] | None,
    error: type[Exception],
    message: str,
) -> None:
    classifier = tiny_classifier(**{"backend": backend, "C": 1.0, **parameters})
    with pytest.raises(error, match=message):
        classifier.fit(store, labels)


def test_labels_are_matched_by_source(
    backend: Backend, store: FeatureStore, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny_classifier(backend=backend, C=1.0).fit(store, LABELS)
    monkeypatch.chdir(photos[0].parent)
    shuffled = np.random.default_rng(0).permutation(18)
    data = LabelledImages([photos[i] for i in shuffled], [LABELS[i] for i in shuffled])
    mappings: list[Any] = [
        {str(photos[i]): LABELS[i] for i in shuffled},
        {photos[i].name: LABELS[i] for i in shuffled},
        {photos[i]: LABELS[i] for i in shuffled if i not in (3, 17)},
        data,
    ]
    for y in mappings:
        fitted = tiny_classifier(backend=backend, C=1.0).fit(store, y)
        np.testing.assert_array_equal(
            fitted.model_.weights["head.weight"], expected.model_.weights["head.weight"]
        )


def test_sources_without_a_label_are_counted(
    backend: Backend, store: FeatureStore, photos: list[Path]
) -> None:
    classifier = tiny_classifier(backend=backend, C=1.0)
    labels = dict(zip(map(str, photos[4:]), LABELS[4:], strict=True))
    with pytest.raises(DatasetError, match=r"3 of the 16 images .* no label in y: .*X\.sources"):
        classifier.fit(store, labels)
    with pytest.raises(DatasetError, match="y has the splits 'a', 'b'"):
        classifier.fit(store, LabelledImages(photos, LABELS, splits=np.array(["a", "b"] * 9)))
    with pytest.raises(DatasetError, match="y is a dict, which is accepted for a FeatureStore"):
        classifier.fit(photos, labels)


def test_a_store_is_no_images(backend: Backend, store: FeatureStore, photos: list[Path]) -> None:
    classifier = tiny_classifier(backend=backend, C=1.0).fit(photos, LABELS, on_error="skip")
    extractor = tiny_extractor(backend=backend)
    calls: list[Callable[[], object]] = [
        lambda: classifier.predict(store),
        lambda: classifier.score(store, LABELS[:16]),  # type: ignore[arg-type]
        lambda: classifier.evaluate(store, LABELS[:16]),  # type: ignore[arg-type]
        lambda: classifier.evaluate(store),  # type: ignore[arg-type]
        lambda: extractor.transform(store),  # type: ignore[arg-type]
        lambda: list(extractor.iter_extract(store)),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ImageTypeError, match=r"such as store\['embedding'\]"):
            call()
