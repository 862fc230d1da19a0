"""Conversion of images with a color profile (ICC) to sRGB, the color space of the networks."""

from __future__ import annotations

import functools
import io
from typing import cast

import numpy as np
from PIL import Image, ImageCms

__all__ = ["to_srgb"]

# Profiles of printers, with tables for CMYK, take up to 3 MB.
_MAX_PROFILE = 4 << 20

# The modes of images that a profile of each color space describes; images of the other modes are
# converted to the first one before.
_MODES = {
    "RGB ": ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"),
    "GRAY": ("L", "LA", "La", "1", "I", "I;16", "I;16L", "I;16B", "I;16N"),
    "CMYK": ("CMYK",),
}

# Profiles of sRGB by different makers differ by up to this number of the 256 levels. Adobe RGB
# and Display P3 differ by more than 60.
_SAME = 8


def to_srgb(image: Image.Image, mode: str, profile: object) -> Image.Image:
    """Convert a decoded image from the color space of its profile to sRGB.

    Parameters
    ----------
    image
        Of mode RGB, with equal channels if the original was gray; or CMYK.
    mode
        The mode of the original image.
    profile
        The content of the ICC profile, if there is one.

    Returns
    -------
    image
        RGB; the given object if there is no profile, if it is one of sRGB, for another kind of
        image, or invalid.

    Examples
    --------
    >>> from PIL import Image
    >>> from transferkit.images.color_profiles import to_srgb
    >>> image = Image.new("RGB", (8, 8))
    >>> to_srgb(image, "RGB", b"not a profile") is image
    True
    """
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_PROFILE:
        return image
    # The header states the color space: the profile of a CMYK image may be left from before its
    # conversion to RGB.
    space = profile[16:20].decode("latin-1")
    if mode not in _MODES.get(space, ()):
        return image
    transform = _transform(profile, space)
    if transform is None:
        return image
    if space == "GRAY":
        image = image.getchannel(0)
    # The result is None only for a conversion in place.
    return cast("Image.Image", ImageCms.applyTransform(image, transform))


# A folder of images has few profiles. Transforms can be used by several threads.
@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile to sRGB; None if it changes nothing or is invalid."""
    mode = "L" if space == "GRAY" else space.strip()
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        # As for invalid EXIF data, the image can still be read.
        return None
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    colors = Image.fromarray(grid if mode == "RGB" else np.ascontiguousarray(grid[..., 0]))
    after = ImageCms.applyTransform(colors, transform)
    changes = np.abs(np.asarray(after, np.int16) - np.asarray(colors.convert("RGB"), np.int16))
    return transform if changes.max() > _SAME else None
