"""Random changes of color and sharpness, with the formulas of torchvision's ``ColorJitter``.

Brightness, contrast and saturation are the interpolations and extrapolations of Haeberli and
Voorhies (1994, "Image Processing by Interpolation and Extrapolation").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

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
    """Multiplication by a random factor.

    ``factor * pixels``, clipped to [0, 1], with a factor that is uniform in
    [max(0, 1 - strength), 1 + strength] (Haeberli and Voorhies, 1994; torchvision's
    ``ColorJitter(brightness=strength)``).

    Parameters
    ----------
    strength
        At least 0.

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Brightness
    >>> image = np.full((2, 2, 3), 0.5, np.float32)
    >>> brighter = Brightness(strength=0.4).apply(image, np.random.default_rng(0))
    >>> [round(value, 3) for value in brighter[0, 0].tolist()]
    [0.555, 0.555, 0.555]
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        check_non_negative("strength", self.strength)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the brighter or darker image; see `Augmentation.apply`."""
        return _blend(pixels, np.float32(0), _factor(self.strength, generator))


@dataclass(frozen=True)
class Contrast(Augmentation):
    """Interpolation or extrapolation from the mean luminance of the image.

    ``factor * pixels + (1 - factor) * mean``, clipped to [0, 1], with a factor as for `Brightness`
    and the mean of ``0.299 * red + 0.587 * green + 0.114 * blue`` (Haeberli and Voorhies, 1994;
    torchvision's ``ColorJitter(contrast=strength)``).

    Parameters
    ----------
    strength
        At least 0.

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Contrast
    >>> image = np.float32([[[0.4], [0.6]]]).repeat(3, axis=2)
    >>> result = Contrast(strength=0.4).apply(image, np.random.default_rng(0))
    >>> [round(value, 3) for value in result[0, :, 0].tolist()]
    [0.389, 0.611]
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
    """Interpolation or extrapolation from the gray image.

    ``factor * pixels + (1 - factor) * luminance``, clipped to [0, 1], with a factor as for
    `Brightness` and a luminance as for `Contrast` (Haeberli and Voorhies, 1994; torchvision's
    ``ColorJitter(saturation=strength)``).

    Parameters
    ----------
    strength
        At least 0.

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Saturation
    >>> gray = np.full((2, 2, 3), 0.5, np.float32)
    >>> result = Saturation(strength=0.4).apply(gray, np.random.default_rng(0))
    >>> bool(np.allclose(result, gray))
    True
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        check_non_negative("strength", self.strength)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image with more or less saturation; see `Augmentation.apply`."""
        return _blend(pixels, (pixels @ _LUMA)[..., None], _factor(self.strength, generator))


@dataclass(frozen=True)
class Hue(Augmentation):
    """Addition of a random number to the hue of all pixels.

    ``hue + number`` modulo 1 in the color space HSV (Smith, 1978, "Color Gamut Transform Pairs"),
    with a number that is uniform in [-shift, shift] (torchvision's ``ColorJitter(hue=shift)``).

    Parameters
    ----------
    shift
        As a fraction of the circle of hues, in [0, 0.5].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Hue
    >>> red = np.float32([[[1.0, 0.0, 0.0]]])
    >>> shifted = Hue(shift=0.1).apply(red, np.random.default_rng(0))
    >>> [round(value, 3) for value in shifted[0, 0].tolist()]
    [1.0, 0.164, 0.0]
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

    ``0.299 * red + 0.587 * green + 0.114 * blue``, the luma of ITU-R BT.601 (Chen et al., 2020, "A
    Simple Framework for Contrastive Learning of Visual Representations", appendix A; torchvision's
    ``RandomGrayscale``).

    Parameters
    ----------
    probability
        In [0, 1].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Grayscale
    >>> red = np.float32([[[1.0, 0.0, 0.0]]])
    >>> gray = Grayscale(probability=1.0).apply(red, np.random.default_rng(0))
    >>> [round(value, 3) for value in gray[0, 0].tolist()]
    [0.299, 0.299, 0.299]
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
    """Convolution with a Gaussian of random width.

    The weights are proportional to ``exp(-d**2 / (2 * s**2))`` at distances d up to 4 s, with a
    standard deviation s that is uniform in ``sigma``; the image is mirrored at its edges (Chen et
    al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations", appendix A).

    Parameters
    ----------
    sigma
        The smallest and the largest standard deviation, in pixels, in (0, 100].
    probability
        In [0, 1].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Blur
    >>> image = np.full((8, 8, 3), 0.5, np.float32)
    >>> blurred = Blur(probability=1.0).apply(image, np.random.default_rng(0))
    >>> bool(np.allclose(blurred, 0.5))
    True
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
        from scipy import ndimage

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
    # Contiguous planes, on which NumPy is several times faster.
    red, green, blue = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
    sector = np.where(is_red, np.float32(0), np.where(is_green, np.float32(2), np.float32(4)))
    hue = (difference / np.where(chroma > 0, chroma, np.float32(1)) + sector) / np.float32(6)
    hue += np.float32(shift)
    shifted = np.empty(pixels.shape, np.float32)
    # Each channel is a trapezoid over the hue, with its maximum around its own color.
    for channel, offset in enumerate((5, 3, 1)):
        sixths = hue + np.float32(offset / 6)
        # Not with %, which takes three times as long.
        sixths = (sixths - np.floor(sixths)) * np.float32(6)
        depth = np.clip(np.minimum(sixths, np.float32(4) - sixths), 0, 1)
        shifted[..., channel] = value - chroma * depth
    return np.clip(shifted, 0, 1, out=shifted)
