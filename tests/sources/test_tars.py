"""Tar files: order, names, damage, and hostile members."""

from __future__ import annotations

import io
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.images import NamedImage, Preprocessing, Skipped, count_images, stream_batches
from transferkit.sources import open_sources


def png(level=0):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def add(archive, name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    archive.addfile(info, io.BytesIO(content))


def write(path, members, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members:
            add(archive, name, content)
    return path


def read(inputs):
    """Return the level of each image by source, and what was skipped."""
    skipped = []
    levels = {}
    batches = stream_batches(
        open_sources(inputs), Preprocessing(8), batch_size=4, on_error="skip", skipped=skipped
    )
    for batch in batches:
        for source, pixels in zip(batch.sources, batch.pixels, strict=True):
            levels[source] = round(255 * float(pixels.max()))
    return levels, skipped


SHARD = [
    ("./000.png", png(1)),
    ("000.txt", b"a caption"),
    ("b/001.PNG", png(2)),
    ("b/001.json", b"{}"),
    ("a/002.png", png(3)),
    ("a/.hidden.png", png(4)),
    ("__MACOSX/._002.png", b"resource"),
]
LEVELS = {"000.png": 1, "b/001.PNG": 2, "a/002.png": 3}


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("x.tar", "w:xz")]
)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_images_of_a_shard_in_its_order(tmp_path, name, mode, form):
    path = write(tmp_path / name, SHARD, mode, format=form)
    levels, skipped = read(path)
    assert list(levels.items()) == [(f"{path}/{key}", level) for key, level in LEVELS.items()]
    assert skipped == []
    sources = open_sources(path)
    assert count_images(sources) is None
    first = [one.source for one in sources]
    assert [one.source for one in sources] == first


def test_several_shards_by_a_pattern(tmp_path):
    for shard in range(3):
        write(tmp_path / f"{shard}.tar", [(f"{shard}.png", png(shard))])
    levels, _ = read(f"{tmp_path}/*.tar")
    assert list(levels.values()) == [0, 1, 2]


def test_long_and_unusual_names_are_kept(tmp_path):
    names = ["d/" * 60 + "x" * 100 + ".png", "\u00e9t\u00e9.png", "a b.png", "/etc/a.png"]
    path = write(tmp_path / "a.tar", [(name, png(1)) for name in names])
    levels, _ = read(path)
    assert list(levels) == [f"{path}/{name.lstrip('/')}" for name in names]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_images_can_be_pickled(tmp_path, name):
    path = write(tmp_path / name, SHARD, "w:gz" if name.endswith("gz") else "w")
    for image in open_sources(path):
        assert isinstance(image, NamedImage)
        copy = pickle.loads(pickle.dumps(image))
        assert (copy.source, copy.read()) == (image.source, image.read())


