"""The file of a classifier: whatever is wrong with it, it is refused in a sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import WEIGHTS, colored, tiny_classifier

from transferkit import Classifier
from transferkit.classification.saved_file import ClassifierFile, read_classifier
from transferkit.errors import FileFormatError, OutputError, TransferkitError
from transferkit.weights import read_safetensors, write_safetensors
from transferkit.weights.files import digest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    numbers = [0, 1, 2] * 2
    path = tmp_path_factory.mktemp("saved") / "colours.safetensors"
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
    """The file with its metadata changed; ``sealed``: with a digest that says all is well."""
    found, metadata = read_safetensors(saved)
    found = {name: array for name, array in {**found, **tensors}.items() if array is not None}
    change(metadata)
    if sealed:
        metadata.pop("sha256", None)
        metadata["sha256"] = digest(found, metadata)
    write_safetensors(path, found, metadata)
    return path


# ------------------------------------------------------------------- what is not deliberate


@settings(max_examples=300)
@given(data=st.data())
def test_no_file_cut_short_is_taken_for_another(saved: Path, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    path = saved.with_name("cut.safetensors")
    path.write_bytes(whole[:length])
    with pytest.raises(FileFormatError, match=r"cut\.safetensors"):
        Classifier.load(path)


@settings(max_examples=600)
@given(data=st.data())
def test_no_file_with_a_changed_byte_is_taken_for_another(saved: Path, data: st.DataObject) -> None:
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


def test_every_byte_of_the_metadata_counts(saved: Path) -> None:
    """A class that is called something else is another classifier, though the tensors are right."""
    whole = saved.read_bytes()
    assert whole.count(b"green") == 1
    path = saved.with_name("renamed.safetensors")
    path.write_bytes(whole.replace(b"green", b"greed"))
    with pytest.raises(FileFormatError, match="its SHA-256 does not match its content"):
        read_classifier(path)


# ----------------------------------------------------------------------- what is another file


def test_files_of_other_kinds(saved: Path, tmp_path: Path) -> None:
    text, empty, other, folder = (tmp_path / name for name in ("text", "empty", "other", "folder"))
    text.write_text("no classifier\n" * 100)
    empty.touch()
    folder.mkdir()
    write_safetensors(other, WEIGHTS, {})
    cases = {
        text: "no safetensors file",
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
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="not a regular file"):
        Classifier.load(tmp_path / "pipe")


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    ran = tmp_path / "ran"
    path = tmp_path / "pickled.safetensors"
    path.write_bytes(pickle.dumps(_Bomb(str(ran)), protocol))
    with pytest.raises(FileFormatError, match=r"pickled\.safetensors"):
        Classifier.load(path)
    assert not ran.exists()


def test_a_newer_version_is_told_apart(saved: Path, tmp_path: Path) -> None:
    path = rewritten(
        saved, tmp_path / "new", lambda metadata: metadata.update(format_version="2"), sealed=False
    )
    with pytest.raises(FileFormatError, match=r"newer transferkit \(format version 2.*pip install"):
        Classifier.load(path)


@pytest.mark.parametrize("version", ["0", "-1", "", "one", "1.5"])
def test_versions_that_never_were(saved: Path, tmp_path: Path, version: str) -> None:
    path = rewritten(saved, tmp_path / "odd", lambda m: m.update(format_version=version))
    with pytest.raises(FileFormatError, match="damaged"):
        Classifier.load(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"logits.bias": np.zeros(3, np.float32)}, "unexpected: logits.bias"),
        ({"head.bias": None}, "missing: head.bias"),
        ({"head.bias": np.zeros(4, np.float32)}, r"head.bias has shape \(4,\), not \(3,\)"),
        ({"head.weight": np.zeros((6, 3), np.float32)}, r"head.weight has shape"),
        ({"head.bias": np.zeros(3, np.int8)}, "is I8; expected F32"),
    ],
)
def test_other_tensors_than_it_says(
    saved: Path, tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    path = rewritten(saved, tmp_path / "other", lambda _: None, **tensors)
    with pytest.raises(FileFormatError, match=message):
        Classifier.load(path)


def test_types_that_numpy_does_not_have(tmp_path: Path) -> None:
    for dtype in ("BF16", "F8_E4M3", "F4"):
        size = 2 if dtype == "BF16" else 1
        header = json.dumps(
            {"a": {"dtype": dtype, "shape": [2 if dtype == "F4" else 1], "data_offsets": [0, size]}}
        ).encode()
        path = tmp_path / dtype
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)
        with pytest.raises(FileFormatError, match=dtype):
            Classifier.load(path)


# ---------------------------------------------------------------------- what is a lie


@pytest.mark.parametrize(
    "name",
    ["format", "format_version", "network", "preprocessing", "classes", "classes_dtype",
     "C", "parameters", "sha256"],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, "", "{", "[]", "{}", "null", "7", "NaN", '"text"', "[[]]"])
def test_metadata_that_are_missing_or_something_else(
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
        # A version of 7 is a newer one.
        with pytest.raises(FileFormatError, match=r"damaged|not a classifier|newer"):
            Classifier.load(path)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(network: dict[str, Any]) -> None:
        place: Any = network
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return change


def _append(node: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda network: network["nodes"].append(node)


_PAD = {"name": "far", "operation": "pad", "inputs": ["pixels"], "parameters": []}

LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "an unknown operation": _set("nodes", 2, "operation", to="explode"),
    "a method that is no primitive": _set("nodes", 2, "operation", to="__init__"),
    "another method that is none": _set("nodes", 2, "operation", to="asarray"),
    "a method that would go unnoticed": lambda network: network["nodes"].append(
        {
            "name": "far",
            "operation": "asarray",
            "inputs": ["pixels"],
            "attributes": {},
            "parameters": [],
        }
    ),
    "an operation that is no text": _set("nodes", 2, "operation", to=["relu"]),
    "a cycle": _set("nodes", 0, "inputs", to=["tanh2"]),
    "a layer that takes itself": _set("nodes", 2, "inputs", to=["relu1"]),
    "no input": _set("nodes", 2, "inputs", to=[]),
    "too many inputs": _set("nodes", 2, "inputs", to=["norm1", "norm1"]),
    "two layers of one name": _set("nodes", 2, "name", to="conv1"),
    "a layer called as the input": _set("nodes", 2, "name", to="pixels"),
    "a missing layer": lambda network: network["nodes"].pop(3),
    "no layers": _set("nodes", to=[]),
    "layers that are none": _set("nodes", to=[1, 2]),
    "a missing attribute": lambda network: network["nodes"][0]["attributes"].pop("stride"),
    "an unknown attribute": _set("nodes", 0, "attributes", "dilation", to=2),
    "an attribute that is null": _set("nodes", 0, "attributes", "stride", to=None),
    "an attribute that is a mapping": _set("nodes", 0, "attributes", "stride", to={"a": 1}),
    "an attribute that is text": _set("nodes", 0, "attributes", "stride", to="two"),
    "an attribute that is a number": _set("nodes", 0, "attributes", "stride", to=2),
    "a stride of nothing": _set("nodes", 0, "attributes", "stride", to=[0, 0]),
    "no groups": _set("nodes", 0, "attributes", "groups", to=0),
    "another number of groups": _set("nodes", 0, "attributes", "groups", to=2),
    "axes that are not there": _set("nodes", 5, "attributes", "axes", to=[7]),
    "parameters without a shape": _set("nodes", 0, "parameters", to=["ghost"]),
    "no parameters": _set("nodes", 0, "parameters", to=[]),
    "a parameter that is a mapping": _set("parameters", "head.bias", to={}),
    "a huge shape": _set("parameters", "head.bias", to=[10**15]),
    "a shape of less than nothing": _set("parameters", "head.bias", to=[-3]),
    "an infinite shape": _set("parameters", "head.bias", to=[float("inf")]),
    "a huge picture": _append({**_PAD, "attributes": {"padding": [[10**6, 10**6], [0, 10**9]]}}),
    "an infinite picture": _append(
        {**_PAD, "attributes": {"padding": [[0, float("inf")], [0, 0]]}}
    ),
    "an alias of nothing": _set("aliases", "embedding", to="nowhere"),
    "an alias of an alias": _set("aliases", "again", to="embedding"),
    "an alias that is a layer": _set("aliases", "relu1", to="conv1"),
    "aliases that are a list": _set("aliases", to=["embedding"]),
    "an input size that is infinite": _set("input_size", to=float("inf")),
    "an input size that is text": _set("input_size", to="large"),
    "another number of classes": lambda network: network["nodes"].pop(),
    "probabilities of something else": _set("nodes", -1, "inputs", to=["embedding"]),
    "deep nesting": _set("nodes", 0, "attributes", "stride", to=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("lie", LIES)
def test_networks_that_are_none(saved: Path, tmp_path: Path, lie: str) -> None:
    def change(metadata: dict[str, str]) -> None:
        network = json.loads(metadata["network"])
        LIES[lie](network)
        metadata["network"] = json.dumps(network)

    path = rewritten(saved, tmp_path / "lie.safetensors", change)
    with pytest.raises(FileFormatError, match=r"lie\.safetensors"):
        Classifier.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": '["red", "green"]'},
        {"classes": '["red", "green", "green"]'},
        {"classes": '["red", "green", 7]'},
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
def test_other_lies(saved: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    path = rewritten(saved, tmp_path / "lie.safetensors", lambda m: m.update(changes))
    with pytest.raises(FileFormatError, match=r"lie\.safetensors"):
        Classifier.load(path)


def test_deep_json_is_refused(saved: Path, tmp_path: Path) -> None:
    for name in ("network", "classes", "preprocessing", "C", "parameters"):
        path = rewritten(
            saved, tmp_path / "deep", lambda m, name=name: m.update({name: "[" * 100_000})
        )
        with pytest.raises(FileFormatError, match="damaged"):
            Classifier.load(path)


# ------------------------------------------------------------------------------ when writing


def test_unwritable_outputs(tmp_path: Path) -> None:
    fitted = tiny_classifier(C=1.0).fit(colored([0, 1, 0, 1]), [0, 1, 0, 1])
    with pytest.raises(OutputError, match="does not exist"):
        fitted.save(tmp_path / "missing" / "saved.safetensors")
    with pytest.raises(OutputError, match="is a folder"):
        fitted.save(tmp_path)
    with pytest.raises(OutputError):
        fitted.save(tmp_path / ("long" * 100))
    assert issubclass(OutputError, (TransferkitError, OSError))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_a_whole_one(
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


def test_a_file_that_is_written_over_changes_nothing(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    shutil.copy(saved, path)
    found, expected = read_classifier(path), read_classifier(saved)
    # In place, as cp does it; not through another file that is renamed.
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
    assert contents(found) == contents(expected)
