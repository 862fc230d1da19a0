"""The weights in the package, and safetensors files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from scripts import load_script
from torch_writer import mapping, tensor, zipped

from transferkit.errors import FileFormatError, OutputError
from transferkit.weights import (
    WEIGHTS,
    Checksum,
    load_weights,
    read_safetensors,
    write_safetensors,
)
from transferkit.weights.files import check_weights, digest, serialize

DATA = Path(str(resources.files("transferkit.weights") / "data"))

SCRIPT = load_script("convert_torchvision_weights")
main, read_published = SCRIPT.main, SCRIPT.read_published

PACKAGED = [row for row in WEIGHTS if row.packaged is not None]

TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    from_numpy.arrays(np.float32, from_numpy.array_shapes(min_dims=1, max_dims=4, max_side=3)),
    max_size=4,
)
METADATA = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)


# ------------------------------------------------------------------------------- the package


def test_packaged_weights_need_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    for row in PACKAGED:
        network, weights = load_weights(row)
        assert weights.keys() == network.parameters.keys()
        assert all(np.isfinite(array).all() for array in weights.values())


def test_manipulated_weights_are_rejected() -> None:
    packaged = PACKAGED[0].packaged
    assert packaged is not None
    other = dataclasses.replace(packaged, checksum=Checksum("sha256", "0" * 64))
    with pytest.raises(FileFormatError, match="reinstall transferkit"):
        load_weights(dataclasses.replace(PACKAGED[0], packaged=other))


# --------------------------------------------------------------------------------- the files


@given(tensors=TENSORS, metadata=METADATA)
def test_written_files_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    write_safetensors(path, tensors, metadata)
    found, found_metadata = read_safetensors(path)
    assert found_metadata == metadata
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array)
    assert digest(found, found_metadata) == digest(tensors, metadata)


@given(tensors=TENSORS, metadata=METADATA)
def test_the_same_contents_give_the_same_bytes(
    tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    turned = dict(reversed(tensors.items())), dict(reversed(metadata.items()))
    assert serialize(tensors, metadata) == serialize(*turned)
    # A view that is not in C order is written by its values.
    strided = {name: np.repeat(array, 2, axis=0)[::2] for name, array in tensors.items()}
    assert serialize(strided, metadata) == serialize(tensors, metadata)


def test_the_digest_depends_on_names_values_and_metadata() -> None:
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    found = {
        digest({"a": one}, {}),
        digest({"a": two}, {}),
        digest({"b": one}, {}),
        digest({"a": one, "b": two}, {}),
        digest({"a": two, "b": one}, {}),
        digest({"a": one}, {"name": "x"}),
        digest({"a": one}, {"name": "y"}),
    }
    assert len(found) == 7


def test_weights_of_another_network_are_listed() -> None:
    network, weights = load_weights(PACKAGED[0])
    wrong = dict(weights)
    del wrong["classifier.1.bias"]
    wrong["ghost"] = np.zeros(1, np.float32)
    wrong["classifier.1.weight"] = np.zeros((10, 1280), np.float32)
    with pytest.raises(FileFormatError) as caught:
        check_weights("here", wrong, network)
    assert str(caught.value).startswith("here: not the weights of mobilenet_v2: ")
    for problem in (
        "missing: classifier.1.bias",
        "unexpected: ghost",
        "classifier.1.weight has shape (10, 1280); expected (1000, 1280)",
    ):
        assert problem in str(caught.value)


def test_an_unwritable_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_safetensors(tmp_path / "missing" / "file", {}, {})


# ----------------------------------------------------------------------------- the conversion


def test_only_published_files_are_converted(tmp_path: Path) -> None:
    for name, message in {
        "weights.pth": "first digits of its SHA-256",
        "mobilenet_v2-b0353104.pth": "does not begin with b0353104",
    }.items():
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(FileFormatError, match=message):
            read_published(tmp_path / name)


def test_a_published_file_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {
        "conv.weight": tensor("0", (1, 2, 3, 1)),
        "norm.num_batches_tracked": tensor("1", (), storage="LongStorage"),
    }
    numbers = np.arange(6, dtype=np.float32)
    data = {"0": numbers.tobytes(), "1": (7).to_bytes(8, "little")}
    (tmp_path / "raw").write_bytes(zipped(mapping(state), data))
    found = hashlib.sha256((tmp_path / "raw").read_bytes()).hexdigest()
    source = (tmp_path / "raw").rename(tmp_path / f"tiny-{found[:8]}.pth")
    main([str(source), str(tmp_path / "tiny.safetensors")])
    tensors, metadata = read_safetensors(tmp_path / "tiny.safetensors")
    assert list(tensors) == ["conv.weight"]
    np.testing.assert_array_equal(tensors["conv.weight"].ravel(), np.arange(6))
    assert metadata["source_sha256"] == found
    written = hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()
    assert capsys.readouterr().out.split()[0] == written


def test_the_packaged_file_is_the_output_of_the_conversion() -> None:
    for row in PACKAGED:
        assert row.packaged is not None
        path = DATA / row.packaged.name
        tensors, metadata = read_safetensors(path)
        assert serialize(tensors, metadata) == path.read_bytes()
        assert json.loads(json.dumps(metadata)) == metadata
