"""Extraction to a store: the same numbers as `extract`, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow.dataset import dataset
from samples import NETWORK, SIDE, WEIGHTS, noise, tiny_extractor, write_images

from transferkit import FeatureExtractor, FeatureStore, Preprocessing
from transferkit.backends import Backend
from transferkit.errors import (
    DatasetError,
    FileFormatError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images import NamedImage, Skipped
from transferkit.store import list_shards, shards
from transferkit.store.places import FolderPlace
from transferkit.testing.strategies import random_weights_and_statistics

LAYERS = ["embedding", "relu1"]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """21 images of different sizes, of which three cannot be read."""
    paths = write_images(tmp_path / "photos", noise(21))
    paths[0].write_bytes(b"")
    paths[9].write_bytes(paths[9].read_bytes()[:100])
    paths[20].write_text("no image")
    return paths


@pytest.fixture
def extractor(backend: Backend) -> FeatureExtractor:
    return tiny_extractor(backend=backend)


def column_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every column of a store, null rows included."""
    table = FeatureStore(folder).to_arrow().combine_chunks()
    content = {}
    for name in table.column_names:
        [chunk] = table[name].chunks
        if name in LAYERS:
            content[name] = chunk.flatten().to_numpy().tobytes()
            content[f"{name} is null"] = chunk.is_null().to_numpy(False).tobytes()
        else:
            content[name] = repr(chunk.to_pylist()).encode()
    return content


