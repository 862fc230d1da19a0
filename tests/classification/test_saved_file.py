"""The file of a classifier: damaged and inconsistent files are rejected with a clear message."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import DEMO, WEIGHTS, colored, tiny_classifier

from transferkit import Classifier
from transferkit.classification.saved_file import ClassifierFile, read_classifier
from transferkit.errors import FileFormatError, OutputError, TransferkitError
from transferkit.weights import read_safetensors, write_safetensors
from transferkit.weights.files import digest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    numbers = [0, 1, 2] * 2
    path = tmp_path_factory.mktemp("saved") / "colors.safetensors"
    labels = np.array(["red", "green", "blüe"])[numbers]
    tiny_classifier(C=10.0).fit(colored(numbers), labels).save(path)
    return path


def contents(file: ClassifierFile) -> tuple[object, ...]:
    return (
        file.network,
        {name: array.tobytes() for name, array in file.weights.items()},
        file.preprocessing,
        file.classes.tolist(),
        file.classes.dtype.str,
        file.C,
        file.parameters,
    )


def rewritten(
    saved: Path,
    path: Path,
    change: Callable[[dict[str, str]], None],
    *,
    sealed: bool = True,
    **tensors: Any,
) -> Path:
    """Write a copy of a file with other metadata; ``sealed``: with a digest that matches it."""
    original, metadata = read_safetensors(saved)
    changed = {**original, **tensors}
    changed = {name: array for name, array in changed.items() if array is not None}
    change(metadata)
    if sealed:
        metadata.pop("sha256", None)
        metadata["sha256"] = digest(changed, metadata)
    write_safetensors(path, changed, metadata)
    return path


# ---- accidental damage ----------------------------------------------------------------------


@settings(max_examples=300)
@given(data=st.data())
def test_truncated_files_are_rejected(saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    path = saved.with_name("cut.safetensors")
    path.write_bytes(whole[:length])
    with pytest.raises(FileFormatError, match=r"cut\.safetensors"):
        Classifier.load(path)


@settings(max_examples=600)
@given(data=st.data())
def test_a_changed_byte_is_detected_or_harmless(saved: Path, data: st.DataObject) -> None:
    whole = bytearray(saved.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    part = data.draw(st.sampled_from([8, header, len(whole)]))
    place = data.draw(st.integers(0, part - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path = saved.with_name("changed.safetensors")
    path.write_bytes(whole)
    try:
        found = read_classifier(path)
    except FileFormatError:
        return
    assert contents(found) == contents(read_classifier(saved))


def test_a_renamed_class_is_detected(saved: Path) -> None:
    """The digest covers the metadata, not only the tensors."""
    whole = saved.read_bytes()
    assert whole.count(b"green") == 1
    path = saved.with_name("renamed.safetensors")
    path.write_bytes(whole.replace(b"green", b"greed"))
    with pytest.raises(FileFormatError, match="its SHA-256 does not match its content"):
        read_classifier(path)


# ---- other files ----------------------------------------------------------------------------


def test_files_of_other_kinds_are_rejected(saved: Path, tmp_path: Path) -> None:
    text, empty, other, folder = (tmp_path / name for name in ("text", "empty", "other", "folder"))
    text.write_text("not a classifier\n" * 100)
    empty.touch()
    folder.mkdir()
    write_safetensors(other, WEIGHTS, {})
    cases = {
        text: "not a safetensors file",
        empty: "the file is empty",
        other: "not a classifier saved by transferkit",
        folder: "is a folder",
        tmp_path / "missing": "no such file",
        saved / "below": "no such file|Not a directory",
    }
    for path, message in cases.items():
        with pytest.raises(FileFormatError, match=message) as caught:
            Classifier.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_is_rejected_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="not a regular file"):
        Classifier.load(tmp_path / "pipe")


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_rejected_and_not_executed(tmp_path: Path, protocol: int) -> None:
    executed = tmp_path / "executed"
    path = tmp_path / "pickled.safetensors"
    path.write_bytes(pickle.dumps(_Bomb(str(executed)), protocol))
    with pytest.raises(FileFormatError, match=r"pickled\.safetensors"):
        Classifier.load(path)
    assert not executed.exists()


def test_a_newer_version_is_rejected_with_the_remedy(saved: Path, tmp_path: Path) -> None:
    path = rewritten(
        saved, tmp_path / "new", lambda metadata: metadata.update(format_version="3"), sealed=False
    )
    with pytest.raises(FileFormatError, match=r"newer transferkit \(format version 3.*pip install"):
        Classifier.load(path)


@pytest.mark.parametrize("version", ["0", "-1", "", "one", "1.5"])
def test_invalid_versions_are_rejected(saved: Path, tmp_path: Path, version: str) -> None:
    path = rewritten(saved, tmp_path / "odd", lambda m: m.update(format_version=version))
    with pytest.raises(FileFormatError, match="damaged"):
        Classifier.load(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"logits.bias": np.zeros(3, np.float32)}, "unexpected: logits.bias"),
        ({"head.bias": None}, "missing: head.bias"),
        ({"head.bias": np.zeros(4, np.float32)}, r"head.bias has shape \(4,\); expected \(3,\)"),
        ({"head.weight": np.zeros((6, 3), np.float32)}, r"head.weight has shape"),
        # Integer tensors are left out, so that the content has another digest.
        ({"head.bias": np.zeros(3, np.int8)}, "its SHA-256 does not match"),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_rejected(
    saved: Path, tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    path = rewritten(saved, tmp_path / "other", lambda _: None, **tensors)
    with pytest.raises(FileFormatError, match=message):
        Classifier.load(path)


def test_dtypes_that_numpy_lacks_are_rejected(tmp_path: Path) -> None:
    for dtype in ("BF16", "F8_E4M3", "F4"):
        size = 2 if dtype == "BF16" else 1
        header = json.dumps(
            {"a": {"dtype": dtype, "shape": [2 if dtype == "F4" else 1], "data_offsets": [0, size]}}
        ).encode()
        path = tmp_path / dtype
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)
        with pytest.raises(FileFormatError, match=dtype):
            Classifier.load(path)


# ---- inconsistent content with a valid digest -----------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["format", "format_version", "network", "preprocessing", "classes", "classes_dtype",
     "C", "parameters", "sha256"],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, "", "{", "[]", "{}", "null", "7", "NaN", '"text"', "[[]]"])
def test_missing_or_malformed_metadata_is_rejected(
    saved: Path, tmp_path: Path, name: str, value: str | None
) -> None:
    def change(metadata: dict[str, str]) -> None:
        if value is None:
            del metadata[name]
        else:
            metadata[name] = value

    path = rewritten(saved, tmp_path / "changed", change, sealed=name != "sha256")
    harmless = {("C", "null"), ("C", "7")}
    if (name, value) in harmless:
        Classifier.load(path)
    else:
        # Format version 7 is newer.
        with pytest.raises(FileFormatError, match=r"damaged|not a classifier|newer"):
            Classifier.load(path)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(network: dict[str, Any]) -> None:
        container: Any = network
        for key in keys[:-1]:
            container = container[key]
        container[keys[-1]] = to

    return change


def _node(network: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in network["nodes"] if node["name"] == name)


def _append(node: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda network: network["nodes"].append(node)


_PAD = {"name": "far", "operation": "pad", "inputs": ["pixels"], "parameters": []}

INVALID_NETWORKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "an unknown operation": _set("nodes", 2, "operation", to="explode"),
    "a method that is not an operation": _set("nodes", 2, "operation", to="__init__"),
    "another method that is not an operation": _set("nodes", 2, "operation", to="asarray"),
    "an unused method that is not an operation": lambda network: network["nodes"].append(
        {
            "name": "far",
            "operation": "asarray",
            "inputs": ["pixels"],
            "attributes": {},
            "parameters": [],
        }
    ),
    "an operation that is a list": _set("nodes", 2, "operation", to=["relu"]),
    "a cycle": _set("nodes", 0, "inputs", to=["tanh2"]),
    "a layer that is its own input": _set("nodes", 2, "inputs", to=["relu1"]),
    "no input": _set("nodes", 2, "inputs", to=[]),
    "too many inputs": _set("nodes", 2, "inputs", to=["norm1", "norm1"]),
    "two layers with the same name": _set("nodes", 2, "name", to="conv1"),
    "a layer named like the input": _set("nodes", 2, "name", to="pixels"),
    "a missing layer": lambda network: network["nodes"].pop(3),
    "no layers": _set("nodes", to=[]),
    "layers that are numbers": _set("nodes", to=[1, 2]),
    "a missing attribute": lambda network: network["nodes"][0]["attributes"].pop("stride"),
    "an unknown attribute": _set("nodes", 0, "attributes", "dilation", to=2),
    "an attribute that is null": _set("nodes", 0, "attributes", "stride", to=None),
    "an attribute that is a mapping": _set("nodes", 0, "attributes", "stride", to={"a": 1}),
    "an attribute that is text": _set("nodes", 0, "attributes", "stride", to="two"),
    "an attribute that is a number": _set("nodes", 0, "attributes", "stride", to=2),
    "a stride of 0": _set("nodes", 0, "attributes", "stride", to=[0, 0]),
    "0 groups": _set("nodes", 0, "attributes", "groups", to=0),
    "a wrong number of groups": _set("nodes", 0, "attributes", "groups", to=2),
    "axes that do not exist": _set("nodes", 5, "attributes", "axes", to=[7]),
    "parameters without a shape": _set("nodes", 0, "parameters", to=["ghost"]),
    "no parameters": _set("nodes", 0, "parameters", to=[]),
    "a parameter that is a mapping": _set("parameters", "head.bias", to={}),
    "a huge shape": _set("parameters", "head.bias", to=[10**15]),
    "a negative shape": _set("parameters", "head.bias", to=[-3]),
    "an infinite shape": _set("parameters", "head.bias", to=[float("inf")]),
    "a huge feature map": _append(
        {**_PAD, "attributes": {"padding": [[10**6, 10**6], [0, 10**9]]}}
    ),
    "an infinite feature map": _append(
        {**_PAD, "attributes": {"padding": [[0, float("inf")], [0, 0]]}}
    ),
    "an alias of a missing layer": _set("aliases", "embedding", to="nowhere"),
    "an alias of an alias": _set("aliases", "again", to="embedding"),
    "an alias with the name of a layer": _set("aliases", "relu1", to="conv1"),
    "aliases that are a list": _set("aliases", to=["embedding"]),
    "an infinite input size": _set("input_size", to=float("inf")),
    "an input size that is text": _set("input_size", to="large"),
    "a missing layer of probabilities": lambda network: network["nodes"].remove(
        _node(network, "probabilities")
    ),
    "probabilities of the embedding": lambda network: _node(network, "probabilities").update(
        inputs=["embedding"]
    ),
    "a missing score of unknown images": lambda network: network["nodes"].pop(),
    "two scores of unknown images": lambda network: network["nodes"][-1].update(
        operation="multiply", inputs=["logits", "logits"], parameters=[]
    ),
    "deep nesting": _set("nodes", 0, "attributes", "stride", to=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("case", INVALID_NETWORKS)
def test_invalid_networks_are_rejected(saved: Path, tmp_path: Path, case: str) -> None:
    def change(metadata: dict[str, str]) -> None:
        network = json.loads(metadata["network"])
        INVALID_NETWORKS[case](network)
        metadata["network"] = json.dumps(network)

    path = rewritten(saved, tmp_path / "invalid.safetensors", change)
    with pytest.raises(FileFormatError, match=r"invalid\.safetensors"):
        Classifier.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": '["red", "green"]'},
        {"classes": '["red", "green", "green"]'},
        {"classes": '["red", "green", 7]'},
        {"known_scores": "[0.5, 0.25]"},
        {"known_scores": "[NaN, NaN]"},
        {"known_scores": "[0.5, Infinity]"},
        {"classes": '["red", "green", null]'},
        {"classes": '[["red"], ["green"], ["blue"]]'},
        {"classes": '{"red": 1, "green": 2, "blue": 3}'},
        {"classes": "[1, 2, 3]"},
        {"classes": "[1, 2, 1e999]", "classes_dtype": "<f8"},
        {"classes": "[1, 2, NaN]", "classes_dtype": "<f8"},
        {"classes": "[1, 2, 3.5]", "classes_dtype": "<i8"},
        {"classes": "[1, 2, 300]", "classes_dtype": "|i1"},
        {"classes_dtype": "<U99999999"},
        {"classes_dtype": "<U999999999999"},
        {"classes_dtype": "V8"},
        {"classes_dtype": "M8"},
        {"classes_dtype": "(2,)f4"},
        {"classes_dtype": "__import__('os')"},
        {"C": "-1"},
        {"C": "Infinity"},
        {"C": "[1]"},
        {"parameters": '{"network": [], "weights": null, "C": null, "random_state": 0}'},
        {"parameters": '{"network": null, "weights": 1, "C": null, "random_state": 0}'},
        {"parameters": '{"network": null, "weights": null, "C": -1, "random_state": 0}'},
        {"parameters": '{"network": null, "weights": null, "C": null, "random_state": "0"}'},
        {"preprocessing": '{"size": 1e9}'},
    ],
    ids=str,
)
def test_invalid_metadata_is_rejected(saved: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    path = rewritten(saved, tmp_path / "invalid.safetensors", lambda m: m.update(changes))
    with pytest.raises(FileFormatError, match=r"invalid\.safetensors"):
        Classifier.load(path)


def test_deeply_nested_json_is_rejected(saved: Path, tmp_path: Path) -> None:
    for name in ("network", "classes", "preprocessing", "C", "parameters"):
        path = rewritten(
            saved, tmp_path / "deep", lambda m, name=name: m.update({name: "[" * 100_000})
        )
        with pytest.raises(FileFormatError, match="damaged"):
            Classifier.load(path)


# ---- writing --------------------------------------------------------------------------------


def test_unwritable_outputs_are_rejected(tmp_path: Path) -> None:
    fitted = tiny_classifier(C=1.0).fit(colored([0, 1, 0, 1]), [0, 1, 0, 1])
    with pytest.raises(OutputError, match="does not exist"):
        fitted.save(tmp_path / "missing" / "saved.safetensors")
    with pytest.raises(OutputError, match="is a folder"):
        fitted.save(tmp_path)
    with pytest.raises(OutputError):
        fitted.save(tmp_path / ("long" * 100))
    assert issubclass(OutputError, (TransferkitError, OSError))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_a_complete_one(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.safetensors"
    shutil.copy(saved, path)
    before = path.read_bytes()
    fitted = tiny_classifier(C=1.0).fit(colored([0, 1, 0, 1]), [0, 1, 0, 1])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OutputError, match=r"kept\.safetensors.*No space left"):
            fitted.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    fitted.save(path)
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def test_a_loaded_classifier_does_not_depend_on_its_file(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    shutil.copy(saved, path)
    loaded, expected = read_classifier(path), read_classifier(saved)
    # In place, as cp does, not by renaming another file.
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    assert contents(loaded) == contents(expected)


# --------------------------------------------------------------------- export to an ONNX file


def test_exported_classifier_has_probabilities_and_metadata(tmp_path: Path) -> None:
    X, y = colored([0, 1, 2] * 4), ["red", "green", "blue"] * 4
    classifier = tiny_classifier(C=10.0).fit(X, y)
    path = tmp_path / "colors.onnx"
    classifier.export(path)
    session = onnxruntime.InferenceSession(path)
    pixels = np.stack(X).astype(np.float32) / np.float32(255)
    probabilities, scores = session.run(None, {"pixels": pixels})
    np.testing.assert_allclose(probabilities, classifier.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(scores[:, 0], classifier.unknown_score(X), rtol=1e-4)
    outputs = {output.name: output.shape for output in session.get_outputs()}
    assert outputs == {"probabilities": ["batch", 3], "unknown_score": ["batch", 1]}
    metadata = session.get_modelmeta().custom_metadata_map
    assert float(metadata["unknown_threshold"]) == classifier.unknown_threshold()
    assert json.loads(metadata["labels"]) == ["blue", "green", "red"]
    expected = classifier.model_.preprocessing.to_dict()
    assert json.loads(metadata["preprocessing"]) == json.loads(json.dumps(expected))
    assert "license" not in metadata


def test_license_of_published_weights_is_kept(tmp_path: Path) -> None:
    saved = tmp_path / "demo.safetensors"
    Classifier(C=10.0).fit(DEMO / "train").save(saved)
    loaded = Classifier.load(saved)
    assert loaded.model_.license == "BSD-3-Clause"
    loaded.export(tmp_path / "demo.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "demo.onnx")
    assert session.get_modelmeta().custom_metadata_map["license"] == "BSD-3-Clause"
