"""A cache of features: the same results, found by content, whatever happens to the files."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import NETWORK, SIDE, WEIGHTS, noise, tiny_extractor
from sklearn.base import clone

from transferkit import FeatureCache, FeatureExtractor, Preprocessing
from transferkit.backends import Program
from transferkit.errors import (
    DatasetError,
    FileFormatError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    UnsupportedError,
)
from transferkit.features import cached_layer, cached_run
from transferkit.features.open_cache import OpenCache
from transferkit.images import NamedImage
from transferkit.images.bit_depth import BitDepth
from transferkit.networks import Network, replace_head

IMAGES = noise(12)
Floats = npt.NDArray[np.float32]


class Counter:
    """The number of images that networks ran on."""

    def __init__(self) -> None:
        self.images = 0

    def take(self) -> int:
        """Return the number, and start from 0 again."""
        number, self.images = self.images, 0
        return number


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counted = Counter()
    run = Program.run

    def counting(self: Program, pixels: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        counted.images += len(pixels)
        return run(self, pixels, layers)

    monkeypatch.setattr(Program, "run", counting)
    return counted


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/shard-*.parquet"))


def encoded(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@dataclasses.dataclass
class Item(NamedImage):
    """An image with a name."""

    source: str
    content: bytes

    def read(self) -> bytes:
        return self.content


# ---- found by content -----------------------------------------------------------------------


def test_a_second_call_returns_the_same_bits_without_running_the_network(
    tmp_path: Path, counter: Counter
) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    first = extractor.extract(IMAGES, ["embedding", "conv2"])
    assert counter.take() == len(IMAGES)
    second = tiny_extractor(cache=str(tmp_path)).extract(IMAGES, ["conv2", "embedding"])
    assert counter.take() == 0
    plain = tiny_extractor().extract(IMAGES, ["embedding", "conv2"])
    for layer in first:
        np.testing.assert_array_equal(first[layer], second[layer])
        np.testing.assert_allclose(second[layer], plain[layer], rtol=1e-5, atol=1e-6)
    assert second.sources == plain.sources
    assert second.indices.tolist() == plain.indices.tolist()
    second["embedding"][:] = 0  # A result belongs to the caller.
    np.testing.assert_array_equal(extractor.transform(IMAGES), first["embedding"])


def test_a_file_is_found_under_every_name_and_as_bytes(tmp_path: Path, counter: Counter) -> None:
    content = encoded(IMAGES[0])
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(content)
    extractor = tiny_extractor(cache=tmp_path / "cache")
    kinds = [
        tmp_path / "a.png",
        tmp_path / "b.png",
        content,
        io.BytesIO(content),
        Item("https://example.org/a.png", content),
    ]
    rows = np.concatenate([extractor.transform([kind]) for kind in kinds])
    assert counter.take() == 1
    assert (rows == rows[0]).all()


def test_pixels_are_found_as_array_and_as_pil_image(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    extractor.transform([IMAGES[0], Image.fromarray(IMAGES[0])])
    extractor.transform(Image.fromarray(IMAGES[0]))
    assert counter.take() == 1
    changed = IMAGES[0].copy()
    changed[0, 0, 0] ^= 1
    extractor.transform(changed)
    assert counter.take() == 1
    # Resized as floats, not as 8 bits.
    extractor.transform(IMAGES[0].astype(np.float32) / 255)
    assert counter.take() == 1
    rotated = Image.fromarray(IMAGES[0])
    rotated.getexif()[0x0112] = 6
    extractor.transform(rotated)
    assert counter.take() == 1


def key_of(extractor: FeatureExtractor, layer: str = "embedding", folder: str = "x") -> str:
    layers = OpenCache().layers(folder, *extractor._load(), [layer])
    assert layers is not None
    return layers[layer].key


def test_what_determines_the_numbers_is_part_of_the_key() -> None:
    (weight, *_), (name, *_) = WEIGHTS.values(), WEIGHTS
    other = {**WEIGHTS, name: np.nextafter(weight, np.inf, dtype=np.float32)}
    keys = [
        key_of(tiny_extractor()),
        key_of(tiny_extractor(), "conv2"),
        key_of(tiny_extractor(weights=other)),
        key_of(tiny_extractor(preprocessing=Preprocessing(SIDE + 1))),
        key_of(tiny_extractor(preprocessing=Preprocessing(SIDE, resize=2 * SIDE))),
    ]
    assert len(set(keys)) == len(keys)


def test_what_does_not_determine_the_numbers_is_no_part_of_the_key() -> None:
    key = key_of(tiny_extractor())
    assert key_of(tiny_extractor(batch_size=2), "pooled") == key
    renamed = Network("other", NETWORK.nodes, NETWORK.parameters, NETWORK.aliases, 999)
    assert key_of(tiny_extractor(network=renamed)) == key
    # A classifier of the same embedding.
    fitted = replace_head(NETWORK, 2, embedding_size=6, name="2 classes")
    head = {"head.weight": np.ones((2, 6), np.float32), "head.bias": np.ones(2, np.float32)}
    weights = {**WEIGHTS, **head}
    arrays = {name: weights[name] for name in fitted.parameters}
    assert key_of(tiny_extractor(network=fitted, weights=arrays)) == key


def test_backends_have_their_own_features(backends: list[Any]) -> None:
    keys = {key_of(tiny_extractor(backend=backend)) for backend in backends}
    assert len(keys) == len(backends)


@pytest.mark.parametrize("are_views", [False, True])
def test_weights_that_are_changed_in_place_are_other_weights(
    tmp_path: Path, are_views: bool
) -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    given = {name: array.view() for name, array in weights.items()} if are_views else weights
    for array in given.values():
        array.flags.writeable = not are_views
    extractor = tiny_extractor(weights=given, cache=tmp_path)
    before = extractor.transform(IMAGES)
    weights["conv2.weight"] *= 2
    after = extractor.transform(IMAGES)
    expected = tiny_extractor(weights=weights).transform(IMAGES)
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3


# ---- the same results as without ------------------------------------------------------------

CALLS = st.lists(
    st.tuples(
        st.lists(st.integers(0, len(IMAGES)), min_size=1, max_size=10),
        st.lists(st.sampled_from(["embedding", "pooled", "conv2", "logits"]), min_size=1),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15)
@given(calls=CALLS, block=st.integers(1, 6))
def test_results_are_those_without_a_cache(
    calls: list[tuple[list[int], list[str], bool]], block: int
) -> None:
    images: list[Any] = [*IMAGES, b"no image"]
    plain = tiny_extractor()
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached_run, "_MAX_IMAGES", block)
        cached = tiny_extractor(cache=folder)
        for positions, layers, as_generator in calls:
            chosen = [images[position] for position in positions]
            given_images = (image for image in chosen) if as_generator else chosen
            if set(positions) == {len(IMAGES)}:
                with pytest.raises(DatasetError):
                    cached.extract(given_images, layers, on_error="skip")
                continue
            expected = plain.extract(chosen, layers, on_error="skip")
            found = cached.extract(given_images, layers, on_error="skip")
            assert found.sources == expected.sources
            assert found.indices.tolist() == expected.indices.tolist()
            assert [(one.source, one.reason) for one in found.skipped] == [
                (one.source, one.reason) for one in expected.skipped
            ]
            assert list(found) == list(expected)
            for layer in layers:
                np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-6)


def test_layers_that_are_missing_are_computed_and_kept(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    extractor.extract(IMAGES, ["embedding"])
    extractor.extract(IMAGES, ["embedding", "conv2"])
    assert counter.take() == 2 * len(IMAGES)
    extractor.extract(IMAGES, ["conv2"])
    assert counter.take() == 0
    assert len(shards(tmp_path)) == 2


def test_batches_are_found_too(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    extractor.transform(IMAGES[3:9])
    counter.take()
    batches = list(extractor.iter_extract(IMAGES))
    assert counter.take() == len(IMAGES) - 6
    positions = np.concatenate([batch.indices for batch in batches])
    assert sorted(positions.tolist()) == list(range(len(IMAGES)))
    rows = np.concatenate([batch["embedding"] for batch in batches])
    np.testing.assert_array_equal(rows, extractor.transform(IMAGES)[positions])
    assert counter.take() == 0


def test_images_that_cannot_be_read_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(IMAGES[0])[:100])
    extractor = tiny_extractor(cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError, match=r"image\.png"):
            extractor.transform([IMAGES[1], path])
    assert extractor.extract([IMAGES[1], path], on_error="skip").indices.tolist() == [0]
    path.write_bytes(encoded(IMAGES[0]))
    assert len(extractor.transform([path])) == 1


def test_maps_of_images_of_different_sizes_are_an_error_as_without_a_cache(tmp_path: Path) -> None:
    images = [noise(2)[0][:16, :16], noise(2)[1][:16, :16].repeat(2, axis=0)]
    preprocessing = Preprocessing(size=None)
    cached = tiny_extractor(preprocessing=preprocessing, cache=tmp_path, layer="conv2")
    plain = tiny_extractor(preprocessing=preprocessing, layer="conv2")
    for image in images:
        np.testing.assert_allclose(
            cached.transform([image]), plain.transform([image]), rtol=1e-5, atol=1e-6
        )
    for extractor in (cached, plain):
        with pytest.raises(ShapeError, match=r"3 x 3 x 6 for images\[0\] but .* images\[1\]"):
            extractor.transform(images)
    embeddings = cached.extract(images, ["embedding"])["embedding"]
    np.testing.assert_array_equal(cached.extract(images, ["embedding"])["embedding"], embeddings)


def test_images_of_different_sizes_are_in_batches_of_their_own(tmp_path: Path) -> None:
    images = [np.zeros((side, 16, 3), np.uint8) + 9 * side for side in (16, 24, 16, 16, 24)]
    settings = {"preprocessing": Preprocessing(size=None), "layer": "conv2"}
    for extractor in (tiny_extractor(**settings), tiny_extractor(cache=tmp_path, **settings)):
        for _ in range(2):
            batches = list(extractor.iter_extract(images))
            heights = {
                int(index): batch["conv2"].shape[1] for batch in batches for index in batch.indices
            }
            assert heights == {0: 3, 1: 5, 2: 3, 3: 3, 4: 5}


def test_of_images_that_cannot_be_read_nothing_is_left(tmp_path: Path) -> None:
    program, model = tiny_extractor()._load()
    layers = OpenCache().layers(tmp_path, program, model, ["embedding"])
    assert layers is not None
    with cached_run.CachedRun(program, layers, takes_turns=False) as run:
        with pytest.raises(ImageError):
            run.read(b"GIF89a", "x", BitDepth(None), 0)
        assert run._digests == {}


def test_an_interrupted_run_keeps_what_was_done(tmp_path: Path, counter: Counter) -> None:
    def interrupted() -> Iterator[npt.NDArray[np.uint8]]:
        yield from IMAGES[:10]
        raise ValueError("the camera is gone")

    extractor = tiny_extractor(cache=tmp_path)
    with pytest.raises(ValueError, match="camera"):
        extractor.transform(interrupted())
    done = counter.take()
    assert done >= 4
    extractor.transform(IMAGES[:10])
    assert counter.take() == 10 - done


# ---- several threads and processes ----------------------------------------------------------


def test_threads_compute_each_image_once(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    expected = tiny_extractor().transform(IMAGES)
    counter.take()
    with ThreadPoolExecutor(4) as executor:
        for result in executor.map(extractor.transform, [IMAGES] * 4):
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert counter.take() == len(IMAGES)


def start(cache: Path, first: int, last: int, seconds: float, output: Path) -> Any:
    script = Path(__file__).parents[1] / "cached_extraction.py"
    arguments = map(str, (script, cache, first, last, seconds, output))
    return subprocess.Popen([sys.executable, *arguments])


def test_processes_compute_each_image_once(tmp_path: Path) -> None:
    ranges = [(0, 48), (16, 64)]
    processes = [
        start(tmp_path / "cache", *ends, 0.02, tmp_path / f"{index}.npz")
        for index, ends in enumerate(ranges)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    results = [np.load(tmp_path / f"{index}.npz") for index in range(2)]
    expected = tiny_extractor().transform(noise(64))
    for result, (first, last) in zip(results, ranges, strict=True):
        np.testing.assert_allclose(result["features"], expected[first:last], rtol=1e-5, atol=1e-6)
    assert sum(int(result["counted"]) for result in results) == 64


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_killed_process_loses_only_what_it_had_not_written(
    tmp_path: Path, counter: Counter
) -> None:
    cache = tmp_path / "cache"
    process = start(cache, 0, 64, 0.05, tmp_path / "result.npz")
    deadline = time.monotonic() + 60
    while not shards(cache) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "result.npz").exists()
    extractor = tiny_extractor(backend="onnxruntime", cache=cache)
    features = extractor.transform(noise(64))
    assert 0 < counter.take() <= 64 - 8
    np.testing.assert_allclose(
        features, tiny_extractor(backend="onnxruntime").transform(noise(64)), rtol=1e-5, atol=1e-6
    )


def test_parts_of_killed_processes_are_removed_after_a_while(tmp_path: Path) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    extractor.transform(IMAGES[:1])
    folder = shards(tmp_path)[0].parent
    parts = [folder / f".shard-000000.{name * 8}.part" for name in "ab"]
    for part in parts:
        part.write_bytes(b"half")
    os.utime(parts[0], (0, 0))
    extractor.transform(IMAGES[1:2])
    assert [part.exists() for part in parts] == [False, True]


# ---- damage, and folders that cannot be used ------------------------------------------------


@settings(max_examples=20)
@given(data=st.data())
def test_a_damaged_file_is_removed_and_computed_again(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        first = tiny_extractor(cache=folder).transform(IMAGES)
        (path,) = shards(Path(folder))
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[position:]
        path.write_bytes(content)
        again = tiny_extractor(cache=folder)
        np.testing.assert_allclose(again.transform(IMAGES), first, rtol=1e-5, atol=1e-6)
        assert len(shards(Path(folder))) == 1
        np.testing.assert_array_equal(again.transform(IMAGES), again.transform(IMAGES))


@pytest.mark.parametrize("reading", ["read_records", "read_arrays", "has_valid_digest"])
def test_a_file_that_cannot_be_opened_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: str, counter: Counter
) -> None:
    first = tiny_extractor(cache=tmp_path).transform(IMAGES)
    counter.take()

    def fail(*_: object) -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError as error:
            if reading == "has_valid_digest":
                raise
            raise FileFormatError("damaged or truncated") from error

    with monkeypatch.context() as patch:
        patch.setattr(cached_layer, reading, fail)
        extractor = tiny_extractor(cache=tmp_path)
        np.testing.assert_allclose(extractor.transform(IMAGES), first, rtol=1e-5, atol=1e-6)
    assert counter.take() == len(IMAGES)
    extractor.transform(IMAGES)
    assert counter.take() == 0
    assert len(shards(tmp_path)) >= 1


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_extractor(cache=tmp_path).transform(IMAGES)
    hashed: list[object] = []
    is_valid = cached_layer.has_valid_digest
    monkeypatch.setattr(
        cached_layer, "has_valid_digest", lambda shard: hashed.append(shard) or is_valid(shard)
    )
    extractor = tiny_extractor(cache=tmp_path)
    for _ in range(3):
        extractor.transform(IMAGES)
    assert len(hashed) == 1


@pytest.mark.parametrize("values", ["different", "equal", "zero"])
def test_rows_of_files_that_are_not_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: str
) -> None:
    generator = np.random.default_rng(0)
    # Of 1280 numbers, pages have no whole number of rows.
    rows = np.zeros((600, 1280), np.float32)
    if values != "zero":
        rows[:] = generator.normal(size=1280)
    if values == "different":
        rows += generator.normal(size=(600, 1))
    digests = [str(number).encode().rjust(32) for number in range(600)]
    layer = cached_layer.CachedLayer(FeatureCache(tmp_path), "b" * 64, {})
    for begin in (0, 300):
        part = range(begin, begin + 300)
        layer.add([cached_layer.NewFeatures("", digests[i], rows[i]) for i in part])
    layer.refresh()
    monkeypatch.setattr(cached_layer, "_MAX_LOADED_BYTES", 1)
    layer.find(digests[0])
    layer.find(digests[300])
    loads: list[object] = []
    load = cached_layer.CachedLayer._load
    monkeypatch.setattr(
        cached_layer.CachedLayer, "_load", lambda *given: loads.append(given) or load(*given)
    )
    for index in generator.permutation(300):
        found = layer.find(digests[index])
        assert found is not None
        np.testing.assert_array_equal(found, rows[index])
        assert not found.flags.writeable
    assert loads == []
    shards(tmp_path)[0].unlink()
    shards(tmp_path)[0].unlink()
    assert layer.find(digests[0]) is None


def test_a_file_that_disappears_is_computed_again(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=tmp_path)
    first = extractor.transform(IMAGES)
    counter.take()
    shards(tmp_path)[0].unlink()
    np.testing.assert_allclose(extractor.transform(IMAGES), first, rtol=1e-5, atol=1e-6)
    assert counter.take() == len(IMAGES)


def test_a_folder_that_cannot_be_used_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    extractor = tiny_extractor(cache=tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="the cache of features is not used: ") as caught:
        features = extractor.transform(IMAGES)
    assert len(caught) == 1
    np.testing.assert_array_equal(features, tiny_extractor().transform(IMAGES))


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached_run, "_MAX_IMAGES", 4)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        features = tiny_extractor(cache=tmp_path).transform(IMAGES)
    assert len(caught) == 1
    np.testing.assert_allclose(features, tiny_extractor().transform(IMAGES), rtol=1e-5, atol=1e-6)
    assert [path for path in tmp_path.rglob("*") if "shard" in path.name] == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only_is_read(tmp_path: Path, counter: Counter) -> None:
    tiny_extractor(cache=tmp_path).transform(IMAGES[:6])
    counter.take()
    folders = [shards(tmp_path)[0].parent, tmp_path]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with pytest.warns(UserWarning, match="the cache of features is not used"):
            tiny_extractor(cache=tmp_path).transform(IMAGES)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert counter.take() == 6


def test_folders_that_cannot_be_locked_are_used(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    def fail(*_: object, **__: object) -> None:
        raise NotImplementedError("no locks on this file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    extractor = tiny_extractor(cache=tmp_path)
    np.testing.assert_array_equal(extractor.transform(IMAGES), extractor.transform(IMAGES))
    assert counter.take() == len(IMAGES)


# ---- the size of the cache ------------------------------------------------------------------


def test_what_was_not_used_for_the_longest_time_is_removed(
    tmp_path: Path, counter: Counter
) -> None:
    tiny_extractor(cache=tmp_path).transform(IMAGES[0])
    (first,) = shards(tmp_path)
    size = first.stat().st_size
    tiny_extractor(cache=tmp_path).transform(IMAGES[1])
    (second,) = set(shards(tmp_path)) - {first}
    for age, path in enumerate((first, second)):
        os.utime(path, (time.time() - 1000 + age,) * 2)
    # Used again, so that the first, which was written before, is the newer one.
    tiny_extractor(cache=tmp_path).transform(IMAGES[0])
    limited = FeatureCache(tmp_path, max_bytes=2 * size + size // 2)
    tiny_extractor(cache=limited).transform(IMAGES[2])
    assert first in shards(tmp_path)
    assert second not in shards(tmp_path)
    assert limited.size() <= limited.max_bytes  # type: ignore[operator]
    counter.take()
    tiny_extractor(cache=limited).transform([IMAGES[0], IMAGES[2]])
    assert counter.take() == 0


def test_a_cache_that_is_too_small_for_anything_changes_no_result(tmp_path: Path) -> None:
    extractor = tiny_extractor(cache=FeatureCache(tmp_path, max_bytes=1))
    expected = tiny_extractor().transform(IMAGES)
    for _ in range(2):
        np.testing.assert_allclose(extractor.transform(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert shards(tmp_path) == []


def test_small_files_are_joined(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_layer, "_MAX_SMALL_SHARDS", 4)
    extractor = tiny_extractor(cache=tmp_path)
    rows = np.concatenate([extractor.transform(image) for image in IMAGES])
    assert counter.take() == len(IMAGES)
    assert len(shards(tmp_path)) < 4
    other = tiny_extractor(cache=tmp_path)
    for one in (extractor, other):
        np.testing.assert_array_equal(one.transform(IMAGES), rows)
    assert counter.take() == 0


# ---- the object and the parameter -----------------------------------------------------------


def test_content_is_listed_and_removed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    assert (cache.features(), cache.size(), cache.clear()) == ([], 0, 0)
    tiny_extractor(cache=cache).extract(IMAGES, ["embedding", "conv2"])
    (tmp_path / "notes.txt").write_text("mine")
    conv, embedding = cache.features()
    assert (conv.network, conv.layer, conv.num_images) == ("tiny", "conv2", len(IMAGES))
    assert (embedding.layer, embedding.num_images) == ("embedding", len(IMAGES))
    assert cache.size() == conv.num_bytes + embedding.num_bytes > 0
    assert cache.clear() == conv.num_bytes + embedding.num_bytes
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    tiny_extractor(cache=tmp_path).transform(IMAGES)
    (folder,) = (path.parent for path in shards(tmp_path))
    others = [
        tmp_path / "fits" / "galaxy.fits",
        tmp_path / ("a" * 64) / "my.txt",
        tmp_path / ("a" * 64) / "download.part",
        tmp_path / ("a" * 64) / "turn.lock.d" / "1",
        folder / "notes.txt",
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    (tmp_path / "fits" / f"{'b' * 64}.safetensors").write_bytes(b"fit")
    cache = FeatureCache(tmp_path, max_bytes=1)
    size = cache.size()
    assert cache.clear() == size > 3
    cache.limit_size()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)


def test_a_folder_that_is_not_there_is_an_empty_cache(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "missing")
    assert (cache.features(), cache.size(), cache.clear()) == ([], 0, 0)


@pytest.mark.parametrize("cache", [True, 3, "", {"folder": "x"}])
def test_other_caches_are_an_error(cache: object) -> None:
    with pytest.raises(ParameterError, match="cache is"):
        tiny_extractor(cache=cache).transform(IMAGES[0])


@pytest.mark.parametrize("limit", [0, -1, 1.5, "10GB"])
def test_other_limits_are_an_error(limit: Any) -> None:
    with pytest.raises(ParameterError, match="max_bytes"):
        FeatureCache("x", max_bytes=limit)


def test_a_home_folder_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ParameterError, match="home folder"):
        tiny_extractor(cache="~nobody-of-this-name/cache").transform(IMAGES[0])


def test_a_model_of_a_framework_is_an_error() -> None:
    program, model = tiny_extractor()._load()
    wrapped = dataclasses.replace(model, wrapped=object())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="omit cache"):
        OpenCache().layers("x", program, wrapped, ["embedding"])


def test_pyarrow_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match=r"transferkit\[store\]"):
        tiny_extractor(cache=tmp_path).transform(IMAGES[0])


def test_copies_of_an_extractor_use_the_same_cache(tmp_path: Path, counter: Counter) -> None:
    extractor = tiny_extractor(cache=FeatureCache(tmp_path, max_bytes=10**9))
    extractor.transform(IMAGES)
    counter.take()
    for make in (clone, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        other = make(extractor)
        assert other.cache == extractor.cache
        other.transform(IMAGES)
    assert counter.take() == 0


def test_nothing_is_warned_of_usually(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            tiny_extractor(cache=tmp_path).transform(IMAGES)


def test_a_file_that_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_extractor(cache=tmp_path).transform(IMAGES)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", fail)
    monkeypatch.setattr(os, "rmdir", fail)
    with pytest.raises(OutputError, match="cannot be removed: Permission denied"):
        FeatureCache(tmp_path).clear()
