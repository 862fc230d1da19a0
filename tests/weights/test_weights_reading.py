"""The format of a file is detected from its contents, which are compared with the network."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from samples import NETWORK, WEIGHTS
from torch_writer import legacy, mapping, tensor, zipped

from transferkit.errors import FileFormatError
from transferkit.networks import build_network, random_weights
from transferkit.weights import write_safetensors
from transferkit.weights.files import check_weights, serialize
from transferkit.weights.reading import classes_of, read_arrays, read_weights, variant_of

PACKAGED = Path(str(resources.files("transferkit.weights") / "data")) / (
    "mobilenet_v2-imagenet1k_v1.safetensors"
)


def _torch_files() -> list[bytes]:
    state = mapping({name: tensor(name, array.shape) for name, array in WEIGHTS.items()})
    data = {name: np.ascontiguousarray(array).tobytes() for name, array in WEIGHTS.items()}
    return [zipped(state, data), legacy(state, data)]


@pytest.mark.parametrize("content", [*_torch_files(), serialize(WEIGHTS, {})])
@pytest.mark.parametrize("ending", ["", ".h5", ".pth", ".safetensors"])
def test_the_suffix_does_not_matter(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    assert variant_of(path) == (None if content[8:9] == b"{" else "torchvision")
    found = read_weights(path, NETWORK)
    assert list(found) == list(NETWORK.parameters)
    for name, array in found.items():
        np.testing.assert_array_equal(array, WEIGHTS[name])


def test_the_number_of_classes_is_found() -> None:
    network = build_network("mobilenet_v2", classes=3)
    arrays = read_arrays(PACKAGED, network)
    assert classes_of(arrays, network) == 1000
    with pytest.raises(FileFormatError, match=r"classifier.1.weight has shape \(1000, 1280\)"):
        read_weights(PACKAGED, network)
    with pytest.raises(FileFormatError, match=r"missing: classifier\.1\.weight"):
        classes_of({}, network)


def test_unknown_formats_are_rejected(tmp_path: Path) -> None:
    for content, message in ((b"", "empty"), (b"GIF89a and so on", "not a weights file")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FileFormatError, match=message):
            variant_of(tmp_path / "x")


def test_a_keras_file_needs_the_keras_variant(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    with pytest.raises(FileFormatError, match="variant='keras'"):
        read_weights(tmp_path / "x", build_network("vgg16"))


def test_a_common_prefix_and_another_network_are_recognized() -> None:
    small, large = build_network("resnet18"), build_network("resnet34")
    weights = random_weights(small, random_state=0)
    prefixed = {f"encoder.{name}": array for name, array in weights.items()}
    with pytest.raises(FileFormatError, match=r"all names begin with 'encoder\.', which has to be"):
        check_weights("file", prefixed, small)
    with pytest.raises(FileFormatError, match=r"\d+ missing, 0 unexpected.*another network"):
        check_weights("file", weights, large)


def test_mismatches_are_counted_and_ten_are_named() -> None:
    with pytest.raises(FileFormatError, match="may be of another network") as caught:
        check_weights("here", WEIGHTS, build_network("mobilenet_v2"))
    lines = str(caught.value).split("\n  ")
    total = len(build_network("mobilenet_v2").parameters) + len(WEIGHTS)
    assert len(lines) == 12
    assert lines[-1] == f"and {total - 10} more"
    wrong = {**WEIGHTS, "ghost": np.zeros(1, np.float32)}
    with pytest.raises(FileFormatError) as caught:
        check_weights("here", wrong, NETWORK)
    assert "another network" not in str(caught.value)


@pytest.mark.parametrize(("kind", "stored"), [("F16", "<f2"), ("F64", "<f8"), ("BF16", "<u2")])
def test_other_dtypes_are_converted(kind: str, stored: str, tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 0.5], np.float32)
    data = (numbers.view(np.uint32) >> 16).astype(stored) if kind == "BF16" else numbers
    raw = data.astype(stored).tobytes()
    header = f'{{"a":{{"dtype":"{kind}","shape":[3],"data_offsets":[0,{len(raw)}]}}}}'.encode()
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw)
    np.testing.assert_array_equal(read_arrays(path, NETWORK)["a"], numbers)


@pytest.mark.parametrize(
    "entry",
    [
        '"dtype":"F32","shape":[4],"data_offsets":[0,12]',
        '"dtype":"F32","shape":[3],"data_offsets":[4,16]',
        '"dtype":"F32","shape":[3],"data_offsets":[0,1200]',
        '"dtype":"F32","shape":[-3],"data_offsets":[0,12]',
        '"dtype":"F32","shape":[3],"data_offsets":[12,0]',
        '"dtype":"F8_E5M2","shape":[12],"data_offsets":[0,12]',
        '"dtype":"F33","shape":[3],"data_offsets":[0,12]',
    ],
)
def test_false_headers_are_rejected(entry: str, tmp_path: Path) -> None:
    header = f'{{"a":{{{entry}}}}}'.encode()
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    with pytest.raises(FileFormatError):
        read_arrays(path, NETWORK)


def test_float32_arrays_are_mapped(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x", WEIGHTS, {})
    assert not any(array.flags.owndata for array in read_arrays(tmp_path / "x", NETWORK).values())
