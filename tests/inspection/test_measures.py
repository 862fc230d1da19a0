"""Measures of images, compared with NumPy's and SciPy's functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter1d

from transferkit.demo import CAT
from transferkit.images import read_image
from transferkit.inspection.findings import THRESHOLDS
from transferkit.inspection.measures import measure_blur, measure_image

SMALL = arrays(np.uint8, st.tuples(st.integers(2, 40), st.integers(2, 40), st.just(3)))


def blur(luminance: npt.NDArray[np.uint8]) -> float:
    """Return the measure of Crete et al., for both axes together."""
    pixels = luminance.astype(np.float64)
    kept = total = 0.0
    for axis in (0, 1):
        before = np.abs(np.diff(pixels, axis=axis))
        after = np.abs(np.diff(uniform_filter1d(pixels, 9, axis=axis, mode="nearest"), axis=axis))
        kept += np.maximum(before - after, 0).sum()
        total += before.sum()
    return 1 - kept / total if total else 1.0


@given(SMALL)
def test_blur_follows_its_definition(pixels: npt.NDArray[np.uint8]) -> None:
    assert measure_blur(pixels[..., 0]) == pytest.approx(blur(pixels[..., 0]), abs=1e-4)


@given(SMALL)
def test_quantiles_and_contrast_are_those_of_the_pixels(pixels: npt.NDArray[np.uint8]) -> None:
    measures, copy = measure_image(Image.fromarray(pixels))
    luminance = np.asarray(Image.fromarray(pixels).convert("L")) / 255
    chroma = (pixels.max(axis=2).astype(float) - pixels.min(axis=2)) / 255
    assert (measures.height, measures.width) == pixels.shape[:2]
    for value, values, fraction in (
        (measures.dark, luminance, 0.95),
        (measures.bright, luminance, 0.05),
        (measures.chroma, chroma, 0.99),
    ):
        assert value == pytest.approx(np.quantile(values, fraction, method="inverted_cdf"))
    assert measures.contrast == pytest.approx(luminance.std(), abs=1e-6)
    assert copy.shape == (64, 64)


def test_the_measures_of_a_large_image_are_those_of_a_small_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 256, 3), np.uint8)
    small, _ = measure_image(Image.fromarray(pixels))
    large, _ = measure_image(Image.fromarray(pixels.repeat(3, 0).repeat(3, 1)))
    assert (large.width, large.height) == (768, 192)
    assert large[2:-1] == pytest.approx(small[2:-1])
    assert large.color == pytest.approx(small.color)


def test_floats_are_measured_like_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    from_bytes, copy = measure_image(Image.fromarray(pixels))
    from_floats, other = measure_image((pixels / 255).astype(np.float32))
    assert from_bytes == from_floats
    np.testing.assert_array_equal(copy, other)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 900)])
def test_narrow_images_are_measured(size: tuple[int, int]) -> None:
    measures, copy = measure_image(Image.new("RGB", size, (10, 200, 30)))
    assert (measures.width, measures.height) == size
    assert measures.contrast == 0
    assert np.ptp(copy) == 0


def test_a_blurred_photo_is_above_the_threshold_and_a_sharp_one_below() -> None:
    cat = read_image(CAT)
    assert isinstance(cat, Image.Image)
    blurred = cat.filter(ImageFilter.GaussianBlur(max(cat.size) / 40))
    assert measure_image(cat)[0].blur < 0.5
    assert measure_image(blurred)[0].blur > THRESHOLDS["blurred"]
