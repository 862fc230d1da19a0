"""`LabelledImages`: consistent, and accepted by a classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import colored, labeled_folder, tiny_classifier

from transferkit.datasets import LabelledImages, from_folder
from transferkit.errors import DatasetError, UnknownNameError


def test_lengths_must_agree() -> None:
    with pytest.raises(DatasetError, match="2 images, but 1 labels"):
        LabelledImages(["1.jpg", "2.jpg"], ["cat"])
    with pytest.raises(DatasetError, match="2 images, but 3 groups"):
        LabelledImages(["1.jpg", "2.jpg"], ["cat", "dog"], groups=[1, 2, 3])


def test_labels_must_be_finite() -> None:
    with pytest.raises(DatasetError, match=r"y\[1\] is nan; expected a finite number"):
        LabelledImages(["1.jpg", "2.jpg"], [1.0, float("nan")])


def test_taken_images_keep_what_is_known() -> None:
    data = LabelledImages(
        ["1.jpg", "2.jpg", "3.jpg"], [0, 1, 0], splits=["a", "b", "a"], groups=[7, 8, 9]
    )
    part = data.take([2, 0])
    assert part.images == ["3.jpg", "1.jpg"]
    assert part.labels.tolist() == [0, 0]
    assert part.groups is not None
    assert part.groups.tolist() == [9, 7]
    only = data.of_split("b")
    assert (only.images, only.splits) == (["2.jpg"], None)
    with pytest.raises(UnknownNameError, match="unknown split 'test'; available: a, b"):
        data.of_split("test")


def test_a_classifier_takes_its_images_and_labels(tmp_path: Path) -> None:
    folder = labeled_folder(tmp_path / "data")
    data = from_folder(folder)
    classifier = tiny_classifier(C=1.0).fit(data)
    expected = tiny_classifier(C=1.0).fit(folder)
    assert classifier.classes_.tolist() == ["blood", "grass"]
    assert (
        classifier.model_.weights["head.weight"] == expected.model_.weights["head.weight"]
    ).all()
    assert classifier.score(data) == expected.score(folder)
    assert classifier.evaluate(data).sources == data.sources
    with pytest.raises(DatasetError, match="X has its own labels; leave y out"):
        classifier.fit(data, data.labels)


def test_one_of_several_splits_must_be_chosen(tmp_path: Path) -> None:
    for split in ("train", "test"):
        labeled_folder(tmp_path / split)
    data = from_folder(tmp_path)
    assert data.split_names == ["test", "train"]
    with pytest.raises(DatasetError, match=r"splits 'test', 'train'; .* X\.of_split\('test'\)"):
        tiny_classifier(C=1.0).fit(data)
    assert tiny_classifier(C=1.0).fit(data.of_split("train")).score(data.of_split("test")) == 1.0


def test_a_class_named_like_a_split_is_a_class(tmp_path: Path) -> None:
    labeled_folder(tmp_path)
    (tmp_path / "blood").rename(tmp_path / "train")
    assert from_folder(tmp_path).classes.tolist() == ["grass", "train"]


def test_arrays_are_named_by_their_position() -> None:
    assert LabelledImages(colored([0, 1]), [0, 1]).sources == ["images[0]", "images[1]"]


@pytest.mark.parametrize(("splits", "name"), [([0, 1, 1], "1"), ([False, True, True], "True")])
def test_splits_may_have_numbers(splits: list[int], name: str) -> None:
    data = LabelledImages(["1.jpg", "2.jpg", "3.jpg"], ["a", "b", "c"], splits=splits)
    assert name in data.split_names
    assert data.of_split(name).labels.tolist() == ["b", "c"]
