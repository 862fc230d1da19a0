"""Streaming of batches: order, memory, errors, and cleanup of threads."""

from __future__ import annotations

import gc
import io
import os
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transferkit.errors import DatasetError, ImageError, ShapeError
from transferkit.images import (
    ImageTypeError,
    Preprocessing,
    Skipped,
    count_images,
    list_images,
    stream_batches,
)
from transferkit.images.reading import read_image_of_call
from transferkit.images.stream import image_sequence

SMALL = Preprocessing(8)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def number(index, side=8):
    """Return an image whose pixels are its index."""
    return np.full((side, side, 3), index % 256, np.uint8)


def numbers_of(batches):
    return [round(float(row[0, 0, 0]) * 255) for batch in batches for row in batch.pixels]


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("transferkit-images")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert threads() == []


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        Image.fromarray(number(index)).save(tmp_path / f"{index}.png")
    return tmp_path


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), batch_size=st.integers(1, 12), bad=st.sets(st.integers(0, 29)))
def test_rows_are_in_input_order_with_their_sources(count, batch_size, bad):
    images = [None if index in bad else number(index) for index in range(count)]
    skipped = []
    batches = list(
        stream_batches(images, SMALL, batch_size=batch_size, on_error="skip", skipped=skipped)
    )
    good = [index for index in range(count) if index not in bad]
    assert numbers_of(batches) == good
    assert [i for batch in batches for i in batch.indices] == good
    assert [s for batch in batches for s in batch.sources] == [f"images[{i}]" for i in good]
    assert [skip.source for skip in skipped] == [f"images[{i}]" for i in sorted(bad) if i < count]
    sizes = [len(batch.pixels) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert all(batch.pixels.dtype == np.float32 for batch in batches)


def test_the_order_does_not_depend_on_threads(monkeypatch):
    def slow(image, source, depth):
        time.sleep(random.Random(source).random() / 50)
        return read_image_of_call(image, source, depth)

    monkeypatch.setattr("transferkit.images.stream.read_image_of_call", slow)
    images = (number(index) for index in range(60))
    assert numbers_of(stream_batches(images, SMALL, batch_size=7)) == list(range(60))


def test_bytes_are_converted_by_exact_division():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (batch,) = stream_batches(ramp, Preprocessing(None), batch_size=1)
    # Like torchvision's ToTensor: float32(byte) / float32(255).
    expected = ramp.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(batch.pixels[0, :, :, 1], expected)


def test_floats_and_bytes_can_be_mixed():
    images = [number(51), (number(102) / 255).astype(np.float32)]
    (batch,) = stream_batches(images, SMALL, batch_size=2)
    np.testing.assert_allclose(batch.pixels[:, 0, 0, 0], [0.2, 0.4], rtol=1e-6)


def test_all_types_of_images_are_accepted(folder):
    paths = [str(folder / f"{index}.png") for index in range(5)]
    opened = [Image.open(path) for path in paths]
    nhwc = np.stack([number(index) for index in range(5)])
    for images in (
        folder,
        str(folder),
        paths,
        tuple(map(Path, paths)),
        np.array(paths),
        np.array(paths, dtype=object),
        opened,
        nhwc,
        nhwc[..., :1],
        nhwc[..., 0],
        list(nhwc),
        [paths[0], opened[1], nhwc[2], Path(paths[3]), (nhwc[4] / 255)],
    ):
        assert count_images(images) == 5
        assert numbers_of(stream_batches(images, SMALL, batch_size=2)) == [0, 1, 2, 3, 4]
    for image in opened:
        image.close()
    for one in (paths[1], Path(paths[1]), Image.fromarray(number(1)), nhwc[1], nhwc[1, ..., 0]):
        assert count_images(one) == 1
        assert numbers_of(stream_batches(one, SMALL, batch_size=2)) == [1]
    for lazily in (iter(paths), map(Path, paths), (row for row in nhwc)):
        assert count_images(lazily) is None
        assert numbers_of(stream_batches(lazily, SMALL, batch_size=2)) == [0, 1, 2, 3, 4]
    (batch,) = stream_batches(folder, SMALL, batch_size=5)
    assert batch.sources == paths


@pytest.mark.parametrize("images", [None, 7, {"a": 1}, {1, 2}])
def test_other_types_are_rejected(images):
    with pytest.raises(ImageTypeError, match=r"images: unsupported type .*expected a path"):
        count_images(images)
    with pytest.raises(ImageTypeError, match="images: unsupported type "):
        stream_batches(images, SMALL, batch_size=1)


def test_a_data_frame_with_one_column_is_its_column(folder):
    pandas = pytest.importorskip("pandas")
    paths = [str(folder / f"{index}.png") for index in range(5)]
    opened = [Image.open(path) for path in paths]
    for images in (paths, list(map(Path, paths)), opened, [number(index) for index in range(5)]):
        # An index of its own, and a column without a name.
        for frame in (pandas.DataFrame({"path": images}, index=list("edcba")),
                      pandas.DataFrame(pandas.Series(images))):  # fmt: skip
            assert count_images(frame) == 5
            assert numbers_of(stream_batches(frame, SMALL, batch_size=2)) == [0, 1, 2, 3, 4]
    (batch,) = stream_batches(pandas.DataFrame({"path": paths}), SMALL, batch_size=5)
    assert batch.sources == paths
    for image in opened:
        image.close()
    missing = pandas.DataFrame({"path": [paths[0], None]})
    with pytest.raises(ImageTypeError, match=r"images\[1\]: unsupported type (NoneType|float)"):
        list(stream_batches(missing, SMALL, batch_size=2))


@pytest.mark.parametrize("columns", [["path", "label"], []])
def test_other_data_frames_are_rejected(columns):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({column: ["a.png"] * 3 for column in columns}, index=range(3))
    message = rf"images: a DataFrame of shape 3 x {len(columns)}; .*one column.*df\[\"path\"\]"
    with pytest.raises(ImageTypeError, match=message):
        count_images(frame)
    with pytest.raises(ImageTypeError, match=message):
        stream_batches(frame, SMALL, batch_size=1)


def test_an_array_with_channels_in_another_axis_is_rejected():
    array = np.zeros((5, 4, 4, 7), np.uint8)
    message = r"expected number x height x width x channels; if .*array\.transpose\(0, 2, 3, 1\)"
    with pytest.raises(ShapeError, match=message):
        stream_batches(array, SMALL, batch_size=1)


def png(index):
    file = io.BytesIO()
    Image.fromarray(number(index)).save(file, "PNG")
    return file.getvalue()


def test_the_content_of_a_file_is_one_image(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7))
    with open(tmp_path / "a.png", "rb") as file:
        for one in (png(7), bytearray(png(7)), memoryview(png(7)), io.BytesIO(png(7)), file):
            assert count_images(one) == 1
            (batch,) = stream_batches(one, SMALL, batch_size=2)
            assert batch.sources == ["images[0]"]
            assert numbers_of([batch]) == [7]
    with pytest.raises(ImageError, match=r"images\[0\]: not an image in a supported format"):
        list(stream_batches(b"a.jpg", SMALL, batch_size=2))