@pytest.mark.parametrize("shard_size", [1, 4, 10, 100])
def test_a_store_has_the_features_of_extract(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, shard_size: int
) -> None:
    features = extractor.extract(photos, LAYERS, on_error="skip")
    store = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=shard_size)
    assert store.sources == features.sources
    assert store.skipped == features.skipped
    np.testing.assert_array_equal(store.indices, features.indices)
    assert len(store.shards) == -(-21 // shard_size)
    assert list(store) == LAYERS
    for layer in LAYERS:
        # Other batches, so other rounding.
        np.testing.assert_allclose(store[layer], features[layer], rtol=1e-5, atol=1e-6)
        assert not store[layer].flags.writeable


def test_the_columns_do_not_depend_on_what_was_done_before(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "whole", photos, LAYERS, shard_size=10)
    for number in (2, 10, 13, 21):
        extractor.extract_to(tmp_path / "parts", photos[:number], LAYERS, shard_size=10)
    parts, whole = column_bytes(tmp_path / "parts"), column_bytes(tmp_path / "whole")
    # The batches are others where a run ended.
    for name in set(whole) - set(LAYERS):
        assert parts[name] == whole[name]
    again = extractor.extract_to(tmp_path / "whole", photos, LAYERS, shard_size=10)
    assert column_bytes(tmp_path / "whole") == whole
    assert len(again.shards) == 3


def test_done_images_are_not_read_again(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "s", photos[:12])
    before = {path: path.read_bytes() for path in photos[:12]}
    for path in photos[:12]:
        path.unlink()
    store = extractor.extract_to(tmp_path / "s", photos)
    assert len(store.sources) == 18
    assert [skipped.source for skipped in store.skipped] == [str(photos[i]) for i in (0, 9, 20)]
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("rows", [3, 4, 9, 20])
def test_an_error_keeps_the_batches_before_it(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, rows: int
) -> None:
    def failing() -> Iterator[Path]:
        yield from photos[:rows]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extractor.extract_to(tmp_path / "s", failing(), LAYERS, shard_size=10)
    kept = len(FeatureStore(tmp_path / "s").sources)
    assert kept % 4 == 0 or kept >= 8
    assert rows - kept < 6
    extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    extractor.extract_to(tmp_path / "whole", photos, LAYERS, shard_size=10)
    assert column_bytes(tmp_path / "s") == column_bytes(tmp_path / "whole")


@settings(max_examples=15)
@given(
    interruptions=st.lists(st.integers(0, 12), max_size=4),
    size=st.sampled_from([3, 8, 100]),
    lost=st.sets(st.integers(0, 8)),
)
def test_ctrl_c_keeps_the_batches_before_it(
    interruptions: list[int], size: int, lost: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("interrupted")
    photos = [*noise(10), np.full((8, 8), 2.0), *noise(11, seed=1)]
    extractor = tiny_extractor(backend="onnxruntime")
    program, _ = extractor._load()
    run = program.run
    for calls in interruptions:
        left = calls

        def interrupted(*arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return run(*arguments)

        program.run = interrupted  # type: ignore[method-assign]
        before = rows_of(folder / "s")
        try:
            extractor.extract_to(folder / "s", photos, LAYERS, shard_size=size)
        except KeyboardInterrupt:
            assert rows_of(folder / "s") >= before + calls
        program.run = run  # type: ignore[method-assign]
    extractor.extract_to(folder / "s", photos, LAYERS, shard_size=size)
    extractor.extract_to(folder / "whole", photos, LAYERS, shard_size=size)
    assert column_bytes(folder / "s") == column_bytes(folder / "whole")
    # Nor do lost shards change anything, wherever the interruptions were.
    for shard in list_shards(folder / "s"):
        if shard.number in lost:
            shard.path.unlink()
    extractor.extract_to(folder / "s", photos, LAYERS, shard_size=size)
    assert column_bytes(folder / "s") == column_bytes(folder / "whole")


def rows_of(folder: Path) -> int:
    return len(FeatureStore(folder).sources) if folder.exists() else 0


def test_images_of_several_sizes_are_stored_in_order(backend: Backend, tmp_path: Path) -> None:
    extractor = tiny_extractor(backend=backend, preprocessing=Preprocessing(None))
    images = noise(30, seed=3)
    images[4:20] = [image[:SIDE, :SIDE] for image in images[4:20]]
    features = extractor.extract(images)
    store = extractor.extract_to(tmp_path / "s", images, shard_size=12)
    np.testing.assert_array_equal(store.indices, np.arange(30))
    np.testing.assert_allclose(store["embedding"], features["embedding"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match=r"layer 'relu1' depends on the size"):
        extractor.extract_to(tmp_path / "t", images, ["relu1"])


def test_an_image_is_stored_once(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    store = extractor.extract_to(tmp_path / "s", [*photos[1:4], photos[1], str(photos[2])])
    assert store.sources == [str(path) for path in photos[1:4]]


def test_a_changed_image_is_reported_and_kept(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    store = extractor.extract_to(tmp_path / "s", photos, LAYERS)
    before = column_bytes(tmp_path / "s")
    # The same content at another time is no change.
    os.utime(photos[1], ns=(0, 0))
    extractor.extract_to(tmp_path / "s", photos, LAYERS)
    shutil.copy(photos[5], photos[2])
    # An image that could not be read may be there now.
    shutil.copy(photos[5], photos[20])
    with pytest.warns(UserWarning, match=r"2 images have changed .*002\.png, .*another folder"):
        store = extractor.extract_to(tmp_path / "s", photos, LAYERS)
    assert column_bytes(tmp_path / "s") == before
    assert len(store.shards) == 1


def test_images_without_a_name_are_known_by_position_and_content(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(1, seed=8)[0]).save(file, "PNG")
    images: list[Any] = [*noise(3), Image.fromarray(noise(1, seed=4)[0]), file.getvalue()]
    store = extractor.extract_to(tmp_path / "s", images)
    assert store.sources == [f"images[{index}]" for index in range(5)]
    extractor.extract_to(tmp_path / "s", images)
    images[1], images[4] = images[2], b"GIF89a"
    with pytest.warns(UserWarning, match=r"2 images have changed .* images\[1\], images\[4\]"):
        store = extractor.extract_to(tmp_path / "s", [*images, noise(1)[0]])
    assert store.sources[-1] == "images[5]"
    assert len(store.sources) == 6


def test_images_of_16_bits_are_known_by_their_pixels(tmp_path: Path) -> None:
    extractor = tiny_extractor(
        backend="onnxruntime", preprocessing=Preprocessing(SIDE, bit_depth=12)
    )
    values = np.random.default_rng(0).integers(0, 4096, (3, 40, 40)).astype(np.uint16)
    images = [Image.fromarray(array) for array in values]
    extractor.extract_to(tmp_path / "s", images)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*changed since")
        assert len(extractor.extract_to(tmp_path / "s", images).sources) == 3


def test_an_image_that_is_too_small_for_the_network_is_skipped(tmp_path: Path) -> None:
    extractor = tiny_extractor(backend="onnxruntime", preprocessing=Preprocessing(None))
    large = noise(1)[0]
    images = [large, large[:2, :2], large, large[:1, :1], large]
    store = extractor.extract_to(tmp_path / "s", images)
    assert store.sources == ["images[0]", "images[2]", "images[4]"]
    assert [image.source for image in store.skipped] == ["images[1]", "images[3]"]
    assert "does not accept 2 x 2 images" in store.skipped[0].reason
    assert store.indices.tolist() == [0, 2, 4]


class Failing(NamedImage):
    source = "failing"

    def read(self) -> bytes:
        raise ValueError("no such key")


def test_an_error_of_a_named_image_is_skipped(extractor: FeatureExtractor, tmp_path: Path) -> None:
    store = extractor.extract_to(tmp_path / "s", [*noise(2), Failing()])
    assert store.skipped == [
        Skipped("failing", "read() of the Failing raised ValueError: no such key")
    ]


class Named(NamedImage):
    def __init__(self, source: str, path: Path) -> None:
        self.source = source
        self._path = path

    def read(self) -> bytes:
        return self._path.read_bytes()


def test_named_images_are_known_by_name(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    images = [Named(f"s3://bucket/{index}", path) for index, path in enumerate(photos)]
    store = extractor.extract_to(tmp_path / "s", images[:5])
    assert store.sources[0] == "s3://bucket/1"
    assert store.skipped == [Skipped("s3://bucket/0", "the file is empty")]
    images[2]._path = tmp_path / "missing"
    assert len(extractor.extract_to(tmp_path / "s", iter(images)).sources) == 18


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"weights": random_weights_and_statistics(NETWORK, seed=1)}, "weights_digest is '"),
        (
            {"preprocessing": Preprocessing(SIDE, interpolation="bicubic")},
            "preprocessing.interpolation is 'bilinear' in the store, 'bicubic' here",
        ),
        (
            {"network": "resnet18", "weights": "random", "preprocessing": None},
            "network is 'tiny' in the store, 'resnet18' here",
        ),
    ],
)
def test_another_extractor_is_rejected(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    change: dict[str, Any],
    difference: str,
) -> None:
    extractor.extract_to(tmp_path / "s", photos[:3])
    before = column_bytes(tmp_path / "s")
    other = tiny_extractor(**{"backend": extractor.backend, **change})
    with pytest.raises(ParameterError) as raised:
        other.extract_to(tmp_path / "s", photos)
    assert difference in str(raised.value)
    assert str(raised.value).endswith("use the same settings, or another folder")
    assert column_bytes(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"layers": ["embedding", "relu1"]},
            "layers is ['embedding'] in the store, ['embedding', ",
        ),
        ({"shard_size": 4}, "shard_size is 10 in the store, 4 here"),
        ({"dtype": "float16"}, "dtype is 'float32' in the store, 'float16' here"),
    ],
)
def test_other_settings_are_rejected(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    change: dict[str, Any],
    difference: str,
) -> None:
    extractor.extract_to(tmp_path / "s", photos[:3], shard_size=10)
    with pytest.raises(ParameterError) as raised:
        extractor.extract_to(tmp_path / "s", photos, **{"shard_size": 10, **change})
    assert difference in str(raised.value)


