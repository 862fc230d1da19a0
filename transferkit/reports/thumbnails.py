"""Small copies of images as data URLs, which a page contains."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images import ImageLike, read_image

__all__ = ["Thumbnail", "make_thumbnails"]

_SIDE = 128
_QUALITY = 70


class Thumbnail(NamedTuple):
    """A small copy of an image.

    Attributes
    ----------
    url
        The image as a data URL; empty if it cannot be read.
    width, height
        Its size in pixels.
    """

    url: str
    width: int
    height: int


def make_thumbnails(images: Mapping[str, ImageLike], *, side: int = _SIDE) -> dict[str, Thumbnail]:
    """Return a thumbnail of each image.

    Parameters
    ----------
    images
        Name to image, as for `transferkit.images.read_image`.
    side
        The length of the longer side in pixels.

    Returns
    -------
    dict
        With the same names; the thumbnail of an image that cannot be read is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.reports import make_thumbnails
    >>> thumbnail = make_thumbnails({"a": np.zeros((300, 600, 3), np.uint8)})["a"]
    >>> thumbnail.width, thumbnail.height, thumbnail.url[:22]
    (128, 64, 'data:image/webp;base64')
    """
    with ThreadPoolExecutor() as executor:
        made = executor.map(_thumbnail, images, images.values(), [side] * len(images))
        return dict(zip(images, made, strict=True))


def _thumbnail(name: str, image: ImageLike, side: int) -> Thumbnail:
    try:
        read = read_image(image, name)
    except ImageError:
        return Thumbnail("", side, side)
    if not isinstance(read, Image.Image):
        read = Image.fromarray(np.rint(255 * read).astype(np.uint8))
    small = read.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/webp;base64,{encoded}", small.width, small.height)
