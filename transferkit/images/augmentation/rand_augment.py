"""RandAugment: random operations of one common magnitude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from transferkit.images.augmentation.base import Augmentation
from transferkit.images.conversion import to_float32, to_uint8
from transferkit.support.validation import check_integer

__all__ = ["RandAugment"]

Floats: TypeAlias = npt.NDArray[np.float32]
_Operation: TypeAlias = Callable[[Image.Image], Image.Image]

_MAX_MAGNITUDE = 30
# At the largest magnitude, as in the paper's search space for ImageNet.
_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 150 / 331
_MAX_ENHANCEMENT = 0.9
_MAX_BITS_REMOVED = 4


@dataclass(frozen=True)
class RandAugment(Augmentation):
    """Several operations in a row, each drawn from 14 with equal probability.

    The operations are identity, automatic contrast, equalization, rotation, solarization, color,
    posterization, contrast, brightness, sharpness, and shear and translation along each axis
    (Cubuk et al., 2020, "RandAugment: Practical automated data augmentation with a reduced search
    space", section 3). Those with a direction have a random sign. Magnitudes are those of
    torchvision's ``RandAugment``: at 30, rotation is by 30 degrees, shear by 0.3, translation by
    150 / 331 of the side, and the factors of color, contrast, brightness and sharpness are 0.1 or
    1.9. Operations work on 8 bits per channel; pixels from outside of the image have its mean
    color.

    Parameters
    ----------
    num_operations
        At least 1.
    magnitude
        From 0 to 30.

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import RandAugment
    >>> image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    >>> RandAugment(magnitude=5).apply(image, np.random.default_rng(0)).shape
    (8, 8, 3)
    """

    num_operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        check_integer("num_operations", self.num_operations, 1)
        check_integer("magnitude", self.magnitude, 0, _MAX_MAGNITUDE)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image after the operations; see `Augmentation.apply`."""
        image = Image.fromarray(to_uint8(pixels))
        for _ in range(self.num_operations):
            sign = 1.0 if generator.random() < 0.5 else -1.0
            operations = _operations(image, self.magnitude / _MAX_MAGNITUDE, sign)
            image = operations[int(generator.integers(len(operations)))](image)
        result = np.empty(pixels.shape, np.float32)
        to_float32(np.asarray(image, np.uint8), out=result)
        return result


def _operations(image: Image.Image, level: float, sign: float) -> list[_Operation]:
    """Return all operations at a level in [0, 1]."""
    width, height = image.size
    shear, shift = sign * level * _MAX_SHEAR, sign * level * _MAX_TRANSLATION
    factor = 1 + sign * level * _MAX_ENHANCEMENT
    return [
        lambda unchanged: unchanged,
        ImageOps.autocontrast,
        ImageOps.equalize,
        partial(_rotate, degrees=sign * level * _MAX_DEGREES),
        partial(ImageOps.solarize, threshold=round(256 * (1 - level))),
        partial(_enhance, ImageEnhance.Color, factor),
        partial(ImageOps.posterize, bits=8 - round(level * _MAX_BITS_REMOVED)),
        partial(_enhance, ImageEnhance.Contrast, factor),
        partial(_enhance, ImageEnhance.Brightness, factor),
        partial(_enhance, ImageEnhance.Sharpness, factor),
        partial(_affine, coefficients=(1, shear, -shear * height / 2, 0, 1, 0)),
        partial(_affine, coefficients=(1, 0, 0, shear, 1, -shear * width / 2)),
        partial(_affine, coefficients=(1, 0, shift * width, 0, 1, 0)),
        partial(_affine, coefficients=(1, 0, 0, 0, 1, shift * height)),
    ]


def _enhance(
    enhancer: Callable[[Image.Image], ImageEnhance._Enhance], factor: float, image: Image.Image
) -> Image.Image:
    return enhancer(image).enhance(factor)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_mean_color(image))


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=_mean_color(image),
    )


def _mean_color(image: Image.Image) -> tuple[int, int, int]:
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()
    return red, green, blue