@given(data=st.data(), compressed=st.booleans())
def test_the_images_before_the_end_of_a_truncated_file_are_read(data, compressed):
    members = [(f"{number}.png", png(number)) for number in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.tar"), members, "w:gz" if compressed else "w")
        with tarfile.open(path) as archive:
            ends = [info.offset_data + info.size for info in archive]
        content = path.read_bytes()
        # The end of the data, rather than that of the padding.
        limit = len(content) - 1 if compressed else -(-ends[-1] // 512) * 512
        length = data.draw(st.integers(0, limit))
        path.write_bytes(content[:length])
        levels, skipped = read(path)
        number = len(levels)
        assert list(levels.values()) == list(range(number))
        if not compressed:
            assert number == sum(end <= length for end in ends)
        if number < 6:
            (damage,) = skipped
            assert damage.source == str(path)
            assert damage.reason.startswith(f"damaged or truncated after {number} images: ")


@given(data=st.data())
def test_damage_of_a_compressed_file_is_reported(data):
    """Of an uncompressed part, only the checksum at the end shows it."""
    members = [(f"{number}.png", png(number)) for number in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.tar.gz"), members, "w:gz", compresslevel=0)
        content = bytearray(path.read_bytes())
        with tarfile.open(path) as archive:
            infos = list(archive)
        # Of one piece up to there: a header of ten bytes, with the name, and one of five.
        begin = content.index(png(0)) - infos[0].offset_data
        info = data.draw(st.sampled_from(infos))
        position = begin + info.offset_data + data.draw(st.integers(0, info.size - 1))
        content[position] ^= 255
        path.write_bytes(content)
        _, skipped = read(path)
        assert skipped[-1].source == str(path)
        assert "after 6 images: CRC check failed" in skipped[-1].reason


def test_a_damaged_header_is_reported(tmp_path):
    """The module tarfile ends there as if the archive were complete."""
    path = write(tmp_path / "a.tar", [(f"{number}.png", png(number)) for number in range(3)])
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[offset + 10] ^= 255
    path.write_bytes(content)
    levels, skipped = read(path)
    assert list(levels.values()) == [0]
    (damage,) = skipped
    assert damage.reason.startswith("damaged or truncated after 1 images: ")


def test_members_that_are_no_files_are_listed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "0.png", png(5))
        add(archive, "1.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "2.png", type=tarfile.LNKTYPE, linkname="0.png")
        add(archive, "3.png", type=tarfile.CHRTYPE)
        add(archive, "folder.png/", type=tarfile.DIRTYPE)
        add(archive, "link", type=tarfile.SYMTYPE, linkname="0.png")
        add(archive, "4.png", b"<html>")
        add(archive, "5.png", png(6))
    levels, skipped = read(path)
    assert list(levels.values()) == [5, 6]
    assert [one.source for one in skipped] == [f"{path}/{number}.png" for number in (1, 2, 3, 4)]
    assert {one.reason for one in skipped[:3]} == {"a link or device in a tar file, not an image"}
    assert skipped[3].reason.startswith("not an image")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_huge_member_is_not_read(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("transferkit.sources.tars.MAX_CONTENT", 3000)
    members = [("0.png", png(1)), ("1.png", b"\0" * 4000), ("2.png", png(2))]
    path = write(tmp_path / "a.tar", members, mode)
    levels, skipped = read(path)
    assert list(levels.values()) == [1, 2]
    assert [(one.source, one.reason[:8]) for one in skipped] == [(f"{path}/1.png", "too long")]


def test_a_stated_size_beyond_the_end_reserves_no_memory(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("0.png")
    info.size = 1 << 29
    path.write_bytes(info.tobuf() + png() + b"\0" * 2000)
    _, skipped = read(path)
    assert skipped == [
        Skipped(str(path), "damaged or truncated after 0 images: it ends in '0.png'")
    ]


def test_attributes_of_extreme_length_are_not_read(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "0.png", png(1))
        add(archive, "1.png", png(2), pax_headers={"comment": "x" * (2 << 20)})
    levels, skipped = read(path)
    assert list(levels.values()) == [1]
    assert "bytes of attributes" in skipped[0].reason


@pytest.mark.parametrize("content", [b"", b"no archive" * 200, png()])
def test_a_file_that_is_no_archive_is_listed(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    levels, skipped = read(path)
    assert levels == {}
    (damage,) = skipped
    assert damage.reason.startswith("damaged or truncated after 0 images: ")


def test_an_archive_without_images_is_listed(tmp_path):
    path = write(tmp_path / "a.tar", [("a.txt", b"text")])
    _, (skipped,) = read(path)
    assert skipped.source == str(path)
    assert skipped.reason.startswith("no images in this archive; expected files that end in .avif")


def test_members_are_not_kept_in_memory(tmp_path):
    import tracemalloc

    path = write(tmp_path / "a.tar", ((f"{number}.png", b"") for number in range(5000)))
    tracemalloc.start()
    assert sum(1 for _ in open_sources(path)) == 5000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000
