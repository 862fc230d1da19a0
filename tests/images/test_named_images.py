"""Images that have a name, and whose content is read in threads: order, names, and errors."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images import (
    ImageTypeError,
    NamedImage,
    Preprocessing,
    count_images,
    read_image,
    stream_batches,
)
from transferkit.images.stream import image_sequence

SMALL = Preprocessing(8)


def png(level):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@dataclass
class Named(NamedImage):
    source: str
    content: object = field(default_factory=lambda: png(7))
    error: Exception | None = None
    thread: str = ""

    def read(self):
        self.thread = threading.current_thread().name
        if self.error is not None:
            raise self.error
        return self.content


def test_named_images_are_mixed_with_others_in_order(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(png(1))
    images = [Named("b", png(0)), path, Named("a", png(2)), png(3), Named("c", png(4))]
    for given in (images, iter(images)):
        batches = list(stream_batches(given, SMALL, batch_size=2))
        assert [source for batch in batches for source in batch.sources] == [
            *("b", str(path), "a", "images[3]", "c")
        ]
        levels = [round(255 * float(row.max())) for batch in batches for row in batch.pixels]
        assert levels == [0, 1, 2, 3, 4]
    assert images[0].thread.startswith("transferkit-images")


def test_one_named_image_is_an_image():
    (batch,) = stream_batches(Named("a"), SMALL, batch_size=2)
    assert batch.sources == ["a"]
    assert count_images(Named("a")) == 1
    assert read_image(Named("a")).size == (8, 8)
    assert [one.source for one in image_sequence(iter([Named("a"), Named("b")]))] == ["a", "b"]


def test_many_are_loaded_at_the_same_time():
    """As many as the batches read ahead, though there are fewer cores: each waits for all."""
    barrier = threading.Barrier(16, timeout=20)

    @dataclass
    class Waiting(NamedImage):
        source: str

        def read(self):
            barrier.wait()
            return png(5)

    images = [Waiting(str(index)) for index in range(16)]
    (batch,) = stream_batches(images, SMALL, batch_size=16)
    assert batch.sources == [str(index) for index in range(16)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageError("x", "the server returned 404"), "the server returned 404"),
        (TimeoutError("timed out"), "cannot be read: timed out"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
    ],
)
def test_one_that_cannot_be_read_is_skipped_under_its_name(error, reason):
    skipped = []
    images = [Named("a"), Named("x", error=error), Named("b")]
    (batch,) = stream_batches(images, SMALL, batch_size=3, on_error="skip", skipped=skipped)
    assert batch.sources == ["a", "b"]
    assert batch.indices == [0, 2]
    assert [(one.source, one.reason) for one in skipped] == [("x", reason)]
    with pytest.raises(ImageError, match=f"x: {reason}"):
        list(stream_batches(images, SMALL, batch_size=3))
    with pytest.raises(ImageError, match=reason):
        read_image(images[1])


def test_content_that_is_no_image_has_the_name():
    with pytest.raises(ImageError, match="a: not an image"):
        list(stream_batches([Named("a", b"<html>")], SMALL, batch_size=1))
    with pytest.raises(ImageTypeError, match=r"a: read\(\) of the Named returned str, not bytes"):
        list(stream_batches([Named("a", "text")], SMALL, batch_size=1))


def test_errors_of_other_types_are_those_of_the_image():
    images = [Named("a", error=ZeroDivisionError("a bug"))]
    with pytest.raises(ImageError, match=r"a: .*a bug"):
        list(stream_batches(images, SMALL, batch_size=1))


def test_a_stream_that_is_closed_early_leaves_no_thread():
    before = threading.active_count()
    stream = stream_batches((Named(str(n)) for n in range(100)), SMALL, batch_size=2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_a_number_that_is_stated_is_the_count():
    class Stated:
        number: int | None = 3

        def __iter__(self):
            return iter([Named("a")] * 3)

        def __length_hint__(self):
            return NotImplemented if self.number is None else self.number

    stated = Stated()
    assert count_images(stated) == 3
    stated.number = None
    assert count_images(stated) is None
