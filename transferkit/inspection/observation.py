"""What one pass over the files records about each image, beside its embedding."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.images import ImageLike
from transferkit.images.bit_depth import BitDepth
from transferkit.images.content import digest_pixels, load_content
from transferkit.images.reading import file_format, read_image_of_call
from transferkit.inspection.alignment import SIDE
from transferkit.inspection.measures import Measures, measure_image

__all__ = ["Observation", "Observer", "hash_file"]

# The formats that a suffix promises. Others, such as those of raw photos, promise none that is
# known here.
_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), ("JPEG",)),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf"), ("JPEG 2000",)),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), ("PPM",)),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **dict.fromkeys((".avif", ".avifs"), ("AVIF",)),
    **dict.fromkeys((".heic", ".heif", ".hif"), ("HEIC", "AVIF")),
    ".png": ("PNG",),
    ".webp": ("WebP",),
    ".bmp": ("BMP",),
    ".gif": ("GIF",),
}


@dataclass(slots=True, eq=False)
class Observation:
    """What is recorded about one image.

    Attributes
    ----------
    digest
        The SHA-256 of the file, or of the pixels of an image that is no file; empty if it could
        not be read.
    size
        The length of the file in bytes; None for an image that is no file.
    file_format
        The format that the first bytes of the file state; None if unknown.
    misnamed
        Whether the suffix of the file is that of another format.
    measures
        What is measured; None if the image cannot be decoded.
    """

    digest: bytes = b""
    size: int | None = None
    file_format: str | None = None
    misnamed: bool = False
    measures: Measures | None = None


class Observer:
    """Reads images in place of `read_image`, and records an observation of each.

    Parameters
    ----------
    number
        The number of images.

    Attributes
    ----------
    observations
        (n,) in the order of the input.
    copies
        (n, 64, 64) the small gray copies.
    """

    def __init__(self, number: int) -> None:
        self.observations = [Observation() for _ in range(number)]
        self.copies: npt.NDArray[np.uint8] = np.zeros((number, SIDE, SIDE), np.uint8)

    def __call__(
        self, image: ImageLike, source: str, depth: BitDepth, index: int, /
    ) -> Image.Image | npt.NDArray[np.float32]:
        """Read an image, and record what is measured; see `transferkit.images.ImageReader`."""
        observation = self.observations[index]
        content = load_content(image, source)
        observation.digest = content.sha256
        if content.sha256:
            observation.file_format = file_format(content.header)
        if isinstance(image, (str, os.PathLike)):
            observation.size = content.size
            promised = _FORMATS.get(PurePath(os.fsdecode(image)).suffix.lower())
            observation.misnamed = (
                promised is not None
                and observation.file_format is not None
                and observation.file_format not in promised
            )
        read = read_image_of_call(content.image, source, depth)
        if not observation.digest:
            observation.digest = digest_pixels(read)
        observation.measures, self.copies[index] = measure_image(read)
        return read


def hash_file(path: str | os.PathLike[str]) -> bytes:
    """Return the SHA-256 of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
