"""Augmentations: known answers, ranges, determinism, and their stage in the stream."""

from __future__ import annotations

import colorsys
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from transferkit.errors import ParameterError, ShapeError
from transferkit.images import Preprocessing, Skipped, stream_batches
from transferkit.images.augmentation import (
    Augmentation,
    AugmentationStage,
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

ALL: tuple[Augmentation, ...] = (
    Blur(probability=1.0),
    Brightness(),
    Contrast(),
    Erasing(probability=1.0),
    Grayscale(probability=1.0),
    HorizontalFlip(probability=1.0),
    Hue(),
    RandAugment(magnitude=15),
    RandomResizedCrop(),
    Rotation(),
    Saturation(),
    Translation(),
    VerticalFlip(probability=1.0),
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int = 20, width: int = 30, seed: int = 0) -> Floats:
    return generator(seed).random((height, width, 3), np.float32)


def photo(height: int = 60, width: int = 80) -> Image.Image:
    """Return an image of 8 bits whose colors change slowly, as in a photo."""
    coarse = Image.fromarray((noise(6, 8) * 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def as_floats(image: Image.Image) -> Floats:
    return np.asarray(image, np.float32) / np.float32(255)


def name(augmentation: Augmentation | MixUp | CutMix) -> str:
    return type(augmentation).__name__


class Fixed:
    """A generator whose numbers are given."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def uniform(self, *_: Any) -> float:
        return self._numbers.pop(0)

    def random(self, *_: Any) -> float:
        return 0.0

    def beta(self, *_: Any) -> float:
        return self._numbers.pop(0)

    def integers(self, *_: Any) -> int:
        return int(self._numbers.pop(0))

    def permutation(self, number: int) -> npt.NDArray[np.intp]:
        return np.arange(number)[::-1]


@pytest.mark.parametrize("augmentation", ALL, ids=name)
def test_augmentations_keep_the_form_and_the_range(augmentation: Augmentation) -> None:
    image = noise()
    before = image.copy()
    results = [augmentation.apply(image, generator(seed)) for seed in (1, 1, 2)]
    for result in results:
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 1
        assert not np.array_equal(result, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("augmentation", [*ALL, MixUp(0.3), CutMix(0.7)], ids=name)
def test_augmentations_are_values(augmentation: Augmentation | MixUp | CutMix) -> None:
    copy = pickle.loads(pickle.dumps(augmentation))
    assert copy == augmentation
    assert hash(copy) == hash(augmentation)


@pytest.mark.parametrize(
    "augmentation",
    [
        Blur(probability=0.0),
        Brightness(0.0),
        Contrast(0.0),
        Erasing(probability=0.0),
        Grayscale(0.0),
        HorizontalFlip(0.0),
        RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.5, 1.5)),
        Saturation(0.0),
        VerticalFlip(0.0),
    ],
    ids=name,
)
def test_parameters_without_an_effect(augmentation: Augmentation) -> None:
    image = noise()
    for seed in range(5):
        np.testing.assert_array_equal(augmentation.apply(image, generator(seed)), image)


# How much changes of color can amplify a difference, such as that due to the rounding of resized
# bytes: the sum of the absolute values of the coefficients for the largest factor, which is 1.4;
# for a hue shifted by 0.1, that of green + 0.6 * (red - blue).
AMPLIFICATION = {Brightness: 1.4, Contrast: 1.8, Saturation: 1.8, Hue: 2.2}


@pytest.mark.parametrize("augmentation", ALL, ids=name)
def test_images_of_bytes_and_floats_agree(augmentation: Augmentation) -> None:
    image = photo()
    floats = as_floats(image)
    before = floats.copy()
    for seed in range(5):
        stage = AugmentationStage((augmentation,), seed=seed, epoch=0)
        if not isinstance(augmentation, RandomResizedCrop):
            as_they_are = [stage.apply(one, Preprocessing(None), 0) for one in (image, floats)]
            np.testing.assert_array_equal(*as_they_are)
        # Operations of RandAugment, such as solarization, are not continuous.
        if not isinstance(augmentation, RandAugment):
            resized = [stage.apply(one, Preprocessing(32, 40), 0) for one in (image, floats)]
            limit = 1.01 * AMPLIFICATION.get(type(augmentation), 1) / 255
            assert np.abs(resized[0] - resized[1]).max() <= limit
    np.testing.assert_array_equal(floats, before)
    np.testing.assert_array_equal(as_floats(image), before)


@pytest.mark.parametrize(
    "make",
    [
        HorizontalFlip,
        VerticalFlip,
        Grayscale,
        lambda probability: Blur((1.0, 1.0), probability),
        lambda probability: Erasing(probability=probability),
    ],
)
def test_probabilities(make: Any) -> None:
    image = noise(8, 8)
    source = generator()
    changed = sum(not np.array_equal(make(0.3).apply(image, source), image) for _ in range(1000))
    # Four standard deviations.
    assert abs(changed - 300) < 58


def test_flips() -> None:
    image = noise()
    np.testing.assert_array_equal(HorizontalFlip(1.0).apply(image, generator()), image[:, ::-1])
    np.testing.assert_array_equal(VerticalFlip(1.0).apply(image, generator()), image[::-1])
    np.testing.assert_array_equal(HorizontalFlip(0.0).apply(image, generator()), image)


def test_a_rotation_by_a_quarter() -> None:
    image = noise(9, 9)
    rotated = Rotation(180).apply(image, Fixed(90.0))  # type: ignore[arg-type]
    expected = [np.rot90(image, turns) for turns in (1, 3)]
    assert any(np.allclose(rotated, turned, atol=1e-5) for turned in expected)


@pytest.mark.parametrize("degrees", [-130.0, 15.0, 40.0])
def test_rotations_are_those_of_pillow(degrees: float) -> None:
    # Of even and odd sides, so that the center is on a pixel along one axis only.
    image = noise(21, 30)
    rotated = Rotation(180).apply(image, Fixed(degrees))  # type: ignore[arg-type]
    for channel in range(3):
        plane = Image.fromarray(image[..., channel])
        # Pillow rotates counterclockwise, and writes -1 for pixels from outside.
        expected = np.asarray(plane.rotate(-degrees, Image.Resampling.BILINEAR, fillcolor=-1))
        inside = expected >= 0
        assert inside.mean() > 0.4
        np.testing.assert_allclose(rotated[inside, channel], expected[inside], atol=1e-4)
    assert not np.array_equal(rotated, image)


def test_angles_are_uniform() -> None:
    # Of a ramp, the derivatives along the axes are the cosine and the sine of the angle.
    ramp = np.linspace(0, 1, 21, dtype=np.float32)[:, None, None] + np.zeros((21, 21, 3))
    source = generator()
    angles = []
    for _ in range(300):
        rotated = Rotation(20.0).apply(ramp.astype(np.float32), source)
        down, across = (float(axis[10, 10, 0]) for axis in np.gradient(rotated, axis=(0, 1)))
        angles.append(math.degrees(math.atan2(across, down)))
    assert max(map(abs, angles)) <= 20.01
    assert max(angles) > 19
    assert min(angles) < -19
    assert abs(np.std(angles) - 20 / math.sqrt(3)) < 1


def test_a_translation_by_half_a_pixel() -> None:
    image = noise(10, 20)

    class Shift(Fixed):
        def uniform(self, *_: Any) -> Any:
            return np.array([0.0, 0.025])

    moved = Translation(0.5).apply(image, Shift())  # type: ignore[arg-type]
    np.testing.assert_allclose(moved[:, :-1], (image[:, :-1] + image[:, 1:]) / 2, atol=1e-6)


def test_a_translation_by_whole_pixels() -> None:
    image = noise(10, 10)

    class Shift(Fixed):
        def uniform(self, *_: Any) -> Any:
            return np.array([0.2, 0.0])

    moved = Translation(0.5).apply(image, Shift())  # type: ignore[arg-type]
    np.testing.assert_allclose(moved[:-2], image[2:], atol=1e-6)
    np.testing.assert_allclose(moved[-1], image[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("augmentation", "enhancer"),
    [
        (Brightness(), ImageEnhance.Brightness),
        (Contrast(), ImageEnhance.Contrast),
        (Saturation(), ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_colors_change_as_in_pillow(
    augmentation: Augmentation, enhancer: Any, factor: float
) -> None:
    image = Image.fromarray((noise() * 255).astype(np.uint8))
    pixels = np.asarray(image, np.float32) / 255
    result = augmentation.apply(pixels, Fixed(factor))  # type: ignore[arg-type]
    expected = np.asarray(enhancer(image).enhance(factor), np.float32) / 255
    # Pillow rounds the gray image and the result.
    assert np.abs(result - expected).max() <= 2 / 255


@given(
    kind=st.sampled_from([Brightness, Contrast, Saturation]),
    factor=st.floats(0, 4),
    seed=st.integers(0, 1000),
)
def test_colors_change_by_the_formula(kind: type[Augmentation], factor: float, seed: int) -> None:
    image = noise(3, 5, seed)
    result = kind().apply(image, Fixed(factor))  # type: ignore[arg-type]
    exact = image.astype(np.float64)
    gray = 0.299 * exact[..., 0] + 0.587 * exact[..., 1] + 0.114 * exact[..., 2]
    other = {Brightness: np.zeros(1), Contrast: gray.mean(), Saturation: gray[..., None]}[kind]
    expected = np.clip(factor * exact + (1 - factor) * other, 0, 1)
    np.testing.assert_allclose(result, expected, atol=5e-6)


@pytest.mark.parametrize(
    ("strength", "low", "high"), [(0.4, 0.6, 1.4), (0.0, 1.0, 1.0), (3.0, 0.0, 4.0)]
)
def test_factors_are_uniform(strength: float, low: float, high: float) -> None:
    dark = np.full((1, 1, 3), 0.2, np.float32)
    source = generator()
    factors = [5 * Brightness(strength).apply(dark, source)[0, 0, 0] for _ in range(1000)]
    assert min(factors) >= low - 1e-6
    assert max(factors) <= high + 1e-6
    tolerance = 0.05 * (high - low) + 1e-6
    assert abs(np.mean(factors) - (low + high) / 2) < tolerance
    assert max(factors) > high - tolerance
    assert min(factors) < low + tolerance


@pytest.mark.parametrize("shift", [-0.4, 0.0, 0.1, 0.5])
def test_hues_are_those_of_colorsys(shift: float) -> None:
    image = noise(4, 5)
    result = Hue(0.5).apply(image, Fixed(shift))  # type: ignore[arg-type]
    for pixel, shifted in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
        np.testing.assert_allclose(shifted, expected, atol=1e-5)


def test_gray_images_have_the_luminance_of_pillow() -> None:
    image = Image.fromarray((noise() * 255).astype(np.uint8))
    gray = Grayscale(1.0).apply(np.asarray(image, np.float32) / 255, generator())
    expected = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    assert np.abs(gray - expected).max() <= 1 / 255


def test_blur_keeps_a_constant_image() -> None:
    flat = np.full((8, 8, 3), 0.3, np.float32)
    np.testing.assert_allclose(Blur(probability=1.0).apply(flat, generator()), flat, atol=1e-6)


def test_blur_is_a_convolution_with_a_gaussian() -> None:
    image = np.zeros((31, 31, 3), np.float32)
    image[15, 15] = 1
    blurred = Blur(sigma=(2.0, 2.0), probability=1.0).apply(image, generator())
    weights = np.exp(-((np.arange(31) - 15) ** 2) / 8)
    weights[np.abs(np.arange(31) - 15) > 8] = 0
    weights /= weights.sum()
    for channel in range(3):
        np.testing.assert_allclose(blurred[..., channel], np.outer(weights, weights), atol=1e-7)


def test_erased_pixels_are_uniform() -> None:
    image = np.full((100, 100, 3), 2, np.float32)
    areas = []
    for seed in range(200):
        erased = Erasing(scale=(0.1, 0.3), probability=1.0).apply(image, generator(seed))
        noisy = erased[erased < 2]
        areas.append(noisy.size / erased.size)
        assert abs(noisy.mean() - 0.5) < 0.05
        assert abs(noisy.std() - 1 / math.sqrt(12)) < 0.05
    np.testing.assert_allclose([min(areas), max(areas), np.mean(areas)], [0.1, 0.3, 0.2], atol=0.02)


def test_rectangles_that_do_not_fit_are_not_erased() -> None:
    image = noise(10, 10)
    erasing = Erasing(scale=(1.0, 1.0), ratio=(4.0, 4.0), probability=1.0)
    np.testing.assert_array_equal(erasing.apply(image, generator()), image)


def test_erasing_changes_a_rectangle_of_the_given_area() -> None:
    image = np.zeros((100, 80, 3), np.float32)
    erased = Erasing(scale=(0.2, 0.2), probability=1.0).apply(image, generator())
    rows, columns = np.nonzero(erased.any(axis=-1))
    area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert abs(area / 8000 - 0.2) < 0.02
    assert (erased.any(axis=-1).sum() / area) > 0.99


@pytest.mark.parametrize("magnitude", [0, 15, 30])
def test_every_operation_of_rand_augment_is_valid(magnitude: int) -> None:
    image = noise()
    for seed in range(60):
        result = RandAugment(1, magnitude).apply(image, generator(seed))
        assert np.isfinite(result).all()


# The indices of the operations.
IDENTITY, AUTOCONTRAST, EQUALIZE, ROTATE, SOLARIZE, COLOR, POSTERIZE = range(7)
CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = range(7, 14)


def operate(image: Floats, operation: int, magnitude: int) -> npt.NDArray[np.int64]:
    result = RandAugment(1, magnitude).apply(
        image,
        Fixed(operation),  # type: ignore[arg-type]
    )
    return np.rint(result * 255).astype(np.int64)


def test_operations_of_rand_augment_are_their_formulas() -> None:
    image = as_floats(photo())
    levels = np.rint(image * 255).astype(np.int64)
    np.testing.assert_array_equal(operate(image, IDENTITY, 9), levels)
    solarized = np.where(levels < 128, levels, 255 - levels)
    np.testing.assert_array_equal(operate(image, SOLARIZE, 15), solarized)
    np.testing.assert_array_equal(operate(image, POSTERIZE, 30), levels // 16 * 16)
    low, high = levels.min(axis=(0, 1)), levels.max(axis=(0, 1))
    stretched = (levels - low) * 255 / (high - low)
    assert np.abs(operate(image, AUTOCONTRAST, 9) - stretched).max() <= 1
    brighter = np.minimum(levels * 1.27, 255)
    assert np.abs(operate(image, BRIGHTNESS, 9) - brighter).max() <= 1
    # Half of the pixels are darker than the middle after equalization.
    assert abs((operate(image, EQUALIZE, 9) < 128).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    "operation", [ROTATE, SOLARIZE, COLOR, POSTERIZE, CONTRAST, BRIGHTNESS, SHARPNESS]
)
def test_operations_of_rand_augment_depend_on_the_magnitude(operation: int) -> None:
    image = as_floats(photo())
    levels = np.rint(image * 255).astype(np.int64)
    changes = [np.abs(operate(image, operation, m) - levels).mean() for m in (0, 10, 20, 30)]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[-1] > changes[1] > 0


@pytest.mark.parametrize("vertical", [False, True])
def test_shear_and_translation_of_rand_augment(vertical: bool) -> None:
    square = noise(331, 331)
    image = square.transpose(1, 0, 2) if vertical else square
    levels = np.rint(square * 255)
    # At magnitude 3, a tenth of 150 pixels.
    moved = operate(image, TRANSLATE_Y if vertical else TRANSLATE_X, 3)
    sheared = operate(image, SHEAR_Y if vertical else SHEAR_X, 30)
    if vertical:
        moved, sheared = moved.transpose(1, 0, 2), sheared.transpose(1, 0, 2)
    # Pillow rounds interpolated pixels down, so a rounding error of a position is a level.
    np.testing.assert_allclose(moved[:, :-15], levels[:, 15:], atol=1)
    mean = np.rint(levels.mean(axis=(0, 1)))
    assert np.abs(moved[:, -14:] - mean).max() <= 1
    # Rows move by 0.3 times their distance from the center.
    np.testing.assert_allclose(sheared[165], levels[165], atol=1)
    np.testing.assert_allclose(sheared[175, :-3], levels[175, 3:], atol=1)
    np.testing.assert_allclose(sheared[155, 3:], levels[155, :-3], atol=1)


def test_crops_do_not_depend_on_pixels_outside() -> None:
    crop = RandomResizedCrop(scale=(0.2, 0.4))
    image = photo()
    left, top, right, bottom = crop.box(*image.size, generator(1))
    part = image.crop((left, top, right, bottom))
    other = Image.new("RGB", image.size, (255, 0, 0))
    other.paste(part, (left, top))
    results = [crop.crop(one, Preprocessing(16), generator(1)) for one in (image, other)]
    np.testing.assert_array_equal(*results)


def test_crops_have_the_given_area_and_ratio() -> None:
    crop = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    source = generator()
    boxes = np.array([crop.box(400, 300, source) for _ in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = width * height / 120_000, np.log2(width / height)
    np.testing.assert_allclose([area.min(), area.max()], [0.2, 0.5], atol=0.02)
    np.testing.assert_allclose([ratio.min(), ratio.max()], [-1, 1], atol=0.1)
    assert abs(area.mean() - 0.35) < 0.02
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (400, 300)).all()


def test_a_crop_of_an_extreme_image_is_central() -> None:
    left, top, right, bottom = RandomResizedCrop(scale=(1.0, 1.0)).box(1000, 10, generator())
    assert (top, bottom) == (0, 10)
    assert abs((left + right) / 2 - 500) <= 1
    assert abs((right - left) / 10 - 4 / 3) < 0.1


# Bytes are rounded after each of the two passes; the weights of the second, whose absolute values
# have a sum of up to 1.25 for bicubic interpolation, act on the error of the first.
@pytest.mark.parametrize(
    ("interpolation", "levels"), [("nearest", 0.01), ("bilinear", 1.01), ("bicubic", 1.13)]
)
def test_crops_of_bytes_and_floats_agree(interpolation: str, levels: float) -> None:
    image = photo()
    preprocessing = Preprocessing(32, interpolation=interpolation)
    crop = RandomResizedCrop(scale=(0.1, 0.2))
    for seed in range(5):
        of_bytes = crop.crop(image, preprocessing, generator(seed)).astype(np.float32) / 255
        of_floats = crop.crop(as_floats(image), preprocessing, generator(seed))
        assert np.abs(of_bytes - of_floats).max() <= levels / 255


def test_overshoot_of_crops_is_clipped() -> None:
    edge = np.zeros((8, 8, 3), np.float32)
    edge[:, 4:] = 1
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    cropped = crop.crop(edge, Preprocessing(32, interpolation="bicubic"), generator())
    assert cropped.min() == 0
    assert cropped.max() == 1


def test_mixup_is_a_weighted_mean() -> None:
    pixels = np.stack([noise(seed=0), noise(seed=1)])
    targets = np.eye(2, dtype=np.float32)
    mixed, mixed_targets = MixUp().apply(pixels, targets, Fixed(0.25))  # type: ignore[arg-type]
    np.testing.assert_allclose(mixed[0], 0.25 * pixels[0] + 0.75 * pixels[1], rtol=1e-6)
    np.testing.assert_allclose(mixed_targets, [[0.25, 0.75], [0.75, 0.25]])


@given(alpha=st.floats(0.05, 5), seed=st.integers(0, 1000), number=st.integers(1, 6))
def test_mixing_is_a_mean_with_other_images(alpha: float, seed: int, number: int) -> None:
    pixels = generator(seed).random((number, 6, 5, 3), np.float32)
    targets = np.eye(number, dtype=np.float32)
    before = pixels.copy()
    for mixing in (MixUp(alpha), CutMix(alpha)):
        mixed, mixed_targets = mixing.apply(pixels, targets, generator(seed))
        again, _ = mixing.apply(pixels, targets, generator(seed))
        np.testing.assert_array_equal(mixed, again)
        assert mixed.dtype == mixed_targets.dtype == np.float32
        np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, rtol=1e-5)
        # Every image is a partner once.
        np.testing.assert_allclose(mixed.sum(axis=0), pixels.sum(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mixed_targets.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(targets, np.eye(number))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_factors_of_mixup_have_a_beta_distribution(alpha: float) -> None:
    pixels = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
    source = generator()
    mixed = [MixUp(alpha).apply(pixels, np.eye(2, dtype=np.float32), source) for _ in range(4000)]
    # Those with the other image as partner.
    factors = np.array([targets[0, 0] for _, targets in mixed if targets[0, 0] < 1])
    if alpha >= 1:
        assert abs(factors.size - 2000) < 150
    assert abs(factors.mean() - 0.5) < 0.05
    assert abs(factors.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()], ids=name)
def test_mixing_needs_targets_for_all_images(mixing: MixUp | CutMix) -> None:
    with pytest.raises(ShapeError, match="3 images but 2 rows of targets"):
        mixing.apply(np.zeros((3, 4, 4, 3), np.float32), np.eye(2, dtype=np.float32), generator())


@pytest.mark.parametrize(("y", "x"), [(10, 15), (0, 0)])
def test_cutmix_mixes_targets_by_area(y: int, x: int) -> None:
    pixels = np.stack([np.zeros((20, 30, 3), np.float32), np.ones((20, 30, 3), np.float32)])
    mixed, targets = CutMix().apply(
        pixels,
        np.eye(2, dtype=np.float32),
        Fixed(0.75, y, x),  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(targets[0, 1], mixed[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed[0] + mixed[1], 1)
    whole = 0.25 if (y, x) == (10, 15) else 0.25 / 4
    assert math.isclose(mixed[0].mean(), whole, abs_tol=0.03)


def _stream(stage: AugmentationStage | None, **parameters: Any) -> list[Any]:
    images = [(noise(40, 50, seed) * 255).astype(np.uint8) for seed in range(7)]
    return list(
        stream_batches(images, Preprocessing(32), batch_size=3, augment=stage, **parameters)
    )


@pytest.mark.parametrize("threads", [1, 5])
def test_pixels_do_not_depend_on_threads_or_order(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = AugmentationStage((RandomResizedCrop(), HorizontalFlip(), Hue()), seed=5, epoch=2)
    expected = np.concatenate([batch.pixels for batch in _stream(stage)])
    monkeypatch.setattr("transferkit.images.stream._available_cores", lambda: threads)
    order = [4, 0, 0, 6]
    batches = _stream(stage, order=order)
    assert [index for batch in batches for index in batch.indices] == order
    pixels = np.concatenate([batch.pixels for batch in batches])
    np.testing.assert_array_equal(pixels, expected[order])
    other = AugmentationStage(stage.augmentations, seed=5, epoch=3)
    assert not np.array_equal(_stream(other)[0].pixels, expected[:3])


def test_pixels_are_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = AugmentationStage(ALL[:8] + ALL[9:], seed=1, epoch=0)
    runs = []
    for threads in (1, 8, 8, 3):
        monkeypatch.setattr(
            "transferkit.images.stream._available_cores", lambda threads=threads: threads
        )
        runs.append(np.concatenate([batch.pixels for batch in _stream(stage)]))
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_random_numbers_depend_on_seed_epoch_and_position() -> None:
    image = noise(32, 32)
    for numbers in ((0, 0, 0), (7, 0, 0), (0, 7, 0), (0, 0, 7)):
        seed, epoch, index = numbers
        stage = AugmentationStage((Erasing(probability=1.0), Hue()), seed=seed, epoch=epoch)
        source = np.random.default_rng(numbers)
        expected = Hue().apply(Erasing(probability=1.0).apply(image, source), source)
        np.testing.assert_array_equal(stage.apply(image, Preprocessing(32), index), expected)


def test_skipped_images_do_not_change_others(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"not an image")
    for name_ in "ac":
        photo().save(tmp_path / f"{name_}.png")
    stage = AugmentationStage((RandomResizedCrop(),), seed=0, epoch=0)
    skipped: list[Skipped] = []
    (batch,) = stream_batches(
        tmp_path,
        Preprocessing(16),
        batch_size=4,
        on_error="skip",
        skipped=skipped,
        augment=stage,
        order=[2, 1, 0],
    )
    assert batch.indices == [2, 0]
    assert len(skipped) == 1
    for index, pixels in zip(batch.indices, batch.pixels, strict=True):
        np.testing.assert_array_equal(pixels, stage.apply(photo(), Preprocessing(16), index))


def test_a_list_of_augmentations_is_copied() -> None:
    flips: list[Augmentation] = [HorizontalFlip()]
    stage = AugmentationStage(flips, seed=0, epoch=0)  # type: ignore[arg-type]
    flips.clear()
    assert stage == AugmentationStage((HorizontalFlip(),), seed=0, epoch=0)


def test_a_crop_needs_a_size_in_the_stream() -> None:
    stage = AugmentationStage((RandomResizedCrop(),), seed=0, epoch=0)
    with pytest.raises(ParameterError, match="set a size"):
        list(stream_batches([noise()], Preprocessing(None), batch_size=1, augment=stage))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 7], "order has 7, but there are 7 images; expected positions from 0 to 6"),
        ([-1], "order has -1"),
        ([0.0, 1.0], r"order is \[0.0, 1.0\]; expected a sequence of integers"),
        ([True], "expected a sequence of integers"),
        ([[0, 1]], "expected a sequence of integers"),
    ],
)
def test_invalid_orders(order: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        _stream(None, order=order)


def test_without_a_crop_images_are_resized_as_usual() -> None:
    flipped = _stream(AugmentationStage((HorizontalFlip(1.0),), seed=0, epoch=0))
    for batch, plain in zip(flipped, _stream(None), strict=True):
        np.testing.assert_array_equal(batch.pixels, plain.pixels[:, :, ::-1])


def test_an_order_needs_a_sequence() -> None:
    images = (image for image in [np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(ParameterError, match="a generator, which can be read only once"):
        stream_batches(images, Preprocessing(4), batch_size=1, order=[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HorizontalFlip(1.5), r"probability is 1.5; expected a number in \[0, 1\]"),
        (lambda: Rotation(0), r"degrees is 0; expected a number in \(0, 180\]"),
        (lambda: Translation(2), r"fraction is 2"),
        (lambda: Hue(0.6), "shift is 0.6"),
        (lambda: VerticalFlip(-0.1), "probability is -0.1"),
        (lambda: Grayscale(math.nan), "probability is nan"),
        (lambda: Erasing(scale=(0.2, 1.1)), r"scale is \(0.2, 1.1\)"),
        (lambda: Erasing(ratio=[0.3, 3.3]), r"ratio is \[0.3, 3.3\]; expected a tuple"),
        (lambda: Erasing(probability=True), "probability is True"),
        (lambda: Blur(sigma=(0, 1)), r"sigma is \(0, 1\)"),
        (lambda: Blur(probability="1"), "probability is '1'"),
        (lambda: Contrast(math.inf), "strength is inf"),
        (lambda: Saturation(-0.5), "strength is -0.5"),
        (lambda: CutMix(-1.0), "alpha is -1.0"),
        (lambda: RandAugment(num_operations=0), "num_operations is 0"),
        (lambda: AugmentationStage((), -1, 0), "seed is -1"),
        (lambda: AugmentationStage((), 0, 0.5), "epoch is 0.5"),
        (lambda: AugmentationStage(Hue(), 0, 0), r"augmentations is Hue\(shift=0.1\); expected a"),
        (lambda: AugmentationStage((Hue(), MixUp()), 0, 0), r"augmentations\[1\] is MixUp"),
        (lambda: Brightness(-1), "strength is -1"),
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), r"scale is \(0.0, 1.0\); expected a tuple"),
        (lambda: RandomResizedCrop(ratio=(2.0, 1.0)), r"ratio is \(2.0, 1.0\)"),
        (lambda: MixUp(0), "alpha is 0"),
        (lambda: RandAugment(magnitude=31), "magnitude is 31"),
        (
            lambda: AugmentationStage((Hue(), RandomResizedCrop()), 0, 0),
            "RandomResizedCrop is augmentation 1; it must be the first",
        ),
        (
            lambda: RandomResizedCrop().crop(noise(), Preprocessing(None), generator()),
            "the preprocessing has size=None; set a size",
        ),
    ],
)
def test_invalid_values(make: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()
