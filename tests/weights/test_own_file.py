"""Weights from a user's own file, and random ones, through `FeatureExtractor`."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from transferkit import Classifier, FeatureExtractor
from transferkit.backends import Backend
from transferkit.errors import DownloadError, FileFormatError, UnknownNameError
from transferkit.networks import build_network, random_weights
from transferkit.weights import find_weights, load_weights, write_safetensors
from transferkit.weights.own_file import load_weights_file

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def test_file_gives_what_its_arrays_give(tmp_path: Path) -> None:
    network, weights = load_weights(find_weights("mobilenet_v2"))
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, weights, {})
    found = FeatureExtractor("mobilenet_v2", weights=path, backend="onnxruntime")
    expected = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    np.testing.assert_array_equal(found.transform([PICTURE]), expected.transform([PICTURE]))
    assert found.model().preprocessing == expected.model().preprocessing
    # What a file that nobody published tells apart is not known.
    assert found.model().labels is None
    assert network == found.model().network


def test_file_that_is_written_over_changes_nothing(tmp_path: Path) -> None:
    network = build_network("mobilenet_v3_small")
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(network, random_state=0), {})
    fx = FeatureExtractor("mobilenet_v3_small", weights=path, backend="onnxruntime")
    before = fx.extract([PICTURE], ["embedding"])["embedding"]
    # In place, as torch.save and cp do it; not through another file that is renamed.
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    # Another set of layers is compiled anew, from the arrays.
    after = fx.extract([PICTURE], ["embedding", "avgpool"])["embedding"]
    np.testing.assert_array_equal(after, before)
    assert not any(array.flags.writeable for array in fx.model().weights.values())


def test_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    network = build_network("resnet18")
    write_safetensors(tmp_path / "mine.safetensors", random_weights(network, random_state=0), {})
    found = FeatureExtractor("resnet18", weights="~/mine.safetensors", backend="onnxruntime")
    assert found.transform([PICTURE]).shape == (1, 512)


def test_classifier_of_another_number_of_classes(tmp_path: Path) -> None:
    weights = random_weights(build_network("mobilenet_v3_small", classes=7), random_state=0)
    path = tmp_path / "seven.safetensors"
    write_safetensors(path, weights, {})
    fx = FeatureExtractor("mobilenet_v3_small", weights=path, backend="onnxruntime")
    assert fx.layers["logits"] == (7,)
    assert fx.extract([PICTURE], ["logits"])["logits"].shape == (1, 7)


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(build_network("mobilenet_v3_small"), random_state=0), {})
    with pytest.raises(FileFormatError, match="not the weights of resnet18") as caught:
        load_weights_file("resnet18", path)
    assert "layer1.0.conv1.weight" in str(caught.value)
    assert "features.0.0.weight" in str(caught.value)


def test_no_such_file() -> None:
    fx = FeatureExtractor("resnet18", weights="nowhere/mine.pth", backend="onnxruntime")
    with pytest.raises(FileFormatError, match="no such file"):
        fx.transform([PICTURE])
    with pytest.raises(FileFormatError, match="no such home folder"):
        load_weights_file("resnet18", "~nobody-at-all/mine.pth")


def test_network_and_source_that_do_not_go_together() -> None:
    fx = FeatureExtractor("resnet18", weights="keras", backend="onnxruntime")
    with pytest.raises(UnknownNameError, match=r"resnet18 has no weights.*imagenet1k_v1"):
        fx.transform([PICTURE])


@pytest.mark.parametrize("initialization", ["he", "glorot", "uniform", "gaussian"])
def test_random_weights_are_those_of_the_seed(backend: Backend, initialization: str) -> None:
    fx = FeatureExtractor(
        "resnet18", weights="random", seed=3, initialization=initialization, backend=backend
    )
    expected = random_weights(build_network("resnet18"), 3, initialization)
    found = fx.model().weights
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    other = FeatureExtractor("resnet18", weights="random", seed=4, backend=backend)
    assert not np.array_equal(other.model().weights["fc.weight"], expected["fc.weight"])


def test_unknown_initialization() -> None:
    fx = FeatureExtractor("resnet18", weights="random", initialization="xavier")
    with pytest.raises(UnknownNameError, match="glorot"):
        fx.transform([PICTURE])
    # Nor is it passed over where nothing is drawn.
    with pytest.raises(UnknownNameError, match="glorot"):
        FeatureExtractor("mobilenet_v2", initialization="xavier").transform([PICTURE])


def test_classifier_remembers_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_safetensors(path, random_weights(build_network("mobilenet_v3_small"), random_state=0), {})
    clf = Classifier("mobilenet_v3_small", weights=path, backend="onnxruntime", C=1.0)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    clf.fit(images, ["a", "a", "b", "b"]).save(tmp_path / "clf.safetensors")
    path.unlink()
    # By its name: where it lay is nobody else's business, and it is not needed.
    loaded = Classifier.load(tmp_path / "clf.safetensors", backend="onnxruntime")
    assert loaded.weights == "mine.safetensors"
    assert str(tmp_path).encode() not in (tmp_path / "clf.safetensors").read_bytes()
    np.testing.assert_array_equal(loaded.predict_proba(images), clf.predict_proba(images))


def test_safetensors_say_which_form_they_are_for(tmp_path: Path) -> None:
    # The same names and shapes in both variants, with another padding.
    network = build_network("mobilenet_v2", variant="keras")
    weights = random_weights(network, random_state=0)
    for metadata, variant in (({"variant": "keras"}, "keras"), ({}, "torchvision")):
        write_safetensors(tmp_path / "mine.safetensors", weights, metadata)
        fx = FeatureExtractor("mobilenet_v2", weights=tmp_path / "mine.safetensors")
        expected = find_weights("mobilenet_v2", variant)
        assert fx.model().network == expected.build()
        assert fx.model().preprocessing == expected.preprocessing
    write_safetensors(tmp_path / "mine.safetensors", weights, {"variant": "caffe"})
    with pytest.raises(FileFormatError, match=r"the variant that caffe .* published by torchv"):
        load_weights_file("mobilenet_v2", tmp_path / "mine.safetensors")


def test_a_path_that_is_no_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.bin").write_bytes(b"something else")
    (tmp_path / "keras").write_bytes(b"a name all the same")
    (tmp_path / "folder").mkdir()
    for path, message in (("mine.bin", r"read are \.pth"), ("folder", "folder")):
        with pytest.raises(FileFormatError, match=message):
            FeatureExtractor("mobilenet_v2", weights=path).model()
    with pytest.raises(DownloadError, match="TRANSFERKIT_OFFLINE"):
        FeatureExtractor("mobilenet_v2", weights="keras").model()


def test_random_weights_are_the_same_in_a_copy() -> None:
    fx = FeatureExtractor("mobilenet_v3_small", weights="random", backend="onnxruntime")
    expected = fx.transform([PICTURE])
    for other in (pickle.loads(pickle.dumps(fx)), copy.deepcopy(fx), clone(fx)):
        np.testing.assert_array_equal(other.transform([PICTURE]), expected)
    for seed in (None, 0.5, True, np.random.default_rng(0)):
        with pytest.raises(TypeError, match="expected a whole number"):
            fx.set_params(seed=seed).transform([PICTURE])
