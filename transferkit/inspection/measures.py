"""What is measured of one decoded image: size, brightness, color, sharpness, and a small copy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from transferkit.inspection.alignment import SIDE

__all__ = ["Measures", "measure_blur", "measure_image"]

# The longer side of the copy of which colors and sharpness are measured.
_MEASURED = 256
# The other pixels may be lighter or darker, such as the eyes of an animal.
_DARK_QUANTILE, _BRIGHT_QUANTILE, _CHROMA_QUANTILE = 0.95, 0.05, 0.99
# The length of the mean in `measure_blur`, from the paper.
_BLUR_LENGTH = 9


class Measures(NamedTuple):
    """What is measured of an image.

    Attributes
    ----------
    width, height
        In pixels, upright.
    dark
        The luminance that 95% of the pixels do not exceed, in [0, 1].
    bright
        The luminance that 95% of the pixels reach, in [0, 1].
    contrast
        The standard deviation of the luminance, in [0, 0.5].
    chroma
        The difference between the largest and the smallest channel that 99% of the pixels do not
        exceed, in [0, 1]; 0 for gray.
    blur
        See `measure_blur`.
    color
        The means of Cb, of Cr and of their distance from gray, in [-0.5, 0.5] and [0, 0.71].
    """

    width: int
    height: int
    dark: float
    bright: float
    contrast: float
    chroma: float
    blur: float
    color: tuple[float, float, float]


def measure_image(
    image: Image.Image | npt.NDArray[np.float32],
) -> tuple[Measures, npt.NDArray[np.uint8]]:
    """Return the measures of an image, and its small gray copy.

    Parameters
    ----------
    image
        As `transferkit.images.read_image` returns it.

    Returns
    -------
    measures
        Of a copy whose longer side has at most 256 pixels.
    copy
        (64, 64) uint8, the whole image stretched to a square.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.inspection.measures import measure_image
    >>> measures, copy = measure_image(np.full((100, 200, 3), 0.5, np.float32))
    >>> measures.width, measures.height, measures.contrast, copy.shape
    (200, 100, 0.0, (64, 64))
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.rint(255 * image).astype(np.uint8))
    width, height = image.size
    factor = -(-max(width, height) // _MEASURED)
    # Means of squares of pixels. A narrow image keeps at least one row.
    small = image.reduce((min(factor, width), min(factor, height))) if factor > 1 else image
    gray = small.convert("L")
    luminance = gray.histogram()
    copy, *chroma = np.moveaxis(
        np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("YCbCr")), 2, 0
    )
    blue, red = (np.asarray(channel, np.float32) / 255 - 128 / 255 for channel in chroma)
    measures = Measures(
        width,
        height,
        dark=_quantile(luminance, _DARK_QUANTILE),
        bright=_quantile(luminance, _BRIGHT_QUANTILE),
        contrast=_deviation(luminance),
        chroma=_quantile(_chroma(small).histogram(), _CHROMA_QUANTILE),
        blur=measure_blur(np.asarray(gray)),
        color=(float(blue.mean()), float(red.mean()), float(np.hypot(blue, red).mean())),
    )
    return measures, copy


def _chroma(image: Image.Image) -> Image.Image:
    """Return the difference between the largest and the smallest channel of each pixel."""
    red, green, blue = image.split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    smallest = ImageChops.darker(ImageChops.darker(red, green), blue)
    return ImageChops.subtract(largest, smallest)


def _quantile(histogram: list[int], fraction: float) -> float:
    """Return the smallest value, of 256 in [0, 1], that is not exceeded by a fraction of all."""
    counts = np.cumsum(histogram)
    return float(np.searchsorted(counts, fraction * counts[-1]) / 255)


def _deviation(histogram: list[int]) -> float:
    """Return the standard deviation of values, of 256 in [0, 1]."""
    values = np.arange(256) / 255
    mean = np.average(values, weights=histogram)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=histogram)))


def measure_blur(luminance: npt.NDArray[np.uint8]) -> float:
    """Return how blurred an image is: how little it is changed by blurring it once more.

    Parameters
    ----------
    luminance
        (h, w) uint8.

    Returns
    -------
    float
        In [0, 1]: 0 for pixels that are independent of each other, 1 for an image that is so
        smooth that a blur has no effect, and for one without any structure.

    Notes
    -----
    The measure of Crete, Dolmiere, Ladret and Nicolas, "The blur effect: perception and estimation
    with a new no-reference perceptual blur metric" (2007), for both axes together: with the
    differences of neighbors ``d``, and those after a mean over 9 pixels ``e``, it is
    ``1 - sum(max(0, |d| - |e|)) / sum(|d|)``.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.inspection.measures import measure_blur
    >>> noise = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    >>> slope = np.tile(np.arange(90, dtype=np.uint8), (90, 1))
    >>> measure_blur(noise) < 0.2, measure_blur(slope) > 0.9
    (True, True)
    """
    kept, total = np.add(_differences(luminance), _differences(luminance.T))
    return 1.0 - float(kept / total) if total else 1.0


def _differences(luminance: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Return the sum of the differences that a blur along the rows removes, and that of all."""
    pixels = luminance.astype(np.float32)
    half = _BLUR_LENGTH // 2
    sums = np.cumsum(np.pad(pixels, ((0, 0), (half + 1, half)), mode="edge"), axis=1)
    mean = (sums[:, _BLUR_LENGTH:] - sums[:, :-_BLUR_LENGTH]) / _BLUR_LENGTH
    before = np.abs(np.diff(pixels, axis=1))
    after = np.abs(np.diff(mean, axis=1))
    return float(np.maximum(before - after, 0).sum()), float(before.sum())
