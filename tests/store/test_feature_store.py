"""`FeatureStore`: reading, the nearest images, and stores that are not whole."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from transferkit import FeatureStore
from transferkit.errors import (
    DatasetError,
    FileFormatError,
    NotFiniteError,
    ParameterError,
    ShapeError,
    UnknownNameError,
)
from transferkit.images import Skipped
from transferkit.store import Record, ShardWriter, verify_store
from transferkit.store.manifest import Manifest, write_manifest
from transferkit.store.neighbors import find_nearest
from transferkit.store.relocation import find_relocation

SKIPPED = (0, 7, 8, 24)
NUMBER = 25
LAYERS: dict[str, tuple[int, ...]] = {"embedding": (6,), "map": (2, 2, 3)}


def make_store(folder: Path, layers: dict[str, tuple[int, ...]] = LAYERS) -> dict[str, Any]:
    """Write a store of 25 images in shards of 10; return its arrays."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(size=(NUMBER, *shape)).astype(np.float32)
        for name, shape in layers.items()
    }
    write_manifest(folder, Manifest({"network": "tiny"}, layers, "float32", 10, 3))
    for number, start in enumerate(range(0, NUMBER, 10)):
        rows = range(start, min(start + 10, NUMBER))
        with ShardWriter(folder, number, layers, metadata={"first_row": start}) as writer:
            records = [
                Record(row, f"/data/photos/{row}.jpg", error="bad" if row in SKIPPED else None)
                for row in rows
            ]
            kept = [row for row in rows if row not in SKIPPED]
            writer.append(records, {name: array[kept] for name, array in arrays.items()})
    kept = [row for row in range(NUMBER) if row not in SKIPPED]
    return {name: array[kept] for name, array in arrays.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, npt.NDArray[np.float32]]:
    return make_store(tmp_path / "the same")


def test_a_store_is_a_mapping_from_layer_to_mapped_array(folder: Path, arrays: Any) -> None:
    store = FeatureStore(folder)
    assert list(store) == ["embedding", "map"]
    assert len(store) == 2
    assert "map" in store
    assert "row" not in store
    for layer, array in arrays.items():
        np.testing.assert_array_equal(store[layer], array)
        assert isinstance(store[layer], np.memmap)
        assert store[layer] is store[layer]
    kept = [row for row in range(NUMBER) if row not in SKIPPED]
    assert store.indices.tolist() == store.positions.tolist() == kept
    assert store.skipped == [Skipped(f"/data/photos/{row}.jpg", "bad") for row in SKIPPED]
    assert store.info.description["network"] == "tiny"
    assert "21 rows; {'embedding': (6,), 'map': (2, 2, 3)}" in repr(store)


def test_sources_are_a_sequence(folder: Path) -> None:
    sources = FeatureStore(folder).sources
    expected = [f"/data/photos/{row}.jpg" for row in range(NUMBER) if row not in SKIPPED]
    assert sources == expected
    assert list(sources) == expected
    assert [sources[index] for index in range(-len(expected), len(expected))] == expected * 2
    assert sources[2:9] == expected[2:9]
    assert sources[::-2] == expected[::-2]
    assert sources[9:2] == []
    assert expected[3] in sources
    assert sources != expected[:-1]
    with pytest.raises(IndexError):
        sources[21]


def test_arrays_are_copied_from_the_shards_once(folder: Path, arrays: Any) -> None:
    FeatureStore(folder)["map"]
    [path] = (folder / "_arrays").iterdir()
    before = path.stat().st_mtime_ns
    np.testing.assert_array_equal(FeatureStore(folder)["map"], arrays["map"])
    assert path.stat().st_mtime_ns == before
    # A file that is damaged is written again.
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(FeatureStore(folder)["map"], arrays["map"])
    # Of another number of shards.
    with ShardWriter(folder, 3, LAYERS, metadata={"first_row": 25}) as writer:
        writer.append([Record(25, "new")], {k: np.zeros((1, *v)) for k, v in LAYERS.items()})
    assert len(FeatureStore(folder)["map"]) == 22
    [other] = (folder / "_arrays").iterdir()
    assert other != path