def test_files_in_sequences_and_generators_are_read_in_order(tmp_path):
    for index in range(9):
        (tmp_path / f"{index}.png").write_bytes(png(index))

    def opened():
        for index in range(9):
            with open(tmp_path / f"{index}.png", "rb") as file:
                yield file

    def reusing():
        memory = bytearray(1000)
        for index in range(9):
            memory[:] = png(index).ljust(1000, b"\0")
            yield memory

    for images in (
        [png(index) for index in range(9)],
        np.array([png(index) for index in range(9)], dtype=object),
        [io.BytesIO(png(index)) for index in range(9)],
        opened(),
        reusing(),
        (memoryview(png(index)) for index in range(9)),
    ):
        assert numbers_of(stream_batches(images, SMALL, batch_size=2)) == list(range(9))
    twice = io.BytesIO(png(3))
    assert numbers_of(stream_batches([twice, twice], SMALL, batch_size=1)) == [3, 3]
    mixed = [tmp_path / "0.png", png(1), b"x", io.BytesIO(png(3)), open]
    skipped = []
    batches = list(stream_batches(mixed, SMALL, batch_size=9, on_error="skip", skipped=skipped))
    assert numbers_of(batches) == [0, 1, 3]
    assert [skip.source for skip in skipped] == ["images[2]", "images[4]"]


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3, 4, 5)])
def test_arrays_of_other_shapes_are_rejected(shape):
    with pytest.raises(ShapeError, match="images is an array"):
        stream_batches(np.zeros(shape, np.uint8), SMALL, batch_size=1)


