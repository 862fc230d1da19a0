"""`Classifier` with 8-bit integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import DEMO, SIDE, residual_network
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from transferkit import Classifier, FeatureExtractor, ImageOptimizer, Preprocessing
from transferkit.backends.base import INT8
from transferkit.classification.fine_tuning import FineTuning
from transferkit.classification.saved_file import read_classifier
from transferkit.errors import DatasetError, FileFormatError, ParameterError, UnsupportedError
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.weights import read_safetensors, write_safetensors
from transferkit.weights.files import digest

NETWORK = residual_network()
WEIGHTS = random_weights_and_statistics(NETWORK, seed=1)
LABELS = ["dark", "bright"] * 8


def images_of(labels: list[str], seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 128, (len(labels), 4, 4, 3))
    coarse += np.array([127 * (label == "bright") for label in labels])[:, None, None, None]
    return coarse.astype(np.uint8).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


def classifier_of(**parameters: Any) -> Classifier:
    parameters = {
        "network": NETWORK,
        "weights": WEIGHTS,
        "preprocessing": Preprocessing(SIDE),
        "precision": INT8,
        "C": 10.0,
        **parameters,
    }
    return Classifier(**parameters)


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    return classifier_of().fit(images_of(LABELS), LABELS)


@pytest.fixture
def saved(fitted: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "classifier.safetensors"
    fitted.save(path)
    return path


def test_photos_are_classified() -> None:
    classifier = Classifier(precision=INT8).fit(DEMO / "train")
    assert classifier.score(DEMO / "test") == 1
    assert classifier.calibration_.num_images == 24


def test_the_head_is_fitted_to_the_features_that_it_gets(fitted: Classifier) -> None:
    images = images_of(LABELS)
    assert fitted.score(images, LABELS) == 1
    extractor = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8
    ).calibrate(images)
    assert extractor.calibration_ == fitted.calibration_
    outputs = FeatureExtractor(fitted.model_, precision=INT8).extract(
        images, ["embedding", "probabilities"]
    )
    np.testing.assert_array_equal(outputs["embedding"], extractor.transform(images))
    np.testing.assert_array_equal(outputs["probabilities"], fitted.predict_proba(images))


@pytest.mark.parametrize("layer", ["narrow.conv", "add", "add.relu", "pooled"])
def test_inner_layers_are_the_same_in_the_fitted_network(layer: str) -> None:
    images = images_of(LABELS)
    classifier = classifier_of(layer=layer).fit(images, LABELS)
    body = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8, layer=layer
    ).calibrate(images)
    fitted = FeatureExtractor(classifier.model_, precision=INT8, layer="unit_embedding")
    features = body.transform(images)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.transform(images), unit, rtol=1e-5, atol=1e-6)


def test_a_loaded_classifier_has_the_same_numbers(fitted: Classifier, saved: Path) -> None:
    loaded = Classifier.load(saved)
    images = images_of(LABELS, seed=1)
    np.testing.assert_array_equal(loaded.predict_proba(images), fitted.predict_proba(images))
    assert loaded.precision == INT8
    assert loaded.calibration_ == fitted.model_.calibration
    again = clone(loaded).fit(images_of(LABELS), LABELS)
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_other_backends_do_not_load_it(
    saved: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    expected = r"fitted with precision='int8', which needs backend='onnxruntime'; choose it, or fit"
    with pytest.raises(UnsupportedError, match=expected):
        Classifier.load(saved, backend=name)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", name)
    with pytest.raises(UnsupportedError, match=expected):
        Classifier.load(saved)


def test_only_files_with_a_calibration_have_the_new_version(saved: Path, tmp_path: Path) -> None:
    assert read_safetensors(saved)[1]["format_version"] == "2"
    path = tmp_path / "float32.safetensors"
    classifier_of(precision="float32").fit(images_of(LABELS), LABELS).save(path)
    assert read_safetensors(path)[1]["format_version"] == "1"
    assert read_classifier(path).calibration is None


@pytest.mark.parametrize("ranges", [{"pool": [1, 2]}, {"pool": "x"}, 3, None])
def test_invalid_calibrations_are_rejected(saved: Path, ranges: object) -> None:
    tensors, metadata = read_safetensors(saved)
    metadata["calibration"] = json.dumps({"ranges": ranges, "num_images": 3})
    del metadata["sha256"]
    metadata["sha256"] = digest(tensors, metadata)
    write_safetensors(saved, {name: array.copy() for name, array in tensors.items()}, metadata)
    with pytest.raises(FileFormatError, match="damaged"):
        Classifier.load(saved)


def test_each_class_has_a_share_of_the_images_for_calibration() -> None:
    labels = ["dark"] * 240 + ["bright"] * 16
    images = images_of(labels)
    classifier = classifier_of().fit(images, labels)
    chosen = [*range(0, 240, 2), *range(240, 256, 2)]
    expected = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8
    ).calibrate(images[chosen])
    assert classifier.calibration_ == expected.calibration_


def test_precision_is_searched_over_and_each_fit_calibrates() -> None:
    search = GridSearchCV(classifier_of(), {"precision": ["float32", INT8]}, cv=2)
    search.fit(list(images_of(LABELS)), LABELS)
    assert search.best_score_ == 1
    assert set(search.cv_results_["param_precision"]) == {"float32", INT8}


def test_generators_and_weights_are_accepted() -> None:
    images = images_of(LABELS)
    weights = np.ones(len(LABELS))
    weights[0] = 0
    classifier = classifier_of().fit((image for image in images), LABELS, sample_weight=weights)
    assert classifier.calibration_.num_images == len(LABELS) - 1


def test_labels_for_other_images_are_rejected() -> None:
    with pytest.raises(DatasetError, match="X has 15 images, but y has 16 labels"):
        classifier_of().fit(images_of(LABELS)[:-1], LABELS)


def test_training_is_rejected(fitted: Classifier) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="fine_tuning is given with precision='int8'"):
        classifier_of(fine_tuning=FineTuning(epochs=1)).fit(images_of(LABELS), LABELS)
    with pytest.raises(UnsupportedError, match="was fitted with precision='int8'"):
        fitted.fine_tune(images_of(LABELS), y=LABELS)


def test_gradients_are_of_the_network_in_float32(fitted: Classifier) -> None:
    pytest.importorskip("torch")
    optimizer = ImageOptimizer(fitted.model_, backend="torch")
    assert optimizer._load()[1].calibration is None


def test_a_classifier_takes_the_calibration_of_a_store(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    images = images_of(LABELS)
    extractor = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8
    ).calibrate(images)
    store = extractor.extract_to(tmp_path / "store", images)
    classifier = classifier_of().fit(store, LABELS)
    assert classifier.calibration_ == extractor.calibration_
    expected = classifier_of().fit(images, LABELS)
    np.testing.assert_array_equal(classifier.predict_proba(images), expected.predict_proba(images))
    with pytest.raises(ParameterError, match="precision"):
        classifier_of(precision="float32").fit(store, LABELS)


def test_a_refit_on_a_store_ignores_an_earlier_calibration(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    images = images_of(LABELS)
    extractor = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8
    ).calibrate(images)
    store = extractor.extract_to(tmp_path / "store", images)
    other = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), precision=INT8
    ).calibrate(images // 2)
    refitted = classifier_of().fit(images // 2, LABELS).fit(store, LABELS)
    of_model = Classifier(other.model(), precision=INT8, C=10.0).fit(store, LABELS)
    for classifier in (refitted, of_model):
        assert classifier.calibration_ == extractor.calibration_ != other.calibration_
        assert classifier.model_.calibration is not None
        np.testing.assert_array_equal(
            classifier.predict_proba(images),
            classifier_of().fit(store, LABELS).predict_proba(images),
        )
