"""Small copies are similar exactly if they show the same image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.demo import CAT, TRAIN
from transferkit.images import list_images, read_image
from transferkit.inspection.alignment import SIDE, compare_copies
from transferkit.inspection.findings import THRESHOLDS

PHOTOS = [read_image(path) for path in list_images(TRAIN)]


def copy_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("L"))


def similarity(one: Image.Image, other: Image.Image, *, search: bool = False) -> float:
    copies = np.stack([copy_of(one), copy_of(other)])
    first, second = np.array([0]), np.array([1])
    return float(compare_copies(copies, first, second, search=search)[0])


@given(
    st.integers(0, len(PHOTOS) - 1),
    st.floats(0, 0.1),
    st.floats(0, 0.1),
    st.floats(0.7, 1.0),
    st.integers(0, 60),
    st.booleans(),
    st.booleans(),
)
def test_crops_mirrored_and_with_other_brightness_are_similar(
    index: int, left: float, top: float, gain: float, offset: int, mirrored: bool, swapped: bool
) -> None:
    photo = PHOTOS[index]
    width, height = photo.size
    changed = photo.crop(
        (
            round(left * width),
            round(top * height),
            round((left + 0.9) * width),
            round((top + 0.9) * height),
        )
    ).point(lambda value: min(255, round(gain * value + offset)))
    if mirrored:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pair = (changed, photo) if swapped else (photo, changed)
    assert max(similarity(*pair), similarity(*pair, search=True)) > 0.93


def test_different_photos_are_not_similar() -> None:
    """Not even parts of one wall, whose bricks are all alike."""
    copies = np.stack([copy_of(photo) for photo in PHOTOS])
    first, second = np.triu_indices(len(PHOTOS), 1)
    is_brick = second < 8
    for search in (False, True):
        found = compare_copies(copies, first, second, search=search)
        assert found[is_brick].max() < THRESHOLDS["near-duplicate"]
        assert found[~is_brick].max() < 0.6


def test_two_parts_of_one_photo_are_not_copies_of_each_other() -> None:
    with Image.open(CAT) as file:
        cat = file.convert("RGB").resize((200, 200))
    left, right = cat.crop((0, 0, 170, 200)), cat.crop((30, 0, 200, 200))
    for search in (False, True):
        assert similarity(left, right, search=search) < THRESHOLDS["near-duplicate"]
        assert similarity(left, cat, search=search) > THRESHOLDS["near-duplicate"]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_copies_without_structure_are_similar_to_nothing(level: int) -> None:
    flat = Image.new("RGB", (64, 64), (level,) * 3)
    assert similarity(flat, flat) <= 0
    assert similarity(flat, PHOTOS[0]) <= 0


def test_a_part_that_became_white_does_not_matter() -> None:
    photo = PHOTOS[0]
    brighter = photo.point(lambda value: min(255, round(1.6 * value + 20)))
    assert (np.asarray(brighter) == 255).mean() > 0.1
    assert similarity(photo, brighter) > 0.9
    assert similarity(brighter, photo) > 0.9


def test_pairs_do_not_depend_on_each_other() -> None:
    copies = np.stack([copy_of(photo) for photo in PHOTOS])
    first, second = np.arange(20), np.arange(20) + 1
    together = compare_copies(copies, first, second)
    alone = [compare_copies(copies, first[[i]], second[[i]])[0] for i in range(20)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
