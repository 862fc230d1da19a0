"""Weights from a user's file, and random weights, through `FeatureExtractor`."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.base import clone

from transferkit import Classifier, FeatureExtractor
from transferkit.backends import Backend
from transferkit.errors import DownloadError, FileFormatError, ParameterError, UnknownNameError
from transferkit.models import Model
from transferkit.networks import build_network, random_weights
from transferkit.weights import find_weights, load_weights, write_safetensors
from transferkit.weights.own_file import load_weights_file

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_a_file_gives_the_same_features_as_its_arrays(tmp_path: Path) -> None:
    network, weights = load_weights(find_weights("mobilenet_v2"))
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, weights, {})
    found = FeatureExtractor("mobilenet_v2", weights=path, backend="onnxruntime")
    expected = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    np.testing.assert_array_equal(found.transform([IMAGE]), expected.transform([IMAGE]))
    assert found.model().preprocessing == expected.model().preprocessing
    # The labels of an unpublished file are unknown.
    assert found.model().labels is None
    assert network == found.model().network


def test_overwriting_the_file_changes_nothing(tmp_path: Path) -> None:
    network = build_network("mobilenet_v3_small")
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(network, random_state=0), {})
    fx = FeatureExtractor("mobilenet_v3_small", weights=path, backend="onnxruntime")
    before = fx.extract([IMAGE], ["embedding"])["embedding"]
    # In place, as torch.save and cp do; not by renaming another file.
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    # Other layers are compiled from the arrays.
    after = fx.extract([IMAGE], ["embedding", "avgpool"])["embedding"]
    np.testing.assert_array_equal(after, before)
    assert not any(array.flags.writeable for array in fx.model().weights.values())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module.backbone."])
def test_a_state_dict_saved_as_safetensors_is_read(prefix: str, tmp_path: Path) -> None:
    weights = random_weights(build_network("mobilenet_v3_small"), random_state=0)
    saved = {prefix + name: array.astype(np.float16) for name, array in weights.items()}
    saved[prefix + "features.0.1.num_batches_tracked"] = np.int64(7)
    save_file({name: np.asarray(array) for name, array in saved.items()}, tmp_path / "mine")
    _, found, _, _ = load_weights_file("mobilenet_v3_small", tmp_path / "mine")
    assert set(found) == set(weights)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, weights[name].astype(np.float16))


def test_a_file_without_the_classifier_has_an_embedding(tmp_path: Path) -> None:
    whole = random_weights(build_network("resnet18"), random_state=0)
    arrays = {name: array for name, array in whole.items() if not name.startswith("fc.")}
    paths = tmp_path / "whole.safetensors", tmp_path / "headless.safetensors"
    for path, weights in zip(paths, (whole, arrays), strict=True):
        write_safetensors(path, weights, {})
    expected, fx = (FeatureExtractor("resnet18", weights=p, backend="onnxruntime") for p in paths)
    np.testing.assert_array_equal(fx.transform([IMAGE]), expected.transform([IMAGE]))
    assert "logits" not in fx.layers()
    with pytest.raises(UnknownNameError, match="no weights for the classifier"):
        fx.extract([IMAGE], ["logits"])
    clf = Classifier("resnet18", weights=paths[1], backend="onnxruntime", C=1.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert clf.fit(images, ["a", "a", "b", "b"]).predict(images).shape == (4,)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    network = build_network("resnet18")
    write_safetensors(tmp_path / "mine.safetensors", random_weights(network, random_state=0), {})
    found = FeatureExtractor("resnet18", weights="~/mine.safetensors", backend="onnxruntime")
    assert found.transform([IMAGE]).shape == (1, 512)


def test_the_classifier_can_have_any_number_of_classes(tmp_path: Path) -> None:
    weights = random_weights(build_network("mobilenet_v3_small", classes=7), random_state=0)
    path = tmp_path / "seven.safetensors"
    write_safetensors(path, weights, {})
    fx = FeatureExtractor("mobilenet_v3_small", weights=path, backend="onnxruntime")
    assert fx.layers()["logits"] == (7,)
    assert fx.extract([IMAGE], ["logits"])["logits"].shape == (1, 7)


def test_a_file_of_another_network_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(build_network("mobilenet_v3_small"), random_state=0), {})
    with pytest.raises(FileFormatError, match="not the weights of resnet18") as caught:
        load_weights_file("resnet18", path)
    assert "missing: conv1.weight" in str(caught.value)
    assert "unexpected: features.0.0.weight" in str(caught.value)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[-1].endswith(" more")


def test_a_missing_file_is_an_error() -> None:
    fx = FeatureExtractor("resnet18", weights="nowhere/mine.pth", backend="onnxruntime")
    with pytest.raises(FileFormatError, match="no such file"):
        fx.transform([IMAGE])
    with pytest.raises(FileFormatError, match="no such home folder"):
        load_weights_file("resnet18", "~nobody-at-all/mine.pth")


def test_a_source_without_the_network_is_an_error() -> None:
    fx = FeatureExtractor("resnet18", weights="keras", backend="onnxruntime")
    with pytest.raises(UnknownNameError, match=r"resnet18 has no weights.*imagenet1k_v1"):
        fx.transform([IMAGE])


@pytest.mark.parametrize("initialization", ["he", "glorot", "uniform", "gaussian"])
def test_random_weights_depend_on_the_seed(backend: Backend, initialization: str) -> None:
    fx = FeatureExtractor(
        "resnet18", weights="random", random_state=3, initialization=initialization, backend=backend
    )
    expected = random_weights(build_network("resnet18"), 3, initialization)
    found = fx.model().weights
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    other = FeatureExtractor("resnet18", weights="random", random_state=4, backend=backend)
    assert not np.array_equal(other.model().weights["fc.weight"], expected["fc.weight"])


def test_unknown_initialization_is_rejected() -> None:
    fx = FeatureExtractor("resnet18", weights="random", initialization="xavier")
    with pytest.raises(UnknownNameError, match="glorot"):
        fx.transform([IMAGE])
    # Also if no weights are sampled.
    with pytest.raises(UnknownNameError, match="glorot"):
        FeatureExtractor("mobilenet_v2", initialization="xavier").transform([IMAGE])


def test_a_saved_classifier_does_not_need_the_file_of_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(build_network("mobilenet_v3_small"), random_state=0), {})
    clf = Classifier("mobilenet_v3_small", weights=path, backend="onnxruntime", C=1.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    clf.fit(images, ["a", "a", "b", "b"]).save(tmp_path / "clf.safetensors")
    path.unlink()
    # Its path may be private.
    loaded = Classifier.load(tmp_path / "clf.safetensors", backend="onnxruntime")
    assert isinstance(loaded.network, Model)
    assert str(tmp_path).encode() not in (tmp_path / "clf.safetensors").read_bytes()
    np.testing.assert_array_equal(loaded.predict_proba(images), clf.predict_proba(images))


def test_the_metadata_of_safetensors_has_the_variant(tmp_path: Path) -> None:
    # The variants have the same names and shapes but differ in padding.
    network = build_network("mobilenet_v2", variant="keras")
    weights = random_weights(network, random_state=0)
    for metadata, variant in (({"variant": "keras"}, "keras"), ({}, "torchvision")):
        write_safetensors(tmp_path / "mine.safetensors", weights, metadata)
        fx = FeatureExtractor("mobilenet_v2", weights=tmp_path / "mine.safetensors")
        expected = find_weights("mobilenet_v2", variant)
        assert fx.model().network == expected.build()
        assert fx.model().preprocessing == expected.preprocessing
    write_safetensors(tmp_path / "mine.safetensors", weights, {"variant": "caffe"})
    with pytest.raises(FileFormatError, match=r"variant \'caffe\'.* available: torchvision, keras"):
        load_weights_file("mobilenet_v2", tmp_path / "mine.safetensors")


def test_other_paths_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.bin").write_bytes(b"something else")
    (tmp_path / "keras").write_bytes(b"a name all the same")
    (tmp_path / "folder").mkdir()
    for path, message in (("mine.bin", r"expected \.pth"), ("folder", "folder")):
        with pytest.raises(FileFormatError, match=message):
            FeatureExtractor("mobilenet_v2", weights=path).model()
    with pytest.raises(DownloadError, match="TRANSFERKIT_OFFLINE"):
        FeatureExtractor("mobilenet_v2", weights="keras").model()


def test_random_weights_are_the_same_in_a_copy() -> None:
    fx = FeatureExtractor("mobilenet_v3_small", weights="random", backend="onnxruntime")
    expected = fx.transform([IMAGE])
    for other in (pickle.loads(pickle.dumps(fx)), copy.deepcopy(fx), clone(fx)):
        np.testing.assert_array_equal(other.transform([IMAGE]), expected)
    for random_state in (0.5, True, -1, "0"):
        with pytest.raises(ParameterError, match=r"random_state is .*; expected an int"):
            fx.set_params(random_state=random_state).transform([IMAGE])
