"""Labels in the names of files."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.datasets import from_names
from transferkit.errors import DatasetError, ParameterError

NUMBERED = r"(?P<label>.+)_\d+\.jpg"


def create(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def test_labels_are_read_from_names(tmp_path: Path) -> None:
    create(tmp_path, "maine_coon_1.jpg", "pug_2.jpg", "below/pug_10.jpg")
    data = from_names(tmp_path, NUMBERED)
    assert data.sources == [
        str(tmp_path / name) for name in ("below/pug_10.jpg", "maine_coon_1.jpg", "pug_2.jpg")
    ]
    assert data.labels.tolist() == ["pug", "maine_coon", "pug"]
    assert (data.splits, data.groups, data.skipped) == (None, None, [])
    again = from_names(str(tmp_path), re.compile(NUMBERED))
    assert again.sources == data.sources


@given(labels=st.lists(st.from_regex(r"[a-z]+(_[a-z]+)*", fullmatch=True), min_size=1, max_size=5))
def test_labels_may_contain_the_separator(
    labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [f"{label}_{index}.jpg" for index, label in enumerate(labels)]
    folder = create(tmp_path_factory.mktemp("names"), *names)
    data = from_names(folder, NUMBERED)
    assert dict(zip((image.name for image in data.images), data.labels, strict=True)) == dict(  # type: ignore[union-attr]
        zip(names, labels, strict=True)
    )


def test_splits_and_groups_are_read_from_paths(tmp_path: Path) -> None:
    create(tmp_path, "train/7_cat_1.jpg", "test/8_dog_1.jpg")
    data = from_names(tmp_path, r"(?P<split>\w+)/(?P<group>\d+)_(?P<label>[a-z]+)_\d+\.jpg")
    assert data.labels.tolist() == ["dog", "cat"]
    assert data.split_names == ["test", "train"]
    assert data.groups is not None
    assert data.groups.tolist() == ["8", "7"]


def test_names_are_normalized(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Bär_1.jpg")
    create(tmp_path, name)
    data = from_names(tmp_path, "(?P<label>B.r)_1.jpg")
    assert data.labels.tolist() == ["Bär"]
    assert data.images == [tmp_path / name]


def test_names_that_do_not_match_are_named_or_skipped(tmp_path: Path) -> None:
    create(tmp_path, "cat_1.jpg", "cat.jpg", "_1.jpg", "dog_1.png")
    with pytest.raises(DatasetError) as raised:
        from_names(tmp_path, NUMBERED)
    assert "3 of 4 names do not match the pattern" in str(raised.value)
    assert "the whole name: _1.jpg, cat.jpg, dog_1.png; pass on_error='skip'" in str(raised.value)
    data = from_names(tmp_path, NUMBERED, on_error="skip")
    assert data.labels.tolist() == ["cat"]
    assert [one.source for one in data.skipped] == [
        str(tmp_path / name) for name in ("_1.jpg", "cat.jpg", "dog_1.png")
    ]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_pattern_that_matches_nothing_shows_names(tmp_path: Path, on_error: str) -> None:
    create(tmp_path, *(f"cat-{number}.jpg" for number in range(7)))
    with pytest.raises(DatasetError, match="no name matches the pattern") as raised:
        from_names(tmp_path, NUMBERED, on_error=on_error)
    assert str(raised.value).endswith(
        ": cat-0.jpg, cat-1.jpg, cat-2.jpg, cat-3.jpg, cat-4.jpg, ..."
    )


@pytest.mark.parametrize("pattern", [r"(?P<label>cat)?_1\.jpg", r"(?P<label>.*)_1\.jpg"])
def test_an_empty_label_is_none(tmp_path: Path, pattern: str) -> None:
    create(tmp_path, "_1.jpg")
    with pytest.raises(DatasetError, match="no name matches"):
        from_names(tmp_path, pattern)


@pytest.mark.parametrize("pattern", [r".+_\d+\.jpg", r"(?P<lable>.+)_\d+\.jpg", ""])
def test_a_pattern_without_a_label_shows_a_name(tmp_path: Path, pattern: str) -> None:
    create(tmp_path, "cat_1.jpg")
    with pytest.raises(ParameterError, match=r"without a group for the label; .* 'cat_1\.jpg'"):
        from_names(tmp_path, pattern)


@pytest.mark.parametrize("pattern", ["(?P<label>", "(?P<label>a)(?P<label>b)", "*"])
def test_a_pattern_that_is_none_is_rejected(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ParameterError, match="not a regular expression: "):
        from_names(tmp_path, pattern)


@pytest.mark.parametrize("pattern", [None, 3, b"a", re.compile(b"a")])
def test_a_pattern_of_another_type_is_rejected(tmp_path: Path, pattern: Any) -> None:
    with pytest.raises(ParameterError, match="expected a regular expression"):
        from_names(tmp_path, pattern)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in this folder"):
        from_names(tmp_path, NUMBERED)
    with pytest.raises(DatasetError, match="no such file or folder"):
        from_names(tmp_path / "x", NUMBERED)
