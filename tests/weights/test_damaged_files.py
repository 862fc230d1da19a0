"""Damaged files load or raise `FileFormatError`, in limited time and memory."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import FORMATS, HDF5_FORMATS, damaged
from torch_writer import literal, mapping, zipped

from transferkit.errors import FileFormatError
from transferkit.networks import build_network
from transferkit.weights import isolated
from transferkit.weights.isolated import read_keras_isolated
from transferkit.weights.keras_file import read_keras
from transferkit.weights.reading import read_weights
from transferkit.weights.torch_file import read_torch


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in HDF5_FORMATS])
def test_damaged_files_load_or_are_rejected(kind: str, tmp_path: Path) -> None:
    write, read = FORMATS[kind]
    content = write()
    path = tmp_path / "file"
    rejected = 0
    # A saved classifier has some megabytes.
    for seed in range(30 if kind == "classifier" else 300):
        path.write_bytes(damaged(content, seed))
        try:
            read(path)
        except FileFormatError:
            rejected += 1
        path.unlink()  # the arrays of a file that loads may be mapped
    assert rejected > 0


@pytest.mark.parametrize("kind", HDF5_FORMATS)
def test_damaged_keras_files_load_or_are_rejected(kind: str, tmp_path: Path) -> None:
    content = FORMATS[kind][0]()
    for seed in range(3):
        (tmp_path / "file").write_bytes(damaged(content, seed))
        try:
            read_keras_isolated(tmp_path / "file")
        except FileFormatError:
            continue


@pytest.mark.parametrize("length", [2**31, 2**48, 2**60, 2**63 - 1])
@pytest.mark.parametrize("operation", [b"\x8d", b"\x8e"])  # BINUNICODE8, BINBYTES8
def test_lengths_beyond_the_file_are_rejected(
    operation: bytes, length: int, tmp_path: Path
) -> None:
    state = mapping({"a": operation + length.to_bytes(8, "little") + b"abc", "b": literal(1)})
    (tmp_path / "file").write_bytes(zipped(state, {}))
    with pytest.raises(FileFormatError, match=r"expected \d+ bytes .* remain"):
        read_torch(tmp_path / "file")


# ---------------------------------------------------------------------- reading in a child process


@pytest.mark.parametrize("kind", HDF5_FORMATS)
def test_a_child_reads_what_this_process_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FORMATS[kind][0]())
    expected = read_keras(path)
    result = read_keras_isolated(path)
    path.unlink()
    assert list(result) == list(expected) == ["conv", "dense"]
    for name, arrays in expected.items():
        assert len(result[name]) == len(arrays)
        for array, other in zip(result[name], arrays, strict=True):
            np.testing.assert_array_equal(array, other)


def test_scalars_and_empty_arrays_keep_their_shapes(tmp_path: Path) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["layers/dense/vars/0"] = np.float32(3)
        root["layers/dense/vars/1"] = np.zeros((0, 4), np.float32)
    (tmp_path / "file").write_bytes(file.getvalue())
    scalar, empty = read_keras_isolated(tmp_path / "file")["dense"]
    assert (scalar.shape, float(scalar), empty.shape) == ((), 3.0, (0, 4))


def test_errors_in_the_child_are_raised_with_their_message(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file", "w") as root:
        root["something"] = np.zeros(3)
    with pytest.raises(FileFormatError) as expected:
        read_keras(tmp_path / "file")
    with pytest.raises(FileFormatError) as caught:
        read_keras_isolated(tmp_path / "file")
    assert str(caught.value) == str(expected.value)


def _replace_child(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Run other code than the reader in the child, with the same limits."""
    run = subprocess.run
    code = (
        "import sys; from transferkit.weights import isolated; "
        f"isolated._limit(*map(int, sys.argv[3:5]))\n{body}"
    )

    def replaced(command: list[str], **options: object) -> object:
        return run([sys.executable, "-c", code, *command[4:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(isolated.subprocess, "run", replaced)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of CPU time on Windows")
def test_a_reader_that_loops_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolated, "_CPU_SECONDS", 2)
    _replace_child(monkeypatch, "while True: pass")
    start = time.perf_counter()
    with pytest.raises(FileFormatError, match=r"damaged: .* more than 2 seconds of CPU time"):
        read_keras_isolated(tmp_path)
    assert time.perf_counter() - start < 30


def test_a_reader_that_waits_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolated, "_WALL_SECONDS", 1)
    _replace_child(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(FileFormatError, match=r"damaged: .* more than 1 seconds"):
        read_keras_isolated(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory need Linux")
@pytest.mark.parametrize(
    ("body", "message"),
    [("bytearray(2**35)", "MemoryError"), ("import os; os.abort()", "ended with status -6")],
)
def test_a_reader_that_fails_is_an_error(
    body: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _replace_child(monkeypatch, body)
    with pytest.raises(FileFormatError, match=message):
        read_keras_isolated(tmp_path)


def test_only_files_with_a_known_digest_are_read_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    for name in ("read_keras", "read_keras_isolated"):
        monkeypatch.setattr(
            f"transferkit.weights.reading.{name}", lambda _, name=name: calls.append(name) or {}
        )
    (tmp_path / "file").write_bytes(FORMATS["h5"][0]())
    network = build_network("resnet50", variant="keras")
    for is_known in (True, False):
        with pytest.raises(FileFormatError):
            read_weights(tmp_path / "file", network, "keras", is_known=is_known)
    assert calls == ["read_keras", "read_keras_isolated"]