def test_a_store_that_cannot_be_written_to_is_read(
    folder: Path, arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("transferkit.support.atomic_write.check_writable", lambda _: None)
    np.testing.assert_array_equal(FeatureStore(folder)["map"], arrays["map"])
    assert list((folder / "_arrays").iterdir()) == []


def test_another_process_maps_the_arrays_itself(folder: Path, arrays: Any) -> None:
    store = FeatureStore(folder)
    before = len(pickle.dumps(store))
    store["map"]
    assert len(pickle.dumps(store)) == before < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))["map"], arrays["map"])


@pytest.mark.parametrize("size", [1, 4, 21, 100])
def test_batches_have_all_rows_in_order(folder: Path, arrays: Any, size: int) -> None:
    store = FeatureStore(folder)
    batches = list(store.iter_batches(size))
    assert [len(batch.sources) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for layer, array in arrays.items():
        np.testing.assert_array_equal(np.concatenate([batch[layer] for batch in batches]), array)
    assert [source for batch in batches for source in batch.sources] == list(store.sources)
    assert np.concatenate([batch.indices for batch in batches]).tolist() == store.indices.tolist()
    assert list(next(store.iter_batches(2, ["map"]))) == ["map"]
    with pytest.raises(ParameterError, match="batch_size is 0"):
        store.iter_batches(0)
    with pytest.raises(UnknownNameError, match="has no layer 'maps'; did you mean 'map'"):
        store.iter_batches(2, ["maps"])


def test_arrow_and_pandas_have_the_same_values(folder: Path, arrays: Any) -> None:
    store = FeatureStore(folder)
    table = store.to_arrow()
    assert table.num_rows == NUMBER
    expected = pq.read_table([str(path) for path in store.shards])
    for name in table.column_names:
        assert table[name].equals(expected[name])
    assert store.to_arrow(["map"]).column_names[-2:] == ["error", "map"]
    pytest.importorskip("pandas")
    frame = store.to_pandas()
    assert frame.index.tolist() == list(store.sources)
    assert frame.columns[:2].tolist() == ["embedding_0", "embedding_1"]
    np.testing.assert_array_equal(frame.iloc[:, :6], arrays["embedding"])
    np.testing.assert_array_equal(frame.iloc[:, 6:], arrays["map"].reshape(21, -1))


@pytest.mark.parametrize("layer", ["embedding", "map"])
def test_the_nearest_are_those_of_scikit_learn(folder: Path, arrays: Any, layer: str) -> None:
    store = FeatureStore(folder)
    flat = arrays[layer].reshape(21, -1)
    query = flat[3] + 0.1
    found = store.nearest(query.reshape(LAYERS[layer]), k=5, layer=layer)
    model = NearestNeighbors(n_neighbors=5, metric="cosine").fit(flat)
    distances, rows = model.kneighbors(query[None])
    assert found.rows.tolist() == rows[0].tolist()
    np.testing.assert_allclose(found.similarities, 1 - distances[0], atol=1e-6)
    assert found.sources == [store.sources[row] for row in found.rows]
    assert len(store.nearest(arrays["embedding"][0], k=100).rows) == 21


@given(seed=st.integers(0, 1000), size=st.integers(1, 7), k=st.integers(1, 12))
def test_blocks_do_not_matter(seed: int, size: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (10, 3)).astype(np.float32)
    query = generator.normal(size=3).astype(np.float32)
    whole = find_nearest(query, [vectors], k)
    blocks = find_nearest(query, [vectors[i : i + size] for i in range(0, 10, size)], k)
    lengths = np.linalg.norm(vectors, axis=1)
    expected = vectors @ query / np.where(lengths > 0, lengths, 1) / np.linalg.norm(query)
    for rows, similarities in (whole, blocks):
        # Of equal ones, any may be rounded to the larger.
        np.testing.assert_allclose(similarities, -np.sort(-expected)[:k], atol=1e-6)
        np.testing.assert_allclose(expected[rows], similarities, atol=1e-6)
        assert len(set(rows.tolist())) == min(k, 10)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_length_of_vectors_does_not_matter(scale: float) -> None:
    vectors = np.array([[3, 4], [0, 0], [4, -3], [np.nan, 1]], np.float32) * np.float32(scale)
    rows, similarities = find_nearest(np.array([3, 4], np.float32), [vectors], 4)
    np.testing.assert_allclose(similarities, [1, 0, 0, 0], atol=1e-6)
    assert rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": np.ones(5)}, ShapeError, "shape 5; expected 6 numbers, the output of layer"),
        ({"query": np.ones((2, 6))}, ShapeError, "shape 2 x 6; expected 6 numbers"),
        ({"query": ["a"] * 6}, ShapeError, "expected 6 numbers"),
        ({"query": [1, 2, np.nan, 4, 5, 6]}, NotFiniteError, "the query has values"),
        ({"k": 0}, ParameterError, "k is 0"),
        ({"layer": "embeding"}, UnknownNameError, "did you mean 'embedding'"),
    ],
)
def test_a_bad_query_is_a_typed_error(
    folder: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FeatureStore(folder).nearest(**{"query": np.ones(6), **arguments})


def test_a_layer_has_to_be_chosen_if_none_is_obvious(tmp_path: Path) -> None:
    make_store(tmp_path / "two", {"a": (2,), "b": (2,)})
    make_store(tmp_path / "one", {"a": (2,)})
    with pytest.raises(ParameterError, match="the store has 2 layers; expected one of 'a', 'b'"):
        FeatureStore(tmp_path / "two").nearest([1, 2])
    assert len(FeatureStore(tmp_path / "one").nearest([1, 2]).rows) == 10


def test_a_layer_that_was_not_stored_is_a_typed_error(folder: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"no layer 'logits'; available: embedding, map; ext"
    ):
        FeatureStore(folder)["logits"]
    with pytest.raises(UnknownNameError, match="did you mean 'embedding'"):
        FeatureStore(folder).to_arrow(["embeding"])


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_newer_store_is_rejected(folder: Path) -> None:
    change_manifest(folder, format=2)
    with pytest.raises(FileFormatError, match=r"a store of format 2; .* pip install --upgrade"):
        FeatureStore(folder)


@pytest.mark.parametrize(
    "changes",
    [{"layers": 7}, {"layers": {}}, {"dtype": "int8"}, {"shard_size": "x"}, {"format": None}],
)
def test_a_damaged_manifest_is_a_typed_error(folder: Path, changes: dict[str, Any]) -> None:
    change_manifest(folder, **changes)
    with pytest.raises(FileFormatError, match="not the manifest of a store, or damaged"):
        FeatureStore(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 100])