def test_no_images_is_an_error(tmp_path):
    for images in ([], np.zeros((0, 8, 8, 3), np.uint8), np.array([], dtype=object)):
        with pytest.raises(DatasetError, match=r"^no images were given$"):
            stream_batches(images, SMALL, batch_size=1)
    with pytest.raises(DatasetError, match=r"^no images were given$"):
        next(stream_batches(iter([]), SMALL, batch_size=1))
    with pytest.raises(DatasetError, match="no such file or folder"):
        stream_batches(tmp_path / "none", SMALL, batch_size=1)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None])
def test_invalid_settings_are_rejected(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        stream_batches([number(0)], SMALL, batch_size=batch_size)
    with pytest.raises(ValueError, match="'ignore'; expected 'raise' or 'skip'"):
        stream_batches([number(0)], SMALL, batch_size=1, on_error="ignore")


def test_the_error_of_the_first_bad_image_in_order_is_raised(folder, monkeypatch):
    def slow_at_first(image, source, depth):
        time.sleep(0.1 if source.endswith("1.png") else 0)
        return read_image_of_call(image, source, depth)

    monkeypatch.setattr("transferkit.images.stream.read_image_of_call", slow_at_first)
    (folder / "1.png").write_bytes(b"")
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1\.png: the file is empty"):
        list(stream_batches(folder, SMALL, batch_size=5))
    skipped = []
    assert numbers_of(
        stream_batches(folder, SMALL, batch_size=2, on_error="skip", skipped=skipped)
    ) == [0, 3, 4]
    assert skipped == [
        Skipped(str(folder / "1.png"), "the file is empty"),
        Skipped(str(folder / "2.png"), "the file is empty"),
    ]


def test_nothing_is_yielded_if_all_images_are_bad():
    assert list(stream_batches([None, 7], SMALL, batch_size=2, on_error="skip")) == []


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_errors_of_the_generator_are_raised(on_error):
    def failing():
        yield from (number(index) for index in range(5))
        raise ImageError("theirs", "broke")

    stream = stream_batches(failing(), SMALL, batch_size=2, on_error=on_error)
    assert numbers_of([next(stream), next(stream)]) == [0, 1, 2, 3]
    with pytest.raises(ImageError, match="theirs: broke"):
        next(stream)


def test_the_error_of_an_earlier_image_comes_before_that_of_the_generator():
    def failing():
        yield number(0)
        yield None
        raise RuntimeError

    with pytest.raises(ImageTypeError, match=r"images\[1\]"):
        list(stream_batches(failing(), SMALL, batch_size=4))


def test_images_that_are_not_resized_must_have_the_same_size():
    images = [np.zeros((8, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]
    with pytest.raises(ShapeError, match=r"images\[0\] has 9 x 8 pixels and images\[1\] 8 x 9"):
        list(stream_batches(images, Preprocessing(None), batch_size=1))
    (batch,) = stream_batches(images[:1], Preprocessing(None), batch_size=3)
    assert batch.pixels.shape == (1, 8, 9, 3)


def test_images_with_channels_first_in_a_sequence_are_rejected():
    images = [number(0), np.zeros((3, 224, 224), np.uint8)]
    for given_images in (images, iter(images)):
        with pytest.raises(ImageError, match=r"images\[1\]: .*pass array\.transpose\(1, 2, 0\)"):
            list(stream_batches(given_images, SMALL, batch_size=2))


@settings(max_examples=60, deadline=None)
@given(sides=st.lists(st.integers(1, 5), min_size=1, max_size=40), batch_size=st.integers(1, 6))
def test_images_of_equal_size_are_grouped(sides, batch_size):
    images = [None if side == 5 else number(i, side) for i, side in enumerate(sides)]
    batches = list(
        stream_batches(
            images, Preprocessing(None), batch_size=batch_size, on_error="skip", group_sizes=True
        )
    )
    seen = []
    for batch in batches:
        assert 1 <= len(batch.indices) <= batch_size
        assert batch.indices == sorted(batch.indices)
        assert batch.sources == [f"images[{index}]" for index in batch.indices]
        for index, pixels in zip(batch.indices, batch.pixels, strict=True):
            np.testing.assert_array_equal(pixels, images[index] / np.float32(255))
        seen += batch.indices
    assert sorted(seen) == [index for index, image in enumerate(images) if image is not None]
    if len(set(sides) - {5}) == 1:
        assert seen == sorted(seen)


def test_few_images_wait_for_others_of_their_size():
    consumed = 0

    def growing():
        nonlocal consumed
        for side in range(1, 200):
            consumed += 1
            yield number(0, side)

    stream = stream_batches(growing(), Preprocessing(None), batch_size=4, group_sizes=True)
    for count, batch in enumerate(stream, start=1):
        assert batch.indices == [count - 1]
        assert consumed <= count + 2 * 4 + max(2 * 4, CORES)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_at_most_two_batches_are_read_ahead_and_few_images_kept(batch_size):
    alive = weakref.WeakSet()
    consumed = 0

    class Counted(Image.Image):
        __hash__ = object.__hash__

    def endless():
        nonlocal consumed
        while True:
            image = Counted()
            image.im, image._size, image._mode = Image.new("RGB", (8, 8)).im, (8, 8), "RGB"
            alive.add(image)
            consumed += 1
            yield image
            del image

    ahead = max(2 * batch_size, CORES)
    stream = stream_batches(endless(), SMALL, batch_size=batch_size)
    assert consumed == 0
    for num_batches, _ in zip(range(1, 20), stream, strict=False):
        assert consumed <= num_batches * batch_size + ahead
        assert len(alive) <= ahead
    stream.close()


def test_a_yielded_batch_is_not_kept():
    stream = stream_batches((number(i) for i in range(100)), SMALL, batch_size=4)
    batch = next(stream)
    pixels = weakref.ref(batch.pixels)
    del batch
    assert pixels() is None
    stream.close()


def test_a_generator_can_reuse_its_memory():
    def reusing():
        frame = number(0)
        for index in range(20):
            frame[...] = index
            yield frame

    assert numbers_of(stream_batches(reusing(), SMALL, batch_size=3)) == list(range(20))


def consume_and_fail(stream):
    for _ in stream:
        raise ZeroDivisionError


@pytest.mark.parametrize("how", ["break", "close", "raise", "interrupt"])
def test_threads_end_when_the_stream_ends_early(how, monkeypatch):
    seen = []

    def slow(image, source, depth):
        seen.append(source)
        time.sleep(0.005)
        return read_image_of_call(image, source, depth)

    monkeypatch.setattr("transferkit.images.stream.read_image_of_call", slow)
    stream = stream_batches([number(0)] * 10_000, SMALL, batch_size=50)
    if how == "interrupt":

        def interrupted():
            yield from [number(0)] * 90
            raise KeyboardInterrupt

        stream = stream_batches(interrupted(), SMALL, batch_size=50)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    elif how == "raise":
        with pytest.raises(ZeroDivisionError):
            consume_and_fail(stream)
        stream.close()
    elif how == "close":
        next(stream)
        stream.close()
    else:
        for _ in stream:
            break
        del stream
    gc.collect()
    assert threads() == []
    # Of the hundred images read ahead only those already started are finished.
    assert len(seen) < 80 + CORES


def test_ten_threads_get_the_same_batches_as_one(folder):
    paths = sorted(folder.glob("*.png")) * 10
    (expected,) = stream_batches(paths, SMALL, batch_size=50)
    with ThreadPoolExecutor(10) as executor:
        runs = [
            executor.submit(lambda: list(stream_batches(paths, SMALL, batch_size=8)))
            for _ in range(10)
        ]
        for run in runs:
            got = np.concatenate([batch.pixels for batch in run.result()])
            np.testing.assert_array_equal(got, expected.pixels)


def test_errors_of_other_types_are_not_skipped(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("transferkit.images.stream.read_image_of_call", broken)
    with pytest.raises(ZeroDivisionError):
        list(stream_batches([number(0)], SMALL, batch_size=1, on_error="skip"))


def test_12_bits_in_16_are_warned_of_once_per_call():
    dark = [Image.fromarray(np.full((8, 8), 100 * (i + 1), np.uint16)) for i in range(9)]
    for images in (dark, (image for image in dark)):
        with pytest.warns(UserWarning, match="no 16-bit image has a value above [2-9]00") as seen:
            list(stream_batches(images, SMALL, batch_size=2))
        assert [warning.filename for warning in seen] == [__file__]
        assert "bit_depth" in str(seen[0].message)


@pytest.mark.filterwarnings("error")
def test_the_bit_depth_is_applied_without_a_warning():
    image = Image.fromarray(np.array([[0, 1000, 4095]], np.uint16))
    (batch,) = stream_batches([image], Preprocessing(None, bit_depth=12), batch_size=2)
    np.testing.assert_allclose(
        batch.pixels[0, 0, :, 0], np.array([0, 62, 255], np.float32) / 255, rtol=1e-6
    )
    (batch,) = stream_batches([image], Preprocessing(None, bit_depth=16), batch_size=2)
    assert batch.pixels.max() < 0.07
    # Images that use all bits, and black ones.
    bright = Image.fromarray(np.full((8, 8), 60_000, np.uint16))
    black = Image.fromarray(np.zeros((8, 8), np.uint16))
    gray = Image.new("L", (8, 8), 3)
    list(stream_batches([black, gray, black], SMALL, batch_size=1))
    list(stream_batches([bright, image, image], SMALL, batch_size=1))
    with pytest.raises(ImageError, match=r"images\[0\]: integers from 60000 .*bit_depth=12"):
        list(stream_batches([bright], Preprocessing(8, bit_depth=12), batch_size=1))


def test_a_sequence_of_images_can_be_read_twice_in_any_order(folder):
    """Sequences of images that could be read once, and of those that can be read again."""

    def video():
        frame = np.empty((8, 8, 3), np.uint8)
        for index in range(4):
            frame[...] = number(index)
            yield frame

    files = [io.BytesIO(png(index)) for index in range(4)]
    arrays = np.stack([number(index) for index in range(4)])
    for images in (video(), files, iter(list_images(folder)[:4]), arrays):
        sequence = image_sequence(images)
        assert count_images(sequence) == 4
        for order in ([3, 0, 0, 2], np.array([1, 1, 3])):
            batches = list(stream_batches(sequence, SMALL, batch_size=3, order=order))
            assert numbers_of(batches) == list(order)
            assert [index for batch in batches for index in batch.indices] == list(order)


def test_an_order_without_positions_is_an_empty_stream():
    with pytest.raises(DatasetError, match="no images were given"):
        list(stream_batches([number(0)], SMALL, batch_size=1, order=[]))


def test_a_file_in_a_sequence_that_cannot_be_read_is_reported_when_it_is_read():
    closed = io.BytesIO(png(0))
    closed.close()
    sequence = image_sequence([png(1), closed])
    skipped = []
    (batch,) = stream_batches(
        sequence, SMALL, batch_size=2, order=[1, 0], on_error="skip", skipped=skipped
    )
    assert batch.indices == [0]
    assert [one.source for one in skipped] == ["images[1]"]
