"""Text files of paths: encodings, line ends, what paths are relative to, and hostile files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from transferkit.errors import DatasetError, FileFormatError
from transferkit.images import Preprocessing, stream_batches
from transferkit.sources import open_sources

LINES = st.text(st.characters(blacklist_characters="\0\n\r", blacklist_categories=("Cs",)))


def write(tmp_path, content, name="list.txt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@given(
    lines=st.lists(LINES, min_size=1, max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
@example(lines=["a\x85b\u2028c.jpg", " ", "d.jpg "], encoding="utf-8", end="\n", last=False)
def test_every_line_is_a_path(lines, encoding, end, last):
    expected = [os.path.join("/x", line) for line in lines if line.strip() and "://" not in line]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.txt")
        absolute = [f"/x/{line.lstrip('/')}" if line.strip() else line for line in lines]
        expected = [line for line in absolute if line.strip()]
        path.write_bytes((end.join(absolute) + end * last).encode(encoding))
        if not expected:
            with pytest.raises(DatasetError, match="the list is empty"):
                open_sources(path)
            return
        sources = open_sources(path)
        assert list(sources) == expected
        assert list(sources) == expected
        assert sources.number == len(expected)


def test_relative_paths_are_relative_to_the_folder_of_the_list(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists", b"1.jpg\n../2.jpg\n", "all.lst")
    expected = [os.path.join(tmp_path, "lists", name) for name in ("1.jpg", "../2.jpg")]
    assert list(open_sources(path)) == expected
    monkeypatch.chdir(tmp_path)
    assert list(open_sources("lists/all.lst")) == ["lists/1.jpg", "lists/../2.jpg"]
    (tmp_path / "1.jpg").touch()
    with pytest.raises(DatasetError, match="relative to the folder of the list, lists; move"):
        open_sources("lists/all.lst")


def test_unusual_names_are_kept(tmp_path):
    names = [b"/x/\xe9t\xe9.jpg", b"/x/a\rb.jpg"]
    path = write(tmp_path, b"\n".join(names))
    assert [os.fsencode(name) for name in open_sources(path)] == names


def test_lines_that_are_no_images_are_skipped_and_listed(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "1.png")
    (tmp_path / "folder").mkdir()
    long = b"x" * 200_000
    lines = [b"1.png", b"# a comment", b"folder", long, b"foo://bar/1.jpg", b"a" * 300, b"1.png"]
    lines += [b"http://[broken/1.jpg", b"file://["]
    path = write(tmp_path, b"\n".join(lines) + b"\n" + b"nul\0\n")
    # The NUL is beyond what is examined when the list is opened.
    skipped = []
    sources = open_sources(path)
    assert sources.number == 10
    batches = stream_batches(
        sources, Preprocessing(8), batch_size=12, on_error="skip", skipped=skipped
    )
    (batch,) = batches
    assert batch.indices == [0, 6]
    reasons = [one.reason for one in skipped]
    assert reasons[0] == "no such file"
    assert reasons[1] == "a folder, not a file"
    assert skipped[2].source == f"{path}, line 4"
    assert reasons[2].startswith("longer than 65,536 characters")
    assert reasons[3].startswith("unknown URL scheme 'foo'")
    assert reasons[4].startswith("cannot be opened")
    assert reasons[5:7] == ["not a valid URL (Invalid IPv6 URL)"] * 2
    assert skipped[5].source == "http://[broken/1.jpg"
    assert reasons[7] == "not a valid path"


def test_the_first_line_may_be_no_url(tmp_path):
    skipped, path = [], write(tmp_path, b"file://[\n1.png\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    images = open_sources(path)
    (batch,) = stream_batches(
        images, Preprocessing(8), batch_size=9, on_error="skip", skipped=skipped
    )
    assert batch.indices == [1]
    assert [one.source for one in skipped] == ["file://["]


def test_a_file_that_is_no_list_is_rejected(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(FileFormatError, match="not a text file"):
        open_sources(write(tmp_path, (tmp_path / "1.png").read_bytes()))
    with pytest.raises(FileFormatError, match="not a text file"):
        open_sources(write(tmp_path, "a.jpg\n".encode("utf-16-le")))
    for content in (b"", b"\n \r\n\n"):
        with pytest.raises(DatasetError, match="the list is empty"):
            open_sources(write(tmp_path, content))


def test_a_list_is_not_kept_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "list.txt"
    path.write_text("".join(f"/photos/{number:0100}.jpg\n" for number in range(20_000)))
    tracemalloc.start()
    assert sum(1 for _ in open_sources(path)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 5
