"""`FeatureExtractor` with 8-bit integers: calibration, and the numbers afterwards."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from samples import DEMO, SIDE, residual_network
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Backend
from transferkit.backends.base import INT8
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    FileFormatError,
    ImageError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.features.identity import identify
from transferkit.testing.strategies import random_weights_and_statistics

NETWORK = residual_network()
WEIGHTS = random_weights_and_statistics(NETWORK, seed=1)


def images_of(number: int, seed: int = 0, side: int = SIDE) -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (number, 4, 4, 3), np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def extractor_of(**parameters: Any) -> FeatureExtractor:
    parameters = {
        "network": NETWORK,
        "weights": WEIGHTS,
        "preprocessing": Preprocessing(SIDE),
        "precision": INT8,
        "backend": "onnxruntime",
        **parameters,
    }
    return FeatureExtractor(**parameters)


@pytest.fixture(scope="module")
def calibrated() -> FeatureExtractor:
    return extractor_of().calibrate(images_of(24, seed=1))


def test_embeddings_of_photos_are_close_to_float32() -> None:
    expected = FeatureExtractor(backend="onnxruntime").transform(DEMO / "test")
    extractor = FeatureExtractor(precision=INT8).calibrate(DEMO / "train")
    found = extractor.transform(DEMO / "test")
    assert found.shape == expected.shape
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    assert ((expected * found).sum(axis=1) / lengths).min() > 0.97
    assert not np.allclose(found, expected, rtol=1e-3)


def test_numbers_do_not_depend_on_the_size_of_batches(calibrated: FeatureExtractor) -> None:
    images = images_of(7)
    expected = calibrated.transform(images)
    for batch_size in (1, 3, 7):
        other = extractor_of(batch_size=batch_size).calibrate(images_of(24, seed=1))
        assert other.calibration_ == calibrated.calibration_
        np.testing.assert_array_equal(other.transform(images), expected)


def test_layers_are_the_same_alone_and_together(calibrated: FeatureExtractor) -> None:
    images = images_of(3)
    layers = ["narrow.conv", "narrow.norm", "add", "add.relu", "pool", "embedding", "logits"]
    together = calibrated.extract(images, layers)
    for layer in layers:
        alone = calibrated.extract(images, [layer])[layer]
        np.testing.assert_array_equal(alone, together[layer])


def test_copies_keep_the_calibration_and_clones_do_not(calibrated: FeatureExtractor) -> None:
    images = images_of(3)
    copied = pickle.loads(pickle.dumps(calibrated))
    np.testing.assert_array_equal(copied.transform(images), calibrated.transform(images))
    cloned = clone(calibrated)
    assert cloned.precision == INT8
    with pytest.raises(NotFittedError, match=r"not calibrated; call calibrate\(images\)"):
        cloned.transform(images)


def test_a_change_of_the_network_needs_another_calibration(calibrated: FeatureExtractor) -> None:
    extractor = pickle.loads(pickle.dumps(calibrated))
    extractor.set_params(preprocessing=Preprocessing(2 * SIDE))
    with pytest.raises(NotFittedError, match="not calibrated since a change"):
        extractor.transform(images_of(2))
    assert not extractor.__sklearn_is_fitted__()
    extractor.calibrate(images_of(12)).set_params(layer="add", batch_size=2)
    assert len(extractor.transform(images_of(2))) == 2


def test_fit_calibrates_in_a_pipeline() -> None:
    images, labels = images_of(12), [0, 1] * 6
    pipeline = make_pipeline(extractor_of(), LogisticRegression())
    assert len(pipeline.fit(images, labels).predict(images)) == 12
    assert pipeline[0].calibration_.num_images == 12
    np.testing.assert_array_equal(
        extractor_of().fit_transform(images), pipeline[0].transform(images)
    )


def test_fit_needs_images_that_transform_can_read_too() -> None:
    with pytest.raises(ArgumentTypeError, match="needs images to calibrate on, but X is None"):
        extractor_of().fit()
    with pytest.raises(ArgumentTypeError, match="X is a generator"):
        extractor_of().fit(image for image in images_of(3))
    assert extractor_of(precision="float32").fit() is not None


def test_at_most_128_images_are_used_evenly() -> None:
    read = []

    class Images(list[npt.NDArray[np.uint8]]):
        def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
            for index in range(len(self)):
                read.append(index)
                yield self[index]

    images = images_of(256)
    extractor = extractor_of().calibrate(Images(images))
    assert extractor.calibration_.num_images == 128
    assert extractor.calibration_ == extractor_of().calibrate(images[::2]).calibration_
    first = extractor_of().calibrate(image for image in images)
    assert first.calibration_ == extractor_of().calibrate(images[:128]).calibration_


def test_few_images_are_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="calibrated on 3 images; with at least 10"):
        extractor_of().calibrate(images_of(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor_of().calibrate(images_of(10))


def test_images_may_differ_in_size() -> None:
    images = [*images_of(8), *images_of(8, side=2 * SIDE)]
    extractor = extractor_of(preprocessing=Preprocessing(size=None)).calibrate(images)
    assert extractor.calibration_.num_images == 16
    assert extractor.transform(images).shape == (16, 16)


def test_unreadable_images_are_an_error_or_skipped(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    images = [*images_of(12), broken]
    with pytest.raises(ImageError):
        extractor_of().calibrate(images)
    assert extractor_of().calibrate(images, on_error="skip").calibration_.num_images == 12
    with pytest.raises(DatasetError, match="no images"):
        extractor_of().calibrate([broken], on_error="skip")


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    extractor_of().calibrate(images_of(12)).transform(images_of(2))
    assert os.listdir(tmp_path) == []


def test_other_backends_are_rejected(backend: Backend) -> None:
    extractor = extractor_of(backend=backend)
    if INT8 in backend.capabilities:
        extractor.calibrate(images_of(12))
        return
    with pytest.raises(UnsupportedError, match="does not support int8; 'onnxruntime' does"):
        extractor.calibrate(images_of(12))


def test_invalid_precisions_are_rejected() -> None:
    with pytest.raises(UnknownNameError, match="unknown precision 'int9'; did you mean 'int8'"):
        extractor_of(precision="int9").transform(images_of(1))
    with pytest.raises(ParameterError, match="precision is 8; expected 'float32' or 'int8'"):
        extractor_of(precision=8).transform(images_of(1))
    with pytest.raises(ParameterError, match="needs no calibration"):
        extractor_of(precision="float32").calibrate(images_of(1))


def test_objects_of_a_framework_are_rejected() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    extractor = extractor_of(network=module, weights=None, backend=None)
    with pytest.raises(UnsupportedError, match="needs a network of this library, not a Sequential"):
        extractor.calibrate(images_of(1))


def test_the_identity_has_the_calibration(calibrated: FeatureExtractor) -> None:
    other = extractor_of().calibrate(images_of(24, seed=2))
    identities = {
        identify(*extractor._load()).precision
        for extractor in (calibrated, other, extractor_of(precision="float32"))
    }
    assert len(identities) == 3
    assert "float32" in identities
    assert f"int8, calibration {calibrated.calibration_.digest()[:16]}" in identities


def test_a_calibrated_model_keeps_its_calibration_with_int8(calibrated: FeatureExtractor) -> None:
    images, model = images_of(3), calibrated.model()
    assert repr(model).endswith("int8>")
    again = FeatureExtractor(model, precision=INT8)
    np.testing.assert_array_equal(again.transform(images), calibrated.transform(images))
    float32 = FeatureExtractor(model)
    np.testing.assert_array_equal(
        float32.transform(images), extractor_of(precision="float32").transform(images)
    )
    assert dataclasses.replace(model, calibration=None).calibration is None


def test_the_exported_file_has_the_same_numbers_and_8_bit_weights(
    calibrated: FeatureExtractor, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    calibrated.export(path, ["add", "embedding"])
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["last.norm.folded_weight"] == onnx.TensorProto.INT8
    assert kinds["last.norm.folded_bias"] == onnx.TensorProto.INT32
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["precision"] == INT8
    assert metadata["calibration"] == calibrated.calibration_.digest()
    images = images_of(4)
    outputs = session.run(None, {"pixels": images.astype(np.float32) / np.float32(255)})
    features = calibrated.extract(images, ["add", "embedding"])
    for output, layer in zip(outputs, features, strict=True):
        np.testing.assert_allclose(output, features[layer], rtol=1e-5, atol=1e-6)


def test_a_cache_is_not_used_after_another_calibration(tmp_path: Path) -> None:
    images = images_of(5)
    extractor = extractor_of(cache=tmp_path).calibrate(images_of(24, seed=1))
    first = extractor.transform(images)
    extractor.calibrate(images_of(24, seed=2))
    expected = extractor_of().calibrate(images_of(24, seed=2)).transform(images)
    np.testing.assert_array_equal(extractor.transform(images), expected)
    assert not np.array_equal(first, expected)


def test_a_store_keeps_the_calibration_for_images_that_are_added(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "store"
    first = extractor_of().calibrate(images_of(24, seed=1))
    first.extract_to(folder, images_of(3))
    # Not calibrated, or on other images.
    second = extractor_of()
    store = second.extract_to(folder, images_of(5))
    assert second.calibration_ == first.calibration_
    np.testing.assert_array_equal(store["embedding"], first.transform(images_of(5)))
    third = extractor_of().calibrate(store)
    np.testing.assert_array_equal(third.transform(images_of(2)), store["embedding"][:2])
    other = extractor_of().calibrate(images_of(24, seed=2))
    with pytest.raises(ParameterError, match="precision is 'int8, calibration"):
        other.extract_to(folder, images_of(7))


def test_a_store_in_float32_has_no_calibration(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    plain = FeatureExtractor(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), backend="onnxruntime"
    )
    store = plain.extract_to(tmp_path / "store", images_of(3))
    for use in (extractor_of().calibrate, lambda x: extractor_of().extract_to(x.folder, [])):
        with pytest.raises(ParameterError, match="no calibration, because their precision is"):
            use(store)


def test_a_damaged_calibration_in_a_store_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = tmp_path / "store"
    extractor_of().calibrate(images_of(24, seed=1)).extract_to(folder, images_of(3))
    manifest = folder / "_manifest.json"
    data = json.loads(manifest.read_text())
    data["description"]["calibration"]["ranges"]["last"] = [1.0]
    manifest.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="the calibration in the manifest is damaged"):
        extractor_of().extract_to(folder, images_of(4))