def test_a_second_writer_is_told_at_once(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    def second() -> Iterator[Path]:
        yield photos[1]
        with pytest.raises(OutputError, match="another process is writing to this store"):
            extractor.extract_to(tmp_path / "s", photos)
        yield photos[2]

    assert len(extractor.extract_to(tmp_path / "s", second()).sources) == 2


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let files that are hashed while they are written fail after a number of bytes."""
    written = 0
    original = shards._HashingFile.write

    def full(self: Any, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > after and not self.discards:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, data)

    monkeypatch.setattr(shards._HashingFile, "write", full)


@pytest.mark.parametrize("after", [0, 13_000, 27_000])
def test_a_full_disk_loses_no_complete_shard(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, after: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, after)
        with pytest.raises(OutputError, match="No space left on device"):
            extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    assert not list((tmp_path / "s").glob(".shard*"))
    assert FeatureStore(tmp_path / "s").verify() == []
    assert len(list_shards(tmp_path / "s")) == after // 13_000
    extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    extractor.extract_to(tmp_path / "whole", photos, LAYERS, shard_size=10)
    assert column_bytes(tmp_path / "s") == column_bytes(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_any_more_is_a_typed_error(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    original = Path.open

    def denied(self: Path, *arguments: Any, **others: Any) -> Any:
        if self.name.startswith(".shard-000002"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(self, *arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(OutputError, match="shard 2 cannot be written: Permission denied"):
            extractor.extract_to(tmp_path / "s", photos, shard_size=5)
    assert len(FeatureStore(tmp_path / "s").sources) == 8
    assert len(extractor.extract_to(tmp_path / "s", photos, shard_size=5).sources) == 18


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere"
)
def test_lost_permission_is_a_typed_error(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "s"

    def lost() -> Iterator[Path]:
        yield from photos[:10]
        folder.chmod(0o500)
        yield from photos[10:]

    try:
        with pytest.raises(OutputError, match="Permission denied"):
            extractor.extract_to(folder, lost(), shard_size=5)
        with pytest.raises(OutputError, match="not writable"):
            extractor.extract_to(folder, photos, shard_size=5)
        # It can still be read.
        assert FeatureStore(folder)["embedding"].shape[0] > 0
    finally:
        folder.chmod(0o700)
    assert len(extractor.extract_to(folder, photos, shard_size=5).sources) == 18


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_shard_is_computed_again(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, number: int, damage: str
) -> None:
    store = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    before = column_bytes(tmp_path / "s")
    path = store.shards[number]
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
        with pytest.raises(
            FileFormatError, match=rf"1 of 3 shards are missing \(number {number}\)"
        ):
            FeatureStore(tmp_path / "s")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1] if damage == "truncated" else content)
        [problem] = FeatureStore(tmp_path / "s").verify()
        assert problem == f"{path.name}: the content is not what was written"
    if damage == "removed":
        extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    else:
        with pytest.warns(UserWarning, match=f"1 shard was damaged: {path.name}"):
            extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
        assert path.with_name(f"_{path.name}.damaged").exists()
    assert column_bytes(tmp_path / "s") == before
    assert FeatureStore(tmp_path / "s").verify() == []


def test_several_lost_shards_are_computed_again(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    whole = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=3)
    before = column_bytes(tmp_path / "s")
    for number in (0, 2, 3, 6):
        whole.shards[number].unlink()
    extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=3)
    assert column_bytes(tmp_path / "s") == before


def test_an_error_while_a_lost_shard_is_computed_keeps_its_rows_for_it(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    whole = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    before = column_bytes(tmp_path / "s")
    whole.shards[0].unlink()

    def failing() -> Iterator[Path]:
        yield from photos[:7]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extractor.extract_to(tmp_path / "s", failing(), LAYERS, shard_size=10)
    extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=10)
    assert column_bytes(tmp_path / "s") == before


def test_lost_shards_whose_images_are_gone_are_left_empty(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    whole = extractor.extract_to(tmp_path / "s", photos, shard_size=3)
    for number in (1, 2, 4):
        whole.shards[number].unlink()
    left = [*photos[:3], photos[4], *photos[9:12], *photos[15:]]
    with pytest.warns(UserWarning, match="lost, and 8 of their rows are not in the store any more"):
        store = extractor.extract_to(tmp_path / "s", left, shard_size=3)
    assert sorted([*store.sources, *(image.source for image in store.skipped)]) == [
        str(path) for path in left
    ]
    assert all(before < after for before, after in pairwise(store.indices))


def test_a_store_without_its_manifest_is_not_written_to(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "s", photos)
    (tmp_path / "s" / "_manifest.json").unlink()
    with pytest.raises(FileFormatError, match=r"no _manifest\.json, as if only a part"):
        extractor.extract_to(tmp_path / "s", photos)


def test_moved_images_are_known_with_their_new_folder(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "s", photos[:10])
    before = FeatureStore(tmp_path / "s").indices
    moved = tmp_path / "elsewhere" / "photos"
    moved.parent.mkdir()
    (tmp_path / "photos").rename(moved)
    new = [moved / path.name for path in photos]
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    with pytest.warns(UserWarning, match=r"000\.png, are not there any more, .* pass base"):
        extractor.extract_to(tmp_path / "t", new)
    store = extractor.extract_to(tmp_path / "s", new, base=moved)
    assert len(store.sources) == 18
    assert len(store.indices) == len(before) + 10
    assert [*store.sources, *(image.source for image in store.skipped)].count(str(new[0])) == 1
    assert all(Path(source).exists() for source in store.sources)
    # Stored as they were.
    assert FeatureStore(tmp_path / "s").sources[-1] == str(photos[19])
    with pytest.raises(DatasetError, match="no ending of the paths in the store"):
        FeatureStore(tmp_path / "s", base=tmp_path / "s")


def test_a_base_is_the_same_folder_however_it_is_written(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in photos]
    extractor.extract_to("s", relative[:12])
    for base in ("photos", "./photos/", tmp_path / "photos"):
        for paths in (relative[:12], photos[:12]):
            assert len(extractor.extract_to("s", paths, base=base).shards) == 1
    assert len(extractor.extract_to("s", photos, base="photos").sources) == 18
    assert list(FeatureStore("s").sources)[-1] == str(relative[19])
    (tmp_path / "other").mkdir()
    for folder in ("s", "new"):
        with pytest.raises(DatasetError, match="base is other, but none of the images that are"):
            extractor.extract_to(folder, photos, base="other")
    assert not Path("new").exists()


def test_images_that_are_stored_under_another_path_are_reported(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in photos]
    extractor.extract_to("s", relative[:4])
    with pytest.warns(
        UserWarning, match=r"3 of the first 10 new .*001\.png and photos.001\.png; .* pass base"
    ):
        extractor.extract_to("s", photos)
    extractor.extract_to("t", relative[:4])
    with pytest.warns(UserWarning, match="3 of the first 3 new images"):
        extractor.extract_to("t", photos[:4])


def test_a_base_completes_half_a_store(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=5)
    before = column_bytes(tmp_path / "s")
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    paths = [moved / path.name for path in photos]
    for shard in list_shards(tmp_path / "s")[2:4]:
        shard.path.unlink()
    extractor.extract_to(tmp_path / "s", paths, LAYERS, shard_size=5, base=moved)
    assert column_bytes(tmp_path / "s") == before
    for shard in list_shards(tmp_path / "s"):
        shard.path.unlink()
    # None is left to find the base with.
    store = extractor.extract_to(tmp_path / "s", paths, LAYERS, shard_size=5, base=moved)
    assert len(store.sources) == 18


def test_skipped_images_are_tried_again_if_asked(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    shutil.copy(photos[9], tmp_path / "kept")
    skipped = [str(photos[index]) for index in (0, 9, 20)]
    extractor.extract_to(tmp_path / "s", photos[:20], shard_size=10)
    number = len(list_shards(tmp_path / "s"))
    store = extractor.extract_to(tmp_path / "s", photos[:20], retry_skipped=True)
    # Nothing is written for those that still cannot be read.
    assert len(store.shards) == number
    assert [image.source for image in store.skipped] == skipped[:2]
    shutil.copy(photos[3], photos[9])
    extractor.extract_to(tmp_path / "s", photos, retry_skipped=True)
    for again in (False, True):
        store = extractor.extract_to(tmp_path / "s", photos, retry_skipped=again)
        assert [image.source for image in store.skipped] == [skipped[0], skipped[2]]
        assert sorted(store.sources) == sorted(map(str, {*photos} - {photos[0], photos[20]}))
        assert store.sources[-1] == skipped[1]
        assert len(store["embedding"]) == len(store.sources) == len(store.positions) == 19
        # Of the 21 images, the one in row 9 counts once, where it is now.
        assert store.positions.tolist() == [*range(1, 19), 20]
        assert store.indices[-1] == 21
    np.testing.assert_allclose(store["embedding"][-1], store["embedding"][2], rtol=1e-5)


def test_the_shard_size_is_that_of_the_store(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    extractor.extract_to(tmp_path / "s", photos[:3], shard_size=4)
    assert len(extractor.extract_to(tmp_path / "s", photos).shards) == 7
    assert extractor.extract_to(tmp_path / "t", photos).info.shard_size == 10_000


@pytest.mark.parametrize(
    "name", ["photos", "a.tar", "a.TGZ", "list.txt", "a.parquet", "photos/*.png", "s3://b/1.jpg"]
)
def test_a_folder_or_archive_among_images_is_a_typed_error(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, name: str
) -> None:
    path = name if "://" in name else str(tmp_path / name)
    for images in ([photos[1], path], (path,), iter([path])):
        with pytest.raises(DatasetError, match=r"pass transferkit\.sources\.open_sources\(images"):
            extractor.extract_to(tmp_path / "s", images)


def test_a_folder_with_other_files_is_no_store(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    before = sorted(photos[0].parent.iterdir())
    with pytest.raises(OutputError, match=r"other files, such as '000\.png', .* another folder"):
        extractor.extract_to(photos[0].parent, photos)
    assert sorted(photos[0].parent.iterdir()) == before
    with pytest.raises(DatasetError, match="expected a folder that exists"):
        extractor.extract_to(tmp_path / "s", photos, base=tmp_path / "nope")
    assert not (tmp_path / "s").exists()


def test_float16_is_half_the_size(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    full = extractor.extract_to(tmp_path / "full", photos, LAYERS)
    half = extractor.extract_to(tmp_path / "half", photos, LAYERS, dtype="float16")
    assert half["relu1"].dtype == np.float16
    for layer in LAYERS:
        np.testing.assert_array_equal(half[layer], full[layer].astype(np.float16))


def test_values_beyond_the_range_are_reported(backend: Backend, tmp_path: Path) -> None:
    weights = {**WEIGHTS, "norm1.bias": WEIGHTS["norm1.bias"] + np.float32(1e5)}
    extractor = tiny_extractor(weights=weights, backend=backend)
    with pytest.warns(UserWarning, match=r"layer 'relu1' .* for 6 images, such as images\[0\]"):
        extractor.extract_to(tmp_path / "s", noise(6), ["relu1"], dtype="float16")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": ["embeding"]}, UnknownNameError, "did you mean 'embedding'"),
        ({"layers": []}, ParameterError, "layers is empty"),
        ({"shard_size": 0}, ParameterError, "shard_size is 0"),
        ({"dtype": "int8"}, ParameterError, "dtype is 'int8'; expected 'float32' or 'float16'"),
        ({"X": []}, DatasetError, "no images were given"),
        ({"X": iter([])}, DatasetError, "no images were given"),
        ({"X": 7}, ImageError, "unsupported type int"),
        ({"base": "missing"}, DatasetError, "base is missing; expected a folder"),
    ],
)
def test_bad_input_is_a_typed_error(
    extractor: FeatureExtractor,
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        extractor.extract_to(**{"folder": tmp_path / "s", "X": noise(2), **arguments})


def test_a_folder_that_is_a_file_is_a_typed_error(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    (tmp_path / "s").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        extractor.extract_to(tmp_path / "s", noise(2))


def test_without_pyarrow_the_error_says_how_to_install_it(
    extractor: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[store\]"'):
        extractor.extract_to(tmp_path / "s", noise(2))
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[store\]"'):
        FeatureStore(tmp_path)
    assert not (tmp_path / "s").exists()


def test_all_images_unreadable_is_a_store_without_rows(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"none of the images could .*000\.png: the file is empty"):
        store = extractor.extract_to(tmp_path / "s", [photos[0], photos[20]])
    assert store["embedding"].shape == (0, 6)
    assert len(store.skipped) == 2


@pytest.mark.usefixtures("photos")
def test_a_folder_or_a_list_is_extracted(extractor: FeatureExtractor, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/003.png\nphotos/001.png\n")
    store = extractor.extract_to(tmp_path / "s", str(tmp_path / "list.txt"))
    assert [Path(source).name for source in store.sources] == ["003.png", "001.png"]
    store = extractor.extract_to(tmp_path / "s", tmp_path / "photos")
    assert [Path(source).name for source in store.sources[:3]] == ["003.png", "001.png", "002.png"]
    assert len(store.sources) == 18


def test_batches_are_streamed(extractor: FeatureExtractor, photos: list[Path]) -> None:
    features = extractor.extract(photos, LAYERS, on_error="skip")
    pulled = 0

    def counted() -> Iterator[Path]:
        nonlocal pulled
        for path in photos:
            pulled += 1
            yield path

    stream = extractor.iter_extract(counted(), LAYERS)
    first = next(stream)
    assert pulled < len(photos)
    batches = [first, *stream]
    assert [len(batch.sources) for batch in batches] == [4, 4, 4, 4, 2]
    for layer in LAYERS:
        joined: npt.NDArray[np.float32] = np.concatenate([batch[layer] for batch in batches])
        np.testing.assert_array_equal(joined, features[layer])
    assert [source for batch in batches for source in batch.sources] == features.sources
    assert [image for batch in batches for image in batch.skipped] == features.skipped
    np.testing.assert_array_equal(
        np.concatenate([batch.indices for batch in batches]), features.indices
    )
    with pytest.raises(ImageError, match="the file is empty"):
        list(extractor.iter_extract(photos, on_error="raise"))
    with pytest.raises(DatasetError, match="the image cannot be read"):
        list(extractor.iter_extract([photos[0]]))


def test_the_store_is_plain_parquet(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    table = pq.read_table([str(path) for path in store.shards])
    assert table.column_names == [
        "row",
        "source",
        "size",
        "modified",
        "sha256",
        "error",
        "embedding",
    ]
    assert table["row"].to_pylist() == list(range(21))
    assert table["size"].to_pylist() == [path.stat().st_size for path in photos]
    assert table["modified"].to_pylist() == [path.stat().st_mtime_ns for path in photos]


def test_the_lock_is_released_after_an_error(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError):
        extractor.extract_to(tmp_path / "s", iter([]))
    assert len(extractor.extract_to(tmp_path / "s", photos).sources) == 18


class TestLostShards:
    """What happens to new images and to lost rows if shards are missing."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> list[Path]:
        return write_images(tmp_path / "images", noise(12))

    @pytest.fixture
    def new(self, tmp_path: Path) -> list[Path]:
        return write_images(tmp_path / "new", noise(3, seed=1))

    def lose(
        self, extractor: FeatureExtractor, images: list[Path], folder: Path, *numbers: int
    ) -> None:
        store = extractor.extract_to(folder, images, shard_size=4)
        for number in numbers:
            store.shards[number].unlink()

    @pytest.mark.parametrize("lost", [(1,), (2,), (1, 2), (0, 1, 2), (0, 2)])
    def test_new_images_before_known_ones_have_rows_at_the_end(
        self,
        extractor: FeatureExtractor,
        images: list[Path],
        new: list[Path],
        tmp_path: Path,
        lost: tuple[int, ...],
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        self.lose(extractor, images, tmp_path / "s", *lost)
        given = [*images, *new] if 0 in lost else [*new, *images]
        store = extractor.extract_to(tmp_path / "s", given, shard_size=4)
        assert list(store.sources) == [str(path) for path in (*images, *new)]
        np.testing.assert_allclose(
            store["embedding"], extractor.extract([*images, *new])["embedding"], atol=1e-5
        )
        assert not list(recwarn)

    @pytest.mark.parametrize("lost", [(1,), (2,), (1, 2)])
    def test_lost_rows_are_reported(
        self,
        extractor: FeatureExtractor,
        images: list[Path],
        new: list[Path],
        tmp_path: Path,
        lost: tuple[int, ...],
    ) -> None:
        self.lose(extractor, images, tmp_path / "s", *lost)
        number = 4 * len(lost)
        with pytest.warns(UserWarning, match=f"lost, and {number} of their rows are not in the"):
            store = extractor.extract_to(tmp_path / "s", new[:1], shard_size=4)
        kept = [row for row in range(12) if row // 4 not in lost]
        assert store.indices.tolist() == [*kept, 12]
        assert list(store.sources) == [*(str(images[row]) for row in kept), str(new[0])]

    def test_images_that_may_be_new_or_lost_are_reported(
        self, extractor: FeatureExtractor, images: list[Path], new: list[Path], tmp_path: Path
    ) -> None:
        self.lose(extractor, images, tmp_path / "s", 0)
        with pytest.warns(UserWarning, match="more new images were given in their place than"):
            store = extractor.extract_to(tmp_path / "s", [*new, *images], shard_size=4)
        assert sorted(store.sources) == sorted(str(path) for path in (*images, *new))

    def test_images_of_a_later_run_between_those_of_the_first_are_repaired(
        self, extractor: FeatureExtractor, images: list[Path], tmp_path: Path
    ) -> None:
        extractor.extract_to(tmp_path / "s", images[::2], shard_size=2)
        store = extractor.extract_to(tmp_path / "s", images, shard_size=2)
        before = column_bytes(tmp_path / "s")
        store.shards[4].unlink()
        extractor.extract_to(tmp_path / "s", images, shard_size=2)
        assert column_bytes(tmp_path / "s") == before


def flip(path: Path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)


def test_damaged_features_are_not_copied_and_a_repair_reaches_the_copy(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    photos = write_images(tmp_path / "photos", noise(12))
    store = extractor.extract_to(tmp_path / "s", photos, shard_size=4)
    expected = np.array(store["embedding"])
    position = store.shards[1].read_bytes().index(expected[5].tobytes())
    content = bytearray(store.shards[1].read_bytes())
    content[position + 3] ^= 1
    store.shards[1].write_bytes(content)
    for copy in (tmp_path / "s" / "_arrays").iterdir():
        copy.unlink()
    with pytest.raises(FileFormatError, match=r"damaged or truncated; run the extraction again"):
        FeatureStore(tmp_path / "s")["embedding"]
    with pytest.warns(UserWarning, match="1 shard was damaged"):
        store = extractor.extract_to(tmp_path / "s", photos, shard_size=4)
    np.testing.assert_array_equal(store["embedding"], expected)


def test_the_copies_are_removed_when_a_shard_is_damaged(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    expected = np.array(store["embedding"])
    [copy] = (tmp_path / "s" / "_arrays").iterdir()
    flip(copy, 0.9)
    flip(store.shards[1], 0.5)
    with pytest.warns(UserWarning, match="1 shard was damaged"):
        store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    np.testing.assert_array_equal(store["embedding"], expected)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_shard_that_cannot_be_read_is_not_damaged(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    before = {path.name for path in (tmp_path / "s").iterdir()}
    place_open = FolderPlace.open

    def failing(self: FolderPlace, name: str) -> Any:
        if name == store.shards[1].name:
            raise OSError(number, os.strerror(number))
        return place_open(self, name)

    monkeypatch.setattr(FolderPlace, "open", failing)
    with pytest.raises(FileFormatError, match=f"parquet: cannot be read: {os.strerror(number)}"):
        extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    assert {path.name for path in (tmp_path / "s").iterdir()} == before


def test_a_file_that_cannot_be_parsed_is_damaged_unless_the_system_fails(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [path] = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=100).shards
    before = column_bytes(tmp_path / "s")

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", failing)
        with pytest.raises(FileFormatError, match="cannot be read: no answer"):
            extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=100)
    assert path.exists()
    path.unlink()
    # Its digest is valid.
    digest = hashlib.sha256(b"other").hexdigest()[:16]
    (tmp_path / "s" / f"shard-000000-{digest}.parquet").write_bytes(b"other")
    with pytest.warns(UserWarning, match="1 shard was damaged"):
        extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=100)
    assert column_bytes(tmp_path / "s") == before


def test_a_folder_is_a_data_set_for_other_programs(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    flip(store.shards[1], 0.5)
    with pytest.warns(UserWarning, match="1 shard was damaged"):
        store = extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    array = store["embedding"]
    frame = pandas.read_parquet(tmp_path / "s")
    assert frame["row"].tolist() == list(range(21))
    read = frame[frame["error"].isna()]
    np.testing.assert_array_equal(np.stack(read["embedding"]), array)
    assert dataset(tmp_path / "s").count_rows() == 21


@pytest.mark.parametrize("folder", ["", 5, None, [1]])
def test_a_folder_that_is_no_path_is_a_typed_error(
    extractor: FeatureExtractor, photos: list[Path], folder: Any
) -> None:
    for call in (FeatureStore, lambda folder: extractor.extract_to(folder, photos)):
        with pytest.raises(ParameterError, match=r"folder is .*; expected a path or a URL"):
            call(folder)


def test_the_home_folder_is_expanded(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    store = extractor.extract_to("~/features", photos)
    assert store.folder == tmp_path / "home" / "features"
    assert FeatureStore("~/features").folder == store.folder


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names are valid text there")
def test_names_that_are_not_valid_text_are_usable_paths(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    names = [b"a\xfe.jpg", rb"b\udcfe.jpg", rb"c\u005cudcfe.jpg", "é.jpg".encode()]
    [photo] = write_images(tmp_path / "photos", noise(1))
    for name in names:
        shutil.copy(photo, os.fsencode(photo.parent) + b"/" + name)
    photo.unlink()
    paths = sorted(photo.parent.iterdir())
    paths[0].write_bytes(b"")
    store = extractor.extract_to(tmp_path / "s", paths)
    assert list(store.sources) == [str(path) for path in paths[1:]]
    assert [image.source for image in store.skipped] == [str(paths[0])]
    # None is computed again.
    assert len(extractor.extract_to(tmp_path / "s", paths).sources) == 3
    shutil.move(photo.parent, tmp_path / "moved")
    moved = FeatureStore(tmp_path / "s", base=tmp_path / "moved")
    assert all(os.path.exists(source) for source in moved.sources)
    assert moved.to_arrow().num_rows == 4
    pytest.importorskip("pandas")
    assert store.to_pandas().index.tolist() == list(store.sources)
