"""`LabelledImages.split`: stratified, without copies or groups on both sides, and repeatable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.datasets import LabelledImages
from transferkit.datasets.copies import content_keys
from transferkit.datasets.splitting import link_images
from transferkit.errors import DatasetError, ImageError, ParameterError


def image(value: int) -> np.ndarray[Any, Any]:
    return np.array([[divmod(value, 256)]], np.uint8)


def different(labels: list[str], **parameters: Any) -> LabelledImages:
    return LabelledImages([image(value) for value in range(len(labels))], labels, **parameters)


def content(data: LabelledImages) -> list[bytes]:
    return [one.tobytes() for one in data.images]  # type: ignore[union-attr]


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=6, max_size=60),
    test=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_each_class_is_split_in_proportion(labels: list[str], test: float, seed: int) -> None:
    # Two of each at least.
    labels += ["a", "a", "b", "b", "c", "c"]
    data = different(labels)
    train, held_out = data.split(test, random_state=seed)
    assert sorted(content(train) + content(held_out)) == sorted(content(data))
    for label, number in Counter(labels).items():
        rounded = int(np.clip(np.floor(test * number + 0.5), 1, number - 1))
        assert held_out.counts[label] == rounded
        assert train.counts[label] == number - rounded
    # The order is kept.
    for part in (train, held_out):
        assert content(part) == sorted(content(part))


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 19)),
        min_size=4,
        max_size=60,
    ),
    test=st.floats(0.05, 0.95),
    seed=st.integers(0, 100),
)
def test_copies_and_groups_stay_on_one_side(
    rows: list[tuple[str, int, int]], test: float, seed: int
) -> None:
    # Two units of each class that share nothing.
    rows += [("a", 90, 90), ("a", 91, 91), ("b", 92, 92), ("b", 93, 93)]
    labels, groups, values = ([*column] for column in zip(*rows, strict=True))
    data = LabelledImages([image(value) for value in values], labels, groups=groups)
    train, held_out = data.split(test, random_state=seed)
    assert len(train) + len(held_out) == len(data)
    assert not set(content(train)) & set(content(held_out))
    assert train.groups is not None
    assert held_out.groups is not None
    assert not set(train.groups.tolist()) & set(held_out.groups.tolist())
    assert set(train.counts) == set(held_out.counts) == {"a", "b"}
    # `groups` of the call counts instead of that of the images.
    other = LabelledImages(data.images, labels, groups=range(len(rows)))
    again = other.split(test, random_state=seed, groups=groups)
    assert [content(part) for part in again] == [content(train), content(held_out)]


def test_the_split_is_the_same_on_every_machine() -> None:
    data = different(["a", "b"] * 20)
    positions = [content(data).index(one) for one in content(data.split(0.2)[1])]
    # By the documented rule: the smallest digests of "seed:position" of each class. Computed with
    # sha256sum.
    assert positions == EXPECTED
    assert content(data.split(0.2, random_state=1)[1]) != content(data.split(0.2)[1])


EXPECTED = [4, 7, 15, 18, 20, 25, 33, 36]


def test_the_fraction_is_kept_with_groups_of_one_size() -> None:
    data = different(["a"] * 100 + ["b"] * 50, groups=[value // 5 for value in range(150)])
    train, test = data.split(0.2)
    assert test.counts == {"a": 20, "b": 10}
    assert train.counts == {"a": 80, "b": 40}


def test_a_class_of_two_large_groups_is_split() -> None:
    data = different(["a"] * 11 + ["b"] * 10, groups=[0] * 6 + [1] * 5 + [*range(2, 12)])
    train, test = data.split(0.1)
    assert test.counts == {"a": 5, "b": 1}
    assert train.counts == {"a": 6, "b": 9}


def test_large_groups_leave_images_for_training() -> None:
    # Both groups together are closer to nine than one of them.
    data = different(["a"] * 10, groups=[0] * 7 + [1] * 3)
    train, test = data.split(0.9)
    assert {len(train), len(test)} == {3, 7}


def test_linked_images_are_found_through_others() -> None:
    assert link_images(5, [["a", "a", "b", "b", None], [1, 2, 2, 3, None]]) == [[0, 1, 2, 3], [4]]
    assert link_images(3, [[None, None, None]]) == [[0], [1], [2]]
    assert link_images(0, [[]]) == []


def test_copies_of_files_are_found_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = (b"xx", b"xy", b"xx", b"x", b"xyz")
    paths = [tmp_path / f"{index}.jpg" for index in range(5)]
    for path, written in zip(paths, contents, strict=True):
        path.write_bytes(written)
    read: list[Path] = []
    original = Path.open

    def recorded(path: Path, *arguments: Any) -> Any:
        read.append(path)
        return original(path, *arguments)

    monkeypatch.setattr(Path, "open", recorded)
    keys = content_keys(paths)
    assert keys[0] == keys[2] is not None
    assert [keys[1], keys[3], keys[4]] == [None, None, None]
    # Files of a size of their own are not read.
    assert read == paths[:3]


def test_images_in_memory_are_compared_by_their_values() -> None:
    red, other = Image.new("RGB", (2, 1), (255, 0, 0)), Image.new("RGB", (1, 2), (255, 0, 0))
    keys = content_keys([red, other, red.copy(), b"a", b"b", b"a", np.ones(2), np.ones(2, "f4")])
    assert keys[0] == keys[2] is not None
    assert keys[3] == keys[5] is not None
    assert [keys[1], keys[4], keys[6], keys[7]] == [None] * 4


@pytest.mark.parametrize("test", [0, 1, 1.5, -0.2, float("nan"), "0.2", True, None])
def test_an_invalid_fraction_is_rejected(test: Any) -> None:
    with pytest.raises(ParameterError, match=r"expected a fraction such as 0\.2"):
        different(["a"] * 4).split(test)


def test_an_invalid_random_state_is_rejected() -> None:
    with pytest.raises(ParameterError, match="random_state is -1"):
        different(["a"] * 4).split(random_state=-1)


def test_a_class_with_one_image_is_named() -> None:
    with pytest.raises(DatasetError, match="only one image of the class 'bird'; a split needs"):
        different(["a", "a", "bird"]).split()
    labels = [f"class {number}" for number in range(9)]
    with pytest.raises(DatasetError, match=r"only one image of 9 classes: 'class 0', .*, \.\.\.;"):
        different(labels).split()


def test_a_class_with_one_group_is_named() -> None:
    data = different(["a", "a", "bird", "bird"], groups=[0, 1, 2, 2])
    with pytest.raises(DatasetError, match="all images of the class 'bird' are copies"):
        data.split()
    copies = LabelledImages([image(0), image(1), image(2), image(2)], ["a", "a", "bird", "bird"])
    with pytest.raises(DatasetError, match="all images of the class 'bird' are copies"):
        copies.split()


def test_classes_that_cannot_be_separated_are_named() -> None:
    # With three groups of two classes each, one class has both of its groups on one side.
    data = different(list("abbcca"), groups=[0, 0, 1, 1, 2, 2])
    with pytest.raises(
        DatasetError, match=r"no split was found for the images of .*: they form groups"
    ):
        data.split()


def test_groups_of_another_number_are_rejected() -> None:
    with pytest.raises(DatasetError, match="there are 4 images, but 3 groups"):
        different(["a"] * 4).split(groups=[1, 2, 3])


def test_existing_splits_are_not_mixed() -> None:
    data = different(["a"] * 4, splits=["train", "train", "train", "test"])
    with pytest.raises(DatasetError, match=r"already have the splits test, train; .*of_split"):
        data.split()
    train, test = data.of_split("train").split(0.4)
    assert (len(train), len(test)) == (2, 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    data = LabelledImages([tmp_path / "a.jpg", tmp_path / "b.jpg"], ["a", "a"])
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read: No such file"):
        data.split()
