"""Parquet files: the column of the images, their values, damage, and memory."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from transferkit.errors import DatasetError, FileFormatError, UnknownNameError, UnsupportedError
from transferkit.images import Preprocessing, count_images, stream_batches
from transferkit.sources import open_sources
from transferkit.sources.parquet import ParquetTable

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def png(level=0):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(tmp_path, columns, **options):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(columns), path, **options)
    return path


def read(sources):
    skipped = []
    levels = {}
    batches = stream_batches(
        sources, Preprocessing(8), batch_size=4, on_error="skip", skipped=skipped
    )
    for batch in batches:
        for source, pixels in zip(batch.sources, batch.pixels, strict=True):
            levels[source] = round(255 * float(pixels.max()))
    return levels, skipped


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_paths_are_relative_to_the_folder_of_the_table(tmp_path, kind):
    (tmp_path / "1.png").write_bytes(png(1))
    names = pa.array(["1.png", str(tmp_path / "1.png"), "none.png", None, ""]).cast(kind)
    path = write(tmp_path, {"path": names, "label": [1, 2, 3, 4, 5]})
    sources = open_sources(path)
    assert count_images(sources) == sources.number == 5
    levels, skipped = read(sources)
    assert levels == {str(tmp_path / "1.png"): 1}
    assert [(one.source, one.reason) for one in skipped] == [
        (str(tmp_path / "none.png"), "no such file"),
        (f"{path}[3]", "no value in the column 'path'"),
        (f"{path}[4]", "no value in the column 'path'"),
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("row_group_size", [3, 100])
def test_the_content_of_images(tmp_path, kind, row_group_size):
    """Of more rows than are in memory at a time."""
    contents = [png(level) for level in range(40)]
    path = write(tmp_path, {"image": pa.array(contents, kind)}, row_group_size=row_group_size)
    sources = open_sources(path)
    levels, skipped = read(sources)
    assert levels == {f"{path}[{row}]": row for row in range(40)}
    assert not skipped
    (image, *_) = sources
    assert pickle.loads(pickle.dumps(image)).read() == contents[0]


def test_images_of_hugging_face_datasets(tmp_path):
    (tmp_path / "2.png").write_bytes(png(2))
    rows = [
        {"bytes": png(1), "path": "1.png"},
        {"bytes": None, "path": "2.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"<html>", "path": "x.png"},
    ]
    path = write(tmp_path, {"image": rows, "label": [0, 1, 2, 3, 4]})
    levels, skipped = read(open_sources(path))
    assert levels == {f"{path}[0]": 1, str(tmp_path / "2.png"): 2}
    assert [one.source for one in skipped] == [f"{path}[{row}]" for row in (2, 3, 4)]
    assert skipped[1].reason == "no value in the column 'image'"


STRUCTURE = pa.array([{"bytes": b"1", "path": "1"}])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": [1], "photo": ["1.jpg"]}, "photo"),
        ({"URL": ["http://x/1.jpg"], "caption": ["a cat"]}, "URL"),
        ({"Image Path": ["1.jpg"], "caption": ["a cat"]}, "Image Path"),
        ({"image": STRUCTURE, "file_name": ["1.jpg"]}, "image"),
        ({"jpg": [b"1"], "caption": ["a cat"]}, "jpg"),
        ({"picture": STRUCTURE, "caption": ["a cat"], "split": ["train"]}, "picture"),
        ({"path": ["1.jpg"], "embedding": [b"1"]}, "path"),
    ],
)
def test_the_column_is_chosen_if_it_is_unambiguous(tmp_path, columns, expected):
    path = write(tmp_path, columns)
    chosen = next(iter(open_sources(path)))
    named = next(iter(open_sources(path, column=expected)))
    assert getattr(chosen, "source", chosen) == getattr(named, "source", named)
    assert type(chosen) is type(named)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"a": ["1.jpg"], "b": ["1.jpg"]},
            r"several columns may have the images: 'a', 'b'; give one as column; .* 'a', 'b'",
        ),
        ({"path": ["1"], "url": ["1"]}, "several columns may have the images: 'path', 'url'"),
        ({"a": [b"1"], "b": [b"1"], "c": ["1"]}, "several columns"),
        ({"label": [1], "x": [2.0]}, "no column has paths.*; the columns are 'label', 'x'"),
    ],
)
def test_an_ambiguous_column_is_an_error(tmp_path, columns, message):
    with pytest.raises(DatasetError, match=message):
        open_sources(write(tmp_path, columns))


def test_a_column_that_is_named(tmp_path):
    path = write(tmp_path, {"photo": ["1.jpg"], "thumbnail": ["2.jpg"], "label": [3]})
    assert list(open_sources(path, column="thumbnail")) == [str(tmp_path / "2.jpg")]
    with pytest.raises(
        UnknownNameError, match=r"a\.parquet has no column 'foto'; did you mean 'pho"
    ):
        open_sources(path, column="foto")
    with pytest.raises(DatasetError, match="column 'label' has values of type 'int64'; expected"):
        open_sources(path, column="label")


def test_files_that_are_no_table_are_rejected(tmp_path):
    path = tmp_path / "a.parquet"
    for content in (b"", b"text" * 100, png()):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="not a valid Parquet file"):
            open_sources(path)
    complete = write(tmp_path, {"path": ["1.jpg"] * 100}).read_bytes()
    path.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(FileFormatError, match="not a valid Parquet file"):
        open_sources(path)
    with pytest.raises(DatasetError, match="the table has no rows"):
        open_sources(write(tmp_path, {"path": pa.array([], pa.string())}))


def test_a_damaged_place_is_one_entry(tmp_path):
    contents = [png(level) for level in range(40)]
    path = write(tmp_path, {"image": contents}, row_group_size=10, compression="gzip")
    damaged = bytearray(path.read_bytes())
    chunk = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    levels, skipped = read(open_sources(path))
    assert list(levels.values()) == list(range(len(levels)))
    assert 0 < len(levels) <= 20
    assert len(skipped) == 1
    assert skipped[0].reason.startswith("damaged after ")


@pytest.mark.parametrize("is_local", [True, False])
def test_a_large_row_group_is_not_kept_in_memory(tmp_path, is_local):
    """The images of one row group are read in pieces."""
    generator = np.random.default_rng(0)
    contents = [generator.bytes(100_000) for _ in range(300)]
    # In pages of one image; a page is the smallest piece that can be read.
    options = {"row_group_size": 300, "compression": None, "write_batch_size": 1}
    path = write(tmp_path, {"image": contents}, **options)
    table = ParquetTable("a", (lambda: str(path)) if is_local else (lambda: path.open("rb")), None)
    del contents
    before = pa.total_allocated_bytes()
    peak = 0
    # What a file object returns is Python's.
    tracemalloc.start()
    for image in table:
        peak = max(peak, pa.total_allocated_bytes() - before)
        assert len(image.read()) == 100_000
    _, peak_of_python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + peak_of_python < 15_000_000


def test_without_pyarrow_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path, {"path": ["1.jpg"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[store\]"'):
        open_sources(path)


def test_importing_the_package_imports_no_optional_library():
    code = (
        "import sys, transferkit.sources; "
        "print([n for n in ('pyarrow', 'fsspec', 'requests') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