def test_another_manifest_is_a_typed_error(folder: Path, content: bytes) -> None:
    (folder / "_manifest.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"_manifest\.json: "):
        FeatureStore(folder)


def test_a_store_that_is_half_copied_is_a_typed_error(folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.glob("shard-*"))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "_manifest.json").unlink()
    with pytest.raises(FileFormatError, match="as if only a part of it had been copied"):
        FeatureStore(tmp_path / "copy")
    paths[2].unlink()
    with pytest.raises(FileFormatError, match=r"1 of 3 shards are missing \(number 2\); copy"):
        FeatureStore(folder)
    paths[0].unlink()
    with pytest.raises(FileFormatError, match=r"2 of 3 shards are missing \(number 0, 2\)"):
        FeatureStore(folder)


def test_a_damaged_shard_is_a_typed_error_when_it_is_read(folder: Path) -> None:
    path = sorted(folder.glob("shard-*"))[1]
    path.write_bytes(path.read_bytes()[:-10])
    store = FeatureStore(folder)
    with pytest.raises(FileFormatError, match="damaged or truncated; run the extraction again"):
        store["map"]
    assert store.verify() == [f"{path.name}: the content is not what was written"]


def test_everything_that_is_wrong_is_listed(folder: Path) -> None:
    paths = sorted(folder.glob("shard-*"))
    assert verify_store(folder) == FeatureStore(folder).verify() == []
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:-10])
    assert verify_store(folder) == [
        f"{paths[0].name}: the content is not what was written",
        "shard 1: missing",
        f"{paths[2].name}: the content is not what was written",
    ]
    with pytest.raises(FileFormatError, match="no such folder"):
        verify_store(folder / "missing")


@pytest.mark.parametrize("damage", ["altered", "longer", "text"])
def test_a_copy_that_differs_from_the_shards_is_removed(
    folder: Path, arrays: Any, damage: str
) -> None:
    store = FeatureStore(folder)
    store["map"], store["embedding"]
    assert store.verify() == []
    [path] = [
        path
        for path in (folder / "_arrays").iterdir()
        if np.load(path).shape == arrays["embedding"].shape
    ]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage == "longer":
        np.save(path, np.concatenate([arrays["embedding"]] * 2))
    else:
        path.write_bytes(content if damage == "altered" else b"text")
    [problem] = FeatureStore(folder).verify()
    assert problem == (
        f"_arrays/{path.name}: the copy of layer 'embedding' differs from the shards; it was "
        "removed, and is made again when the layer is used"
    )
    assert FeatureStore(folder).verify() == []
    np.testing.assert_array_equal(FeatureStore(folder)["embedding"], arrays["embedding"])


