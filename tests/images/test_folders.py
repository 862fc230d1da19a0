"""Listing of images in folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transferkit.errors import DatasetError
from transferkit.images import list_images, list_labeled_images


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_listed_recursively_in_posix_order_without_hidden_files(tmp_path):
    make(tmp_path, "b.JPG", "a/z.png", "a-b/1.webp", "a.gif", ".hidden.png", ".git/x.png")
    make(tmp_path, "B.tiff", "notes.txt", "a/deep/er/y.Jpeg", "c.bmp", "no_suffix")
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    expected = ["B.tiff", "a-b/1.webp", "a.gif", "a/deep/er/y.Jpeg", "a/z.png", "b.JPG", "c.bmp"]
    assert names == expected
    assert list_images(str(tmp_path)) == list_images(tmp_path)


def test_a_file_of_any_name_is_listed(tmp_path):
    make(tmp_path, "photo.data")
    assert list_images(tmp_path / "photo.data") == [tmp_path / "photo.data"]


def test_cyclic_links_are_followed_once(tmp_path):
    make(tmp_path, "a/1.png", "b/2.png")
    for number in range(8):
        (tmp_path / "a" / f"up{number}").symlink_to(tmp_path)
        (tmp_path / "b" / f"across{number}").symlink_to(tmp_path / "a")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "gone.png").symlink_to("nowhere")
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a/1.png", "b/2.png", "gone.png"]


def test_missing_and_invalid_paths_are_errors():
    with pytest.raises(DatasetError, match=r"^no/such: no such file or folder$"):
        list_images("no/such")
    with pytest.raises(DatasetError, match=r"^no/such: no such file or folder$"):
        list_labeled_images("no/such")
    with pytest.raises(DatasetError, match="not a valid path"):
        list_images("a\0b")


def test_a_folder_without_images_is_an_error(tmp_path):
    make(tmp_path, "notes.txt", ".hidden/1.png")
    with pytest.raises(DatasetError, match="no images"):
        list_images(tmp_path)


def test_labels_are_the_first_level(tmp_path):
    make(tmp_path, "dog/1.png", "cat/old/2.png", "cat/3.png", ".cache/4.png", "notes.txt")
    paths, labels = list_labeled_images(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == ["cat/3.png", "cat/old/2.png", "dog/1.png"]
    assert labels == ["cat", "cat", "dog"]


def test_classes_may_be_named_like_splits(tmp_path):
    make(tmp_path, "train/1.png", "train/steam/2.png", "test/3.png")
    assert list_labeled_images(tmp_path)[1] == ["test", "train", "train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["1.png", "2.png"],
            "images but no folders in this folder; expected one folder of images for each class",
        ),
        (["notes.txt"], "no folders and no images"),
        (["cat/1.png", "dog/notes.txt"], "dog: no images in this class folder"),
        (["loose.png", "cat/1.png", "dog/2.png"], "loose.png: an image in no class folder"),
        (
            ["cat/1.png", "pets/train/dog/2.png", "pets/Test/dog/3.png", "loose.png"],
            r"pets: a data set with the parts Test, train, not the images of a class",
        ),
        (
            ["train/cat/1.png", "Test/cat/2.png"],
            r"classes are one level further down \(cat\).* pass one of these: .*Test.*train",
        ),
    ],
)
def test_other_layouts_are_rejected(tmp_path, files, message):
    make(tmp_path, *files)
    with pytest.raises(DatasetError, match=message):
        list_labeled_images(tmp_path)
    with pytest.raises(DatasetError, match="a file, not a folder"):
        list_labeled_images(tmp_path / files[0])


def test_names_of_many_folders_are_cut_with_an_ellipsis(tmp_path):
    make(tmp_path, *(f"{split}/{name}/1.png" for split in "abcdef" for name in "12345"))
    with pytest.raises(DatasetError, match=r"\(1, 2, 3, 4, \.\.\.\).* .*a, .*b, .*c, .*d, \.\.\.$"):
        list_labeled_images(tmp_path)


def test_images_in_no_class_folder_are_skipped_and_listed(tmp_path):
    make(tmp_path, "loose.png", "cat/1.png", "dog/2.png", "empty/notes.txt")
    skipped = []
    paths, _ = list_labeled_images(tmp_path, on_error="skip", skipped=skipped)
    assert [path.name for path in paths] == ["1.png", "2.png"]
    assert [(Path(skip.source).name, skip.reason) for skip in skipped] == [
        ("loose.png", "an image in no class folder"),
        ("empty", "no images in this class folder"),
    ]


def test_images_in_unsupported_formats_are_listed(tmp_path):
    make(tmp_path, "a.png", "b.HEIC", "notes.txt")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.HEIC"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_folder_is_an_error(tmp_path):
    make(tmp_path, "in/1.png")
    Path(tmp_path / "in").chmod(0)
    try:
        with pytest.raises(DatasetError, match="cannot be read"):
            list_images(tmp_path)
    finally:
        Path(tmp_path / "in").chmod(0o755)
