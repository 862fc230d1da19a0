"""Augmentations and torchvision's transforms, on the same images with the same parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import InterpolationMode, autoaugment
from torchvision.transforms import functional as F  # noqa: N812

from transferkit.images import Preprocessing
from transferkit.images.augmentation import (
    Augmentation,
    Blur,
    Brightness,
    Contrast,
    Erasing,
    Grayscale,
    Hue,
    RandAugment,
    RandomResizedCrop,
    Rotation,
    Saturation,
)

Floats = npt.NDArray[np.float32]


class Fixed:
    """A generator whose numbers are given."""

    def __init__(self, *numbers: float, first: float = 0.0) -> None:
        self._numbers = list(numbers)
        self._first = first

    def uniform(self, *_: Any) -> float:
        return self._numbers.pop(0)

    def random(self, *_: Any) -> float:
        return self._first

    def integers(self, *_: Any) -> int:
        return int(self._numbers.pop(0))


def _noise(height: int = 40, width: int = 50) -> Floats:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def _photo(width: int = 331, height: int = 331) -> Image.Image:
    coarse = Image.fromarray((_noise(9, 12) * 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _tensor(image: Floats) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def _array(tensor: torch.Tensor) -> Floats:
    return tensor.numpy().transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("augmentation", "function", "values"),
    [
        (Brightness(), F.adjust_brightness, (0.0, 0.6, 1.4)),
        (Contrast(), F.adjust_contrast, (0.0, 0.6, 1.4)),
        (Saturation(), F.adjust_saturation, (0.0, 0.6, 1.4)),
        (Hue(), F.adjust_hue, (-0.5, -0.1, 0.0, 0.3)),
    ],
)
def test_changes_of_color(
    augmentation: Augmentation,
    function: Callable[[torch.Tensor, float], torch.Tensor],
    values: tuple[float, ...],
) -> None:
    image = _noise()
    for value in values:
        result = augmentation.apply(image, Fixed(value))  # type: ignore[arg-type]
        # torchvision's weight of red is 0.2989 for tensors, and 0.299, as here, for PIL images.
        np.testing.assert_allclose(result, _array(function(_tensor(image), value)), atol=1.1e-4)


def test_gray_images() -> None:
    expected = _array(F.rgb_to_grayscale(_tensor(_noise()), 3))
    gray = Grayscale(1.0).apply(_noise(), np.random.default_rng(0))
    np.testing.assert_allclose(gray, expected, atol=1.1e-4)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_blur(sigma: float) -> None:
    blurred = Blur((sigma, sigma), 1.0).apply(_noise(), np.random.default_rng(0))
    side = 2 * math.ceil(4 * sigma) + 1
    expected = F.gaussian_blur(_tensor(_noise()), [side, side], [sigma, sigma])
    np.testing.assert_allclose(blurred, _array(expected), atol=1e-5)


@pytest.mark.parametrize("degrees", [-100.0, 12.5])
def test_rotations(degrees: float) -> None:
    image = _noise()
    rotated = Rotation(180).apply(image, Fixed(degrees))  # type: ignore[arg-type]
    # Clockwise here. Pixels that are influenced by the outside are left out.
    planes = torch.cat([_tensor(image), torch.ones(1, *image.shape[:2])])
    expected = _array(F.rotate(planes, -degrees, InterpolationMode.BILINEAR))
    inside = expected[..., 3] > 1 - 1e-6
    assert inside.mean() > 0.5
    np.testing.assert_allclose(rotated[inside], expected[inside][:, :3], atol=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops(interpolation: str) -> None:
    image = _photo(500, 375)
    mode = InterpolationMode(interpolation)
    for seed in range(10):
        crop = RandomResizedCrop()
        left, top, right, bottom = crop.box(500, 375, np.random.default_rng(seed))
        expected = F.resized_crop(
            image, top, left, bottom - top, right - left, [224, 224], mode, antialias=True
        )
        preprocessing = Preprocessing(224, interpolation=interpolation)
        cropped = crop.crop(image, preprocessing, np.random.default_rng(seed))
        np.testing.assert_array_equal(cropped, np.asarray(expected))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (300, 900)])
def test_distributions_of_crops(width: int, height: int, scale: tuple[float, float]) -> None:
    ratio = (3 / 4, 4 / 3)
    planes = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = [
            transforms.RandomResizedCrop.get_params(planes, list(scale), list(ratio))
            for _ in range(2000)
        ]
    top, left, h, w = np.array(rows).T
    expected = np.stack([left, top, left + w, top + h], axis=1)
    source = np.random.default_rng(0)
    crop = RandomResizedCrop(scale, ratio)
    boxes = np.array([crop.box(width, height, source) for _ in range(2000)])
    for ours, theirs in zip(boxes.T, expected.T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


def test_distributions_of_erased_rectangles() -> None:
    shape = (60, 80)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = [
            transforms.RandomErasing.get_params(
                torch.empty(3, *shape), (0.02, 0.33), (0.3, 3.3), [0.0]
            )[:4]
            for _ in range(1000)
        ]
    source = np.random.default_rng(0)
    image = np.full((*shape, 3), 2, np.float32)
    found = []
    for _ in range(1000):
        erased = Erasing(probability=1.0).apply(image, source)
        y, x = np.nonzero(erased[..., 0] < 2)
        found.append((y.min(), x.min(), np.ptp(y) + 1, np.ptp(x) + 1))
    for ours, theirs in zip(np.array(found).T, np.array(rows).T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


# In the order of RandAugment's operations; the translation of torchvision has the other sign.
_OPERATIONS = (
    ("Identity", 1),
    ("AutoContrast", 1),
    ("Equalize", 1),
    ("Rotate", 1),
    ("Solarize", 1),
    ("Color", 1),
    ("Posterize", 1),
    ("Contrast", 1),
    ("Brightness", 1),
    ("Sharpness", 1),
    ("TranslateX", -1),
    ("TranslateY", -1),
)
# Between them are the two directions of shear.
_POSITIONS = (*range(10), 12, 13)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [9, 15, 21])
def test_operations_of_rand_augment(magnitude: int, sign: int) -> None:
    image = _photo()
    mean = np.rint(np.asarray(image).mean(axis=(0, 1))).tolist()
    space = autoaugment.RandAugment()._augmentation_space(31, (331, 331))
    for position, (name, direction) in zip(_POSITIONS, _OPERATIONS, strict=True):
        magnitudes, is_signed = space[name]
        value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
        value *= sign * direction if is_signed else 1
        expected = autoaugment._apply_op(image, name, value, InterpolationMode.BILINEAR, mean)
        result = RandAugment(1, magnitude).apply(
            np.asarray(image, np.float32) / np.float32(255),
            Fixed(position, first=0.0 if sign > 0 else 0.9),  # type: ignore[arg-type]
        )
        levels = np.rint(result * 255).astype(np.int64)
        # Pillow rounds interpolated pixels down, so a rounding error of a position is a level.
        difference = np.abs(levels - np.asarray(expected, np.int64))
        assert difference.max() <= 1, name


@pytest.mark.parametrize(("position", "axis"), [(10, 0), (11, 1)])
def test_shear_of_rand_augment(position: int, axis: int) -> None:
    image = _photo()
    mean = np.rint(np.asarray(image).mean(axis=(0, 1))).tolist()
    shear = [0.0, 0.0]
    shear[axis] = math.degrees(math.atan(0.15))
    expected = F.affine(image, 0.0, [0, 0], 1.0, shear, InterpolationMode.BILINEAR, mean)
    result = RandAugment(1, 15).apply(
        np.asarray(image, np.float32) / np.float32(255),
        Fixed(position),  # type: ignore[arg-type]
    )
    levels = np.rint(result * 255).astype(np.int64)
    assert np.abs(levels - np.asarray(expected, np.int64)).max() <= 1