def test_what_a_killed_process_left_in_the_copies_is_removed(folder: Path) -> None:
    (folder / "_arrays").mkdir()
    old, new = (folder / "_arrays" / f".{name}.npy.0123.part" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    FeatureStore(folder)["map"]
    assert not old.exists()
    assert new.exists()


def test_a_store_that_is_being_written_has_the_shards_before_the_first_gap(
    folder: Path, arrays: Any
) -> None:
    sorted(folder.glob("shard-*"))[1].unlink()
    for num_shards in (None, 1):
        change_manifest(folder, num_shards=num_shards)
        store = FeatureStore(folder)
        assert store.indices.tolist() == [row for row in range(10) if row not in SKIPPED]
        np.testing.assert_array_equal(store["map"], arrays["map"][: len(store.sources)])
        assert store.verify() == []
    change_manifest(folder, num_shards=2)
    with pytest.raises(FileFormatError, match="1 of 2 shards are missing"):
        FeatureStore(folder)


@pytest.mark.parametrize(
    ("stored", "local", "base"),
    [
        ("/data/photos/cat/1.jpg", "cat/1.jpg", "."),
        ("/data/photos/cat/1.jpg", "photos/cat/1.jpg", "."),
        ("photos/1.jpg", "1.jpg", "."),
        (r"C:\photos\cat\1.jpg", "cat/1.jpg", "."),
    ],
)
def test_moved_images_are_found(tmp_path: Path, stored: str, local: str, base: str) -> None:
    path = tmp_path / local
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    moved = find_relocation([Record(0, stored)], tmp_path / base)
    assert moved.to_local(stored) == str(path)
    assert moved.to_stored(str(path)) == stored
    assert moved.to_local("s3://other") == "s3://other"


def test_files_with_the_same_names_and_other_content_are_not_the_images(tmp_path: Path) -> None:
    records = []
    for number, name in enumerate(("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        content = name.encode() * (1 + number // 3)
        path = tmp_path / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).digest()
        records.append(Record(number, f"old/{name}", len(content), 1, sha256))
    for base, stored in (("new", "old/"), ("new/a", "old/a/"), ("new/b", "old/b/")):
        assert find_relocation(records, tmp_path / base).stored == stored
    with pytest.raises(DatasetError, match=r"names of 2 of 2 tried images .* with other content"):
        find_relocation(records[:2], tmp_path / "new" / "b")
    # One that was edited since.
    (tmp_path / "new" / "a" / "0.png").write_bytes(b"edited")
    assert find_relocation(records, tmp_path / "new").stored == "old/"
    unknown = [Record(record.row, record.source) for record in records]
    with pytest.raises(DatasetError, match="old/a/ and old/b/ in the store fit alike, with 2 of 4"):
        find_relocation(unknown, tmp_path / "new" / "a")


def test_a_base_is_one_folder_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "0.png").touch()
    monkeypatch.chdir(tmp_path)
    for base in ("new", "./new/", tmp_path / "new"):
        moved = find_relocation([Record(0, "old/0.png")], base)
        for source in ("new/0.png", "./new/0.png", str(tmp_path / "new" / "0.png")):
            assert moved.to_stored(source) == "old/0.png"
        assert moved.to_local("old/0.png") == str(tmp_path / "new" / "0.png")


def test_images_that_are_not_in_the_base_are_a_typed_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no ending of the paths in the store, such as /data"):
        FeatureStore(folder, base=tmp_path)
    with pytest.raises(DatasetError, match="expected a folder that exists"):
        FeatureStore(folder, base=tmp_path / "missing")
    (tmp_path / "9.jpg").touch()
    store = FeatureStore(folder, base=tmp_path)
    assert store.sources[0] == str(tmp_path / "1.jpg")
    assert store.skipped[0].source == str(tmp_path / "0.jpg")
    assert store.to_arrow()["source"][0].as_py() == str(tmp_path / "0.jpg")
