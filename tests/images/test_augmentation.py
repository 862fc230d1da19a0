"""Augmentations: known answers, ranges, determinism, and their stage in the stream."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from transferkit.errors import ParameterError
from transferkit.images import Preprocessing, stream_batches
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


def name(augmentation: Augmentation) -> str:
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


def test_crops_of_bytes_and_floats_agree() -> None:
    image = Image.fromarray((noise(60, 80) * 255).astype(np.uint8))
    floats = np.asarray(image, np.float32) / 255
    preprocessing = Preprocessing(32)
    crop = RandomResizedCrop(scale=(0.35, 1.0))
    of_bytes = crop.crop(image, preprocessing, generator(3)).astype(np.float32) / 255
    of_floats = crop.crop(floats, preprocessing, generator(3))
    assert np.abs(of_bytes - of_floats).max() <= 1.01 / 255


def test_mixup_is_a_weighted_mean() -> None:
    pixels = np.stack([noise(seed=0), noise(seed=1)])
    targets = np.eye(2, dtype=np.float32)
    mixed, mixed_targets = MixUp().apply(pixels, targets, Fixed(0.25))  # type: ignore[arg-type]
    np.testing.assert_allclose(mixed[0], 0.25 * pixels[0] + 0.75 * pixels[1], rtol=1e-6)
    np.testing.assert_allclose(mixed_targets, [[0.25, 0.75], [0.75, 0.25]])


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
