"""Folders in the order of list_images, and patterns, in memory that does not grow."""

from __future__ import annotations

import gc
import glob
import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.errors import ArgumentTypeError, DatasetError, ParameterError
from transferkit.images import count_images, list_images
from transferkit.images.folders import names_below as names_in
from transferkit.sources import folders as folders_module
from transferkit.sources import open_sources
from transferkit.sources.sorting import SortedNames

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8
).filter(lambda name: name not in {".", ".."})
FILES = st.lists(
    st.tuples(st.lists(NAMES, max_size=2), NAMES, st.sampled_from([".jpg", ".PNG", ".txt", ""])),
    max_size=12,
)
ANY_TEXT = st.text(st.characters(blacklist_characters="\0"), max_size=6)


def make_tree(root, files):
    for below, name, suffix in files:
        folder = Path(root, *below)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (name + suffix)).touch()
        except OSError:  # a file of this name is a folder, or the other way round
            continue


def names_below(sources, root):
    return [Path(path).relative_to(root).as_posix() for path in sources]


@given(names=st.lists(ANY_TEXT), chunk=st.integers(1, 9))
def test_names_are_sorted_as_by_sorted_whatever_the_chunk(names, chunk):
    result = SortedNames(iter(names), chunk=chunk)
    assert list(result) == sorted(set(names))
    assert len(result) == len(set(names))
    # Twice at the same time.
    assert list(zip(result, result, strict=True)) == [(name, name) for name in sorted(set(names))]


def test_a_name_that_is_longer_than_a_block_is_kept():
    names = ["b" * 70_000, "a" * 200_000, "c"]
    assert list(SortedNames(names, chunk=1)) == sorted(names)


@given(files=FILES, chunk=st.integers(1, 5))
def test_a_folder_has_the_order_of_list_images(files, chunk):
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        make_tree(root, files)
        patch.setattr(folders_module, "SortedNames", lambda names: SortedNames(names, chunk=chunk))
        if not list(names_in(Path(root))):
            with pytest.raises(DatasetError, match="no images in this folder"):
                open_sources(root)
            return
        expected = [str(path) for path in list_images(root)]
        sources = open_sources(root)
        assert list(sources) == expected
        assert list(sources) == expected
        assert sources.number == count_images(sources) == len(expected)


def test_the_working_folder_is_a_folder(tmp_path, monkeypatch):
    make_tree(tmp_path, [([], "a", ".jpg"), (["b"], "c", ".jpg")])
    monkeypatch.chdir(tmp_path)
    assert list(open_sources(".")) == [str(path) for path in list_images(".")]
    assert list(open_sources("./b/")) == [str(path) for path in list_images("./b/")]


@given(
    files=FILES,
    pattern=st.sampled_from(
        ["*.jpg", "**/*.jpg", "*/*.PNG", "**/?.jpg", "**/[!a]*.jpg", "*/**/*.PNG", "**/*.txt*"]
    ),
)
def test_a_pattern_matches_what_glob_does(files, pattern):
    with tempfile.TemporaryDirectory() as root:
        make_tree(root, files)
        expected = sorted(set(glob.glob(os.path.join(root, pattern), recursive=True)))
        found = sorted(set(folders_module.matching_paths(os.path.join(root, pattern))))
        assert found == expected


def test_what_matches_a_pattern_is_sorted(tmp_path, monkeypatch):
    make_tree(tmp_path, [([], "b", ".jpg"), (["a"], "z", ".jpg"), (["a"], ".x", ".jpg")])
    make_tree(tmp_path, [(["a"], "1", ".txt"), (["e"], "none", ".txt"), (["a", "1"], "y", ".JPG")])
    sources = open_sources(f"{tmp_path}/**/*.jpg")
    assert names_below(sources, tmp_path) == ["a/z.jpg", "b.jpg"]
    assert sources.number == 2
    # Folders that match are folders; other files, and folders without images, are left out.
    sources = open_sources(f"{tmp_path}/*")
    assert names_below(sources, tmp_path) == ["a/1/y.JPG", "a/z.jpg", "b.jpg"]
    assert sources.number == 3
    monkeypatch.chdir(tmp_path)
    assert list(open_sources("a/*.jpg")) == ["a/z.jpg"]


def test_a_pattern_with_a_suffix_matches_files_of_this_suffix(tmp_path):
    make_tree(tmp_path, [([], "a", ".dat"), ([], "b", ".jpg")])
    assert names_below(open_sources(f"{tmp_path}/*.dat"), tmp_path) == ["a.dat"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    path = tmp_path / "[1].jpg"
    path.touch()
    assert list(open_sources(path)) == [str(path)]


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_to_a_parent_folder_end(tmp_path):
    make_tree(tmp_path, [(["a"], "1", ".jpg")])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert names_below(open_sources(tmp_path), tmp_path) == ["a/1.jpg"]
    assert names_below(open_sources(f"{tmp_path}/**/*.jpg"), tmp_path) == ["a/1.jpg"]


def test_inputs_are_in_the_given_order(tmp_path):
    make_tree(tmp_path, [([], "a", ".jpg"), (["b"], "c", ".jpg"), ([], "d", ".any")])
    given_paths = [tmp_path / "d.any", str(tmp_path / "b"), tmp_path / "a.jpg"]
    sources = open_sources(given_paths)
    assert names_below(sources, tmp_path) == ["d.any", "b/c.jpg", "a.jpg"]
    assert sources.number == 3


def test_an_input_that_does_not_exist_has_close_matches(tmp_path):
    make_tree(tmp_path, [([], "photos", ".jpg"), (["holiday"], "1", ".jpg")])
    with pytest.raises(DatasetError, match=r"no such file or folder; did you mean .*photos\.jpg\?"):
        open_sources(tmp_path / "photo.jpg")
    with pytest.raises(DatasetError, match=r"did you mean .*holiday"):
        open_sources(f"{tmp_path}/holidays/")
    with pytest.raises(DatasetError, match=r"no such file or folder$"):
        open_sources(tmp_path / "x" / "y" / "z.jpg")
    with pytest.raises(DatasetError, match="no images match the pattern"):
        open_sources(f"{tmp_path}/*.png")


def test_other_inputs_are_rejected(tmp_path):
    with pytest.raises(DatasetError, match="no images were given"):
        open_sources([])
    with pytest.raises(DatasetError, match="the path is empty"):
        open_sources("")
    with pytest.raises(DatasetError, match="not a valid path"):
        open_sources("a\0b")
    with pytest.raises(ArgumentTypeError, match="inputs has a int"):
        open_sources([3])
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").touch()
    with pytest.raises(
        DatasetError, match=r"for tar or Parquet files in it, pass .*shards/\*\.tar"
    ):
        open_sources(tmp_path / "shards")
    (tmp_path / "1.jpg").touch()
    with pytest.raises(ParameterError, match="column is 'path', but there is no Parquet file"):
        open_sources(tmp_path / "1.jpg", column="path")


@pytest.mark.parametrize("url", ["http://[broken/1.jpg", "file://[", "s3://[a/*.jpg"])
def test_what_is_no_url_is_an_error(url):
    with pytest.raises(DatasetError, match=r"not a valid URL \(Invalid IPv6 URL\)"):
        open_sources([url])


@pytest.mark.parametrize("inputs", [None, 5])
def test_what_is_no_path_is_an_error(inputs):
    with pytest.raises(ArgumentTypeError, match=f"inputs is {inputs}; expected a path"):
        open_sources(inputs)


def test_temporary_files_are_closed():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = SortedNames(iter("cabab"), chunk=2)
        assert list(names) == ["a", "b", "c"]
        del names
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
