"""Random flips, rotations and translations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import ParameterError, shorten
from transferkit.images.augmentation.base import Augmentation, check_probability
from transferkit.support.validation import is_number

__all__ = ["HorizontalFlip", "Rotation", "Translation", "VerticalFlip"]

Floats: TypeAlias = npt.NDArray[np.float32]

_MAX_DEGREES = 180


@dataclass(frozen=True)
class HorizontalFlip(Augmentation):
    """Exchange of left and right.

    ``result[y, x] = pixels[y, width - 1 - x]`` (Krizhevsky et al., 2012, "ImageNet Classification
    with Deep Convolutional Neural Networks", section 4.1).

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
    >>> from transferkit.images.augmentation import HorizontalFlip
    >>> image = np.float32([[[0.0], [1.0]]]).repeat(3, axis=2)
    >>> flipped = HorizontalFlip(probability=1.0).apply(image, np.random.default_rng(0))
    >>> flipped[0, :, 0].tolist()
    [1.0, 0.0]
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image, mirrored or not; see `Augmentation.apply`."""
        return pixels[:, ::-1] if generator.random() < self.probability else pixels


@dataclass(frozen=True)
class VerticalFlip(Augmentation):
    """Exchange of top and bottom, for images without an upright direction.

    ``result[y, x] = pixels[height - 1 - y, x]``, as in torchvision.

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
    >>> from transferkit.images.augmentation import VerticalFlip
    >>> image = np.float32([[[0.0]], [[1.0]]]).repeat(3, axis=2)
    >>> flipped = VerticalFlip(probability=1.0).apply(image, np.random.default_rng(0))
    >>> flipped[:, 0, 0].tolist()
    [1.0, 0.0]
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image, upside down or not; see `Augmentation.apply`."""
        return pixels[::-1] if generator.random() < self.probability else pixels


@dataclass(frozen=True)
class Rotation(Augmentation):
    """Rotation around the center by a random angle, with bilinear interpolation.

    The angle is uniform in [-degrees, degrees], as in torchvision's ``RandomRotation``. Pixels from
    outside of the image have the values of its edge.

    Parameters
    ----------
    degrees
        The largest angle in either direction, in (0, 180].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Rotation
    >>> image = np.full((4, 4, 3), 0.5, np.float32)
    >>> rotated = Rotation(degrees=30).apply(image, np.random.default_rng(0))
    >>> bool(np.allclose(rotated, 0.5))
    True
    """

    degrees: float = 15.0

    def __post_init__(self) -> None:
        if not is_number(self.degrees) or not 0 < self.degrees <= _MAX_DEGREES:
            raise ParameterError(
                f"degrees is {shorten(self.degrees)}; expected a number in (0, {_MAX_DEGREES}]"
            )

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the rotated image; see `Augmentation.apply`."""
        angle = math.radians(generator.uniform(-self.degrees, self.degrees))
        cosine, sine = math.cos(angle), math.sin(angle)
        # Of a position in the result, the position in the image.
        matrix = np.array([[cosine, -sine], [sine, cosine]])
        center = (np.array(pixels.shape[:2]) - 1) / 2
        return _transform(pixels, matrix, center - matrix @ center)


@dataclass(frozen=True)
class Translation(Augmentation):
    """Translation by a random distance, with bilinear interpolation.

    The distance along each axis is uniform in [-fraction, fraction] times the side, as for
    ``translate`` in torchvision's ``RandomAffine``. Pixels from outside of the image have the
    values of its edge.

    Parameters
    ----------
    fraction
        The largest distance in each direction, as a fraction of the height or width, in (0, 1].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Translation
    >>> image = np.full((4, 4, 3), 0.5, np.float32)
    >>> moved = Translation(fraction=0.25).apply(image, np.random.default_rng(0))
    >>> bool(np.allclose(moved, 0.5))
    True
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        if not is_number(self.fraction) or not 0 < self.fraction <= 1:
            raise ParameterError(
                f"fraction is {shorten(self.fraction)}; expected a number in (0, 1]"
            )

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the translated image; see `Augmentation.apply`."""
        shift = generator.uniform(-self.fraction, self.fraction, 2) * pixels.shape[:2]
        return _transform(pixels, np.eye(2), shift)


def _transform(
    pixels: Floats, matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64]
) -> Floats:
    from scipy import ndimage

    channels = [
        ndimage.affine_transform(pixels[..., channel], matrix, offset, order=1, mode="nearest")
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)
