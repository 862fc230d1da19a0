"""Resizing of float images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transferkit.images.resizing import INTERPOLATIONS, resize


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(9, 7), (31, 50), (20, 7)])
def test_each_channel_is_resized_by_pillow(interpolation: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((2, 20, 30, 3), np.float32)
    result = resize(images, size, interpolation)
    assert result.shape == (2, *size, 3)
    assert result.dtype == np.float32
    for index in np.ndindex(2, 3):
        plane = Image.fromarray(np.ascontiguousarray(images[index[0], ..., index[1]]))
        plane = plane.resize(size[::-1], INTERPOLATIONS[interpolation])
        np.testing.assert_array_equal(result[index[0], ..., index[1]], np.asarray(plane))


def test_images_of_the_given_size_are_returned_unchanged() -> None:
    images = np.random.default_rng(0).random((2, 20, 30, 3), np.float32)
    assert resize(images, (20, 30)) is images


def test_bilinear_is_the_default() -> None:
    images = np.random.default_rng(0).random((1, 20, 30, 3), np.float32)
    np.testing.assert_array_equal(resize(images, (9, 7)), resize(images, (9, 7), "bilinear"))
