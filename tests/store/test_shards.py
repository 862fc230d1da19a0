"""Shards: what is written is read back, damage is found, and no half of a shard is left."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.errors import FileFormatError, OutputError, ParameterError
from transferkit.store import (
    Record,
    Shard,
    ShardWriter,
    has_valid_digest,
    list_shards,
    read_arrays,
    read_records,
    shards,
)


def records(skipped: list[bool], first: int = 0) -> list[Record]:
    return [
        Record(first + index, f"é/{index}.jpg", error="the file is empty")
        if is_skipped
        else Record(first + index, f"é/{index}.jpg", 7, None, bytes([index % 256] * 32))
        for index, is_skipped in enumerate(skipped)
    ]


def write(folder: Path, number: int = 0, rows: int = 3) -> Shard:
    with ShardWriter(folder, number, {"a": (2,)}) as writer:
        writer.append(records([False] * rows), {"a": np.ones((rows, 2), np.float32)})
    assert writer.path is not None
    return next(shard for shard in list_shards(folder) if shard.path == writer.path)


@given(
    skipped=st.lists(st.booleans(), max_size=20),
    dtype=st.sampled_from(["float32", "float16"]),
    part=st.integers(1, 7),
    group=st.integers(1, 9),
)
def test_what_is_written_is_read_back(
    skipped: list[bool], dtype: str, part: int, group: int, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("store")
    rows = records(skipped)
    generator = np.random.default_rng(0)
    readable = [row.row for row in rows if row.error is None]
    layers: dict[str, tuple[int, ...]] = {"features.1": (2, 3, 2), "features": (5,)}
    arrays = {
        name: generator.normal(size=(len(readable), *shape)).astype(np.float32)
        for name, shape in layers.items()
    }
    with ShardWriter(folder, 4, layers, dtype) as writer:
        writer._group_rows = group
        done = 0
        for start in range(0, len(rows), part):
            some = rows[start : start + part]
            number = sum(row.error is None for row in some)
            writer.append(some, {name: x[done : done + number] for name, x in arrays.items()})
            done += number
    [shard] = list_shards(folder)
    assert (shard.number, shard.path) == (4, writer.path)
    assert has_valid_digest(shard)
    for name, array in arrays.items():
        read = [part.copy() for part in read_arrays(shard, name)]
        expected = array.astype(dtype).reshape(len(array), math.prod(layers[name]))
        np.testing.assert_array_equal(np.concatenate(read) if read else expected[:0], expected)
        # The same as pyarrow reads by itself.
        column = pq.read_table(shard.path)[name].to_pylist()
        assert [row is None for row in column] == skipped
    found = [Record(**row) for batch in read_records(shard) for row in batch.to_pylist()]
    assert found == rows


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    first = write(tmp_path)
    again = write(tmp_path)
    assert first == again
    assert len(list(tmp_path.iterdir())) == 1


def test_a_changed_byte_anywhere_is_found(tmp_path: Path) -> None:
    shard = write(tmp_path)
    content = shard.path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(content), 20):
        damaged = bytearray(content)
        damaged[position] ^= 1
        shard.path.write_bytes(damaged)
        assert not has_valid_digest(shard)


@pytest.mark.parametrize("length", [0, 3, 100, -1])
def test_a_truncated_shard_is_a_typed_error(length: int, tmp_path: Path) -> None:
    shard = write(tmp_path)
    shard.path.write_bytes(shard.path.read_bytes()[:length])
    assert not has_valid_digest(shard)
    with pytest.raises(FileFormatError, match="damaged or truncated"):
        list(read_arrays(shard, "a"))


def test_a_missing_shard_is_a_typed_error(tmp_path: Path) -> None:
    shard = write(tmp_path)
    shard.path.unlink()
    with pytest.raises(FileFormatError, match="No such file"):
        list(read_records(shard))


def test_another_parquet_file_is_a_typed_error(tmp_path: Path) -> None:
    shard = write(tmp_path)
    pq.write_table(pa.table({"a": [1]}), shard.path)
    with pytest.raises(FileFormatError, match="not a shard"):
        list(read_arrays(shard, "a"))


def test_a_layer_that_is_not_in_the_shard_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no column 'b'"):
        list(read_arrays(write(tmp_path), "b"))


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path, 0, {"a": (2,)}) as writer:
            writer.append(records([False]), {"a": np.ones((1, 2), np.float32)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 4, 1000])
def test_a_full_disk_is_a_typed_error(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write(tmp_path)
    written = 0
    original = shards._HashingFile.write

    def full(self: Any, data: bytes) -> int:
        nonlocal written
        if written + len(data) > after and not self.discards:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data)
        return original(self, data)

    monkeypatch.setattr(shards._HashingFile, "write", full)
    with pytest.raises(OutputError, match="shard 1 cannot be written: No space left"):
        write(tmp_path, 1, rows=300)
    assert list(tmp_path.iterdir()) == [kept.path]
    assert has_valid_digest(kept)


def test_a_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        write(tmp_path / "missing")
    with pytest.raises(FileFormatError, match="No such file"):
        list_shards(tmp_path / "missing")


def test_a_layer_with_the_name_of_another_column_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="layer 'row' has the name of another column"):
        ShardWriter(tmp_path, 0, {"row": (2,)})
    with pytest.raises(ParameterError, match="dtype is 'int8'; expected 'float32' or 'float16'"):
        ShardWriter(tmp_path, 0, {"a": (2,)}, "int8")


def test_the_name_of_a_file_need_not_be_valid_text(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, {"a": (2,)}) as writer:
        writer.append([Record(0, os.fsdecode(b"\xff.jpg"), error="no \udc80")], {})
    [batch] = read_records(list_shards(tmp_path)[0], ["source", "error"])
    assert batch.to_pylist() == [{"source": "\\udcff.jpg", "error": "no \\udc80"}]


def test_other_files_are_no_shards(tmp_path: Path) -> None:
    shard = write(tmp_path, 1_000_000)
    for name in ("shard-000001.parquet", ".shard-000001.ab.part", f"{shard.path.name}.damaged"):
        (tmp_path / name).touch()
    assert list_shards(tmp_path) == [shard]


@given(st.text(st.sampled_from(["\\", "u", "d", "c", "8", "f", "0", "5", "é", "\udcfe"])))
def test_every_source_is_read_back(source: str) -> None:
    stored = shards.encode_source(source)
    assert stored.encode().decode() == stored
    assert shards.decode_source(stored) == source
