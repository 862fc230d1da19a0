"""Augmentations of images of every size, at the edges of images, and their distributions."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from transferkit.images import Preprocessing
from transferkit.images.augmentation import (
    Augmentation,
    Blur,
    Brightness,
    Contrast,
    CutMix,
    Erasing,
    Grayscale,
    HorizontalFlip,
    Hue,
    MixUp,
    RandAugment,
    RandomResizedCrop,
    Rotation,
    Saturation,
    Translation,
    VerticalFlip,
)

Floats = npt.NDArray[np.float32]

AUGMENTATIONS: tuple[Augmentation, ...] = (
    Blur((0.1, 30.0), probability=1.0),
    Brightness(3.0),
    Contrast(3.0),
    Erasing((0.01, 1.0), (0.1, 10.0), probability=1.0),
    Grayscale(probability=1.0),
    HorizontalFlip(),
    Hue(0.5),
    RandAugment(3, 30),
    RandomResizedCrop((0.01, 1.0), (0.1, 10.0)),
    Rotation(180),
    Saturation(3.0),
    Translation(1.0),
    VerticalFlip(),
)
OPERATIONS = (
    "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
# These change an image at every magnitude.
WITHOUT_MAGNITUDE = {"autocontrast", "equalize"}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int = 20, width: int = 30, seed: int = 0) -> Floats:
    return generator(seed).random((height, width, 3), np.float32)


def levels(height: int = 20, width: int = 30) -> npt.NDArray[np.uint8]:
    return generator(1).integers(20, 200, (height, width, 3)).astype(np.uint8)


@given(
    st.sampled_from(AUGMENTATIONS),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, None]),
)
def test_images_of_every_size_keep_their_shape_and_range(
    augmentation: Augmentation, size: tuple[int, int], seed: int, constant: float | None
) -> None:
    image = noise(*size, seed)
    if constant is not None:
        image[...] = constant
    image.setflags(write=False)
    before = image.copy()
    result = augmentation.apply(image, generator(seed))
    np.testing.assert_array_equal(image, before)
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 1
    np.testing.assert_array_equal(augmentation.apply(image, generator(seed)), result)


@pytest.mark.parametrize("seed", range(5))
def test_rotation_is_that_of_scipy(seed: int) -> None:
    image = noise(24, 35)
    # In SciPy, a positive angle is counterclockwise.
    degrees = -generator(seed).uniform(-180, 180)
    result = Rotation(180).apply(image, generator(seed))
    expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_translation_is_that_of_scipy(seed: int) -> None:
    image = noise(24, 35)
    down, right = generator(seed).uniform(-0.5, 0.5, 2) * (24, 35)
    result = Translation(0.5).apply(image, generator(seed))
    expected = ndimage.shift(image, (-down, -right, 0), order=1, mode="nearest")
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_a_convolution_with_a_gaussian(sigma: float) -> None:
    image = noise(24, 35)
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = np.outer(weights, weights)[..., np.newaxis] / weights.sum() ** 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[:2], axis=(0, 1))
    expected = np.einsum("yxcij,ij->yxc", windows, weights[..., 0])
    result = Blur((sigma, sigma), probability=1.0).apply(image, generator())
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_hues_are_shifted_uniformly() -> None:
    """Of pure red, the green channel is six times the shift while that is between 0 and 1."""
    red, source = np.float32([[[1, 0, 0]]]), generator()
    pixels = np.array([Hue(1 / 6).apply(red, source)[0, 0] for _ in range(1000)])
    shifts = (pixels[:, 1] - pixels[:, 2]) / 6
    assert stats.kstest(shifts, stats.uniform(-1 / 6, 1 / 3).cdf).pvalue > 0.01


def test_color_changes_keep_what_they_should() -> None:
    image = noise() * np.float32(0.2) + np.float32(0.4)
    luma = np.array([0.299, 0.587, 0.114])
    for seed in range(5):
        contrasted = Contrast(0.5).apply(image, generator(seed))
        np.testing.assert_allclose((contrasted @ luma).mean(), (image @ luma).mean(), rtol=1e-5)
        saturated = Saturation(0.5).apply(image, generator(seed))
        np.testing.assert_allclose(saturated @ luma, image @ luma, rtol=1e-5)
        shifted = Hue(0.5).apply(image, generator(seed))
        np.testing.assert_allclose(shifted.max(axis=-1), image.max(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(shifted.min(axis=-1), image.min(axis=-1), rtol=1e-5)


def test_crops_are_uniform_in_area_log_ratio_and_position() -> None:
    crop, source = RandomResizedCrop((0.1, 0.4), (0.5, 2.0)), generator()
    # The image is so large that every crop fits, and that rounding does not matter.
    side = 100_000
    boxes = np.array([crop.box(side, side, source) for _ in range(2000)], np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    for values, low, high in (
        (width * height / side**2, 0.1, 0.4),
        (np.log(width / height), -math.log(2), math.log(2)),
        (boxes[:, 0] / (side - width), 0.0, 1.0),
        (boxes[:, 1] / (side - height), 0.0, 1.0),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.01


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted).map(tuple),
    st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0)).map(sorted).map(tuple),
    st.integers(0, 1000),
)
def test_crops_are_inside_the_image(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    left, top, right, bottom = RandomResizedCrop(scale, ratio).box(*size, generator(seed))
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("of_floats", [False, True])
def test_crop_of_the_whole_image_is_stretching(interpolation: str, of_floats: bool) -> None:
    array = levels(40, 60)
    image: Any = np.float32(array) / np.float32(255) if of_floats else Image.fromarray(array)
    stretched = Preprocessing(32, crop=False, interpolation=interpolation)
    cropped = RandomResizedCrop((1.0, 1.0), (1.5, 1.5)).crop(image, stretched, generator())
    np.testing.assert_array_equal(cropped, stretched.apply(image))


def test_erased_rectangles_have_the_stated_distribution() -> None:
    erasing, source = Erasing((0.1, 0.3), (0.5, 2.0), probability=1.0), generator()
    image = np.full((120, 120, 3), 2.0, np.float32)
    sides, centers, values = [], [], []
    for _ in range(300):
        erased = erasing.apply(image, source)
        rows, columns = np.nonzero((erased != image).all(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width
        sides.append((height, width))
        centers.append((rows.min() / (120 - height), columns.min() / (120 - width)))
        values.append(erased[rows[0], columns[0]])
    height, width = np.array(sides, np.float64).T
    uniform = stats.uniform
    assert stats.kstest(height * width / 120**2, uniform(0.1, 0.2).cdf).pvalue > 0.01
    log_2 = math.log(2)
    assert stats.kstest(np.log(height / width), uniform(-log_2, 2 * log_2).cdf).pvalue > 0.01
    for column in (*np.array(centers).T, np.ravel(values)):
        assert stats.kstest(column, uniform(0, 1).cdf).pvalue > 0.01


def operation(index: int, sign: float, magnitude: int, image: npt.NDArray[np.uint8]) -> Any:
    """Return an image in 8 bits after one operation."""
    source = Mock(spec=np.random.Generator)
    source.random.return_value = 0.25 if sign > 0 else 0.75
    source.integers.return_value = index
    pixels = np.float32(image) / np.float32(255)
    result = RandAugment(1, magnitude).apply(pixels, source) * 255
    rounded = np.rint(result)
    np.testing.assert_allclose(result, rounded, atol=1e-4)
    assert source.integers.call_args.args == (len(OPERATIONS),)
    return rounded.astype(np.uint8)


@pytest.mark.parametrize("index", range(len(OPERATIONS)), ids=OPERATIONS)
def test_operations_are_valid_at_all_magnitudes(index: int) -> None:
    image = levels(7, 9)
    for magnitude in range(31):
        for sign in (-1.0, 1.0):
            result = operation(index, sign, magnitude, image)
            assert result.shape == image.shape
            if magnitude == 0 and OPERATIONS[index] not in WITHOUT_MAGNITUDE:
                np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_are_those_of_pillow(sign: float) -> None:
    array = levels()
    image = Image.fromarray(array)
    fill = tuple(int(value) for value in np.rint(array.reshape(-1, 3).mean(axis=0)))
    bilinear = Image.Resampling.BILINEAR
    factor = 1 + sign * 0.9
    expected = {
        "autocontrast": ImageOps.autocontrast(image),
        "equalize": ImageOps.equalize(image),
        "rotate": image.rotate(sign * 30, bilinear, fillcolor=fill),
        "color": ImageEnhance.Color(image).enhance(factor),
        "contrast": ImageEnhance.Contrast(image).enhance(factor),
        "brightness": ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": ImageEnhance.Sharpness(image).enhance(factor),
    }
    for operation_name, after in expected.items():
        result = operation(OPERATIONS.index(operation_name), sign, 30, array)
        np.testing.assert_array_equal(result, np.asarray(after), operation_name)


def test_operations_are_drawn_with_equal_probability() -> None:
    """At magnitude 0 only two of the 14 operations change an image."""
    image, source = np.float32(levels()) / np.float32(255), generator()
    changed = sum(
        not np.allclose(RandAugment(1, 0).apply(image, source), image, atol=1e-3)
        for _ in range(1000)
    )
    assert stats.binomtest(changed, 1000, 2 / 14).pvalue > 0.01


def batch(number: int) -> tuple[Floats, Floats]:
    pixels = np.stack([noise(12, 15, seed) for seed in range(number)])
    return pixels, np.eye(number, dtype=np.float32)


def test_images_are_mixed_as_their_targets() -> None:
    """With one-hot targets, a row of mixed targets holds the weights of all images."""
    pixels, targets = batch(5)
    for seed in range(20):
        mixed, weights = MixUp(1.0).apply(pixels, targets, generator(seed))
        expected = np.tensordot(weights, pixels, axes=1)
        np.testing.assert_allclose(mixed, expected, rtol=0, atol=1e-6)


def test_a_rectangle_of_the_partner_is_pasted() -> None:
    pixels, targets = batch(5)
    for seed in range(20):
        mixed, weights = CutMix().apply(pixels, targets, generator(seed))
        for row, image, own in zip(weights, mixed, pixels, strict=True):
            partner = pixels[np.flatnonzero(row)[-1]]
            if np.array_equal(partner, own):
                partner = pixels[np.flatnonzero(row)[0]]
            pasted = (image != own).all(axis=-1)
            np.testing.assert_array_equal(image[pasted], partner[pasted])
            np.testing.assert_array_equal(image[~pasted], own[~pasted])
            if pasted.any():
                rows, columns = np.nonzero(pasted)
                assert pasted.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


class Reversing(np.random.Generator):
    """A generator that pairs the first image with the last one, and centers rectangles."""

    def integers(self, number: int) -> int:  # type: ignore[override]
        return number // 2

    def permutation(self, number: int) -> npt.NDArray[np.intp]:  # type: ignore[override]
        return np.arange(number)[::-1]


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_areas_of_cutmix_have_a_beta_distribution(alpha: float) -> None:
    """At the edges rectangles are cut: those in the middle have the area that is drawn."""
    side = 200
    pixels = np.zeros((2, side, side, 1), np.float32)
    pixels[1] = 1
    source = Reversing(np.random.PCG64(0))
    areas = [
        CutMix(alpha).apply(pixels, np.eye(2, dtype=np.float32), source)[0][0].mean()
        for _ in range(300)
    ]
    assert stats.kstest(np.float64(areas), stats.beta(alpha, alpha).cdf).pvalue > 0.01
