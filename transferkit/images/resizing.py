"""Resizing of float images with Pillow's filters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["INTERPOLATIONS", "resize"]

INTERPOLATIONS: Mapping[str, Image.Resampling] = MappingProxyType(
    {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
)
"""The name of each interpolation to Pillow's filter. Pillow applies antialiasing in all but the
first when it makes an image smaller."""


def resize(
    images: npt.NDArray[np.float32], size: tuple[int, int], interpolation: str = "bilinear"
) -> npt.NDArray[np.float32]:
    """Resize a batch of float images without losing precision to 8 bits.

    Parameters
    ----------
    images
        (n, h, w, c), float32.
    size
        The new height and width in pixels.
    interpolation
        A key of `INTERPOLATIONS`.

    Returns
    -------
    array
        (n, *size, c), float32; ``images`` itself if they have this size already. Not clipped:
        bicubic interpolation overshoots at edges.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.resizing import resize
    >>> images = np.zeros((2, 30, 40, 3), np.float32)
    >>> resize(images, (15, 20)).shape
    (2, 15, 20, 3)
    """
    if images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, images.shape[3]), np.float32)
    for index, image in enumerate(images):
        for channel in range(images.shape[3]):
            # Pillow resizes floats with one channel only: mode "F", which keeps float32.
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            plane = plane.resize((size[1], size[0]), INTERPOLATIONS[interpolation])
            resized[index, ..., channel] = np.asarray(plane)
    return resized
