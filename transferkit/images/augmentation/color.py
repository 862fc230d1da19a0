"""Random changes of color and sharpness, with the formulas of torchvision's ``ColorJitter``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from transferkit.errors import ParameterError, shorten
from transferkit.images.augmentation.base import Augmentation, check_interval, check_probability
from transferkit.support.validation import check_non_negative, is_number

__all__ = ["Blur", "Brightness", "Contrast", "Grayscale", "Hue", "Saturation"]

Floats: TypeAlias = npt.NDArray[np.float32]

# The luma of ITU-R BT.601, rounded as in Pillow.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_MAX_SIGMA = 100.0


@dataclass(frozen=True)
class Brightness(Augmentation):
    """Multiplication by a factor that is uniform in [1 - strength, 1 + strength].

    Parameters
    ----------
    strength
        At least 0. Factors below 0 count as 0.
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        check_non_negative("strength", self.strength)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the brighter or darker image; see `Augmentation.apply`."""
        return _blend(pixels, np.float32(0), _factor(self.strength, generator))


@dataclass(frozen=True)
class Contrast(Augmentation):
    """Extrapolation from the mean luminance of the image, by a factor as for `Brightness`.

    Parameters
    ----------
    strength
        At least 0.
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        check_non_negative("strength", self.strength)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image with more or less contrast; see `Augmentation.apply`."""
        mean = np.float32((pixels @ _LUMA).mean(dtype=np.float64))
        return _blend(pixels, mean, _factor(self.strength, generator))


@dataclass(frozen=True)
class Saturation(Augmentation):
    """Extrapolation from the gray image, by a factor as for `Brightness`.

    Parameters
    ----------
    strength
        At least 0.
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        check_non_negative("strength", self.strength)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image with more or less saturation; see `Augmentation.apply`."""
        return _blend(pixels, (pixels @ _LUMA)[..., None], _factor(self.strength, generator))


@dataclass(frozen=True)
class Hue(Augmentation):
    """A shift of the hue that is uniform in [-shift, shift].

    Parameters
    ----------
    shift
        As a fraction of the circle of hues, in [0, 0.5].
    """

    shift: float = 0.1

    def __post_init__(self) -> None:
        if not is_number(self.shift) or not 0 <= self.shift <= 0.5:
            raise ParameterError(f"shift is {shorten(self.shift)}; expected a number in [0, 0.5]")

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image with other hues; see `Augmentation.apply`."""
        return _shift_hue(pixels, generator.uniform(-self.shift, self.shift))


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """Replacement of all channels by the luminance.

    Parameters
    ----------
    probability
        In [0, 1].
    """

    probability: float = 0.1

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image, in color or in gray; see `Augmentation.apply`."""
        if generator.random() >= self.probability:
            return pixels
        gray: Floats = np.repeat((pixels @ _LUMA)[..., None], 3, axis=-1)
        return np.minimum(gray, np.float32(1))


@dataclass(frozen=True)
class Blur(Augmentation):
    """A Gaussian blur whose standard deviation is uniform in ``sigma``.

    Parameters
    ----------
    sigma
        The smallest and the largest standard deviation, in pixels, greater than 0.
    probability
        In [0, 1].
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_interval("sigma", self.sigma, low=0, high=_MAX_SIGMA, open_at_low=True)
        check_probability("probability", self.probability)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image, blurred or not; see `Augmentation.apply`."""
        if generator.random() >= self.probability:
            return pixels
        sigma = generator.uniform(*self.sigma)
        blurred: Floats = ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="mirror")
        return np.clip(blurred, 0, 1)


def _factor(strength: float, generator: np.random.Generator) -> np.float32:
    return np.float32(generator.uniform(max(0.0, 1 - strength), 1 + strength))


def _blend(pixels: Floats, other: Floats | np.float32, factor: np.float32) -> Floats:
    """Return ``factor * pixels + (1 - factor) * other``, clipped to [0, 1]."""
    blended: Floats = np.clip(factor * pixels + (np.float32(1) - factor) * other, 0, 1)
    return blended


def _shift_hue(pixels: Floats, shift: float) -> Floats:
    """Return an image whose hues in HSV are shifted by a fraction of the circle."""
    value = pixels.max(axis=-1)
    chroma = value - pixels.min(axis=-1)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    divisor = np.where(chroma > 0, chroma, 1)
    # In sixths of the circle.
    hue = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * shift
    # Each channel is a trapezoid over the hue, with its maximum around its own color.
    channels = [
        value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1)
        for k in ((offset + hue) % 6 for offset in (5, 3, 1))
    ]
    shifted: Floats = np.clip(np.stack(channels, axis=-1), 0, 1).astype(np.float32)
    return shifted
