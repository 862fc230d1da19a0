"""What one pass over the files records about each image, beside its embedding."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images import ImageLike
from transferkit.images.bit_depth import BitDepth
from transferkit.images.reading import file_format, is_encoded, read_content, read_image_of_call
from transferkit.inspection.alignment import SIDE
from transferkit.inspection.measures import Measures, measure_image

__all__ = ["Observation", "Observer", "hash_file"]

# A larger file is hashed in blocks and then read again, to limit the memory of the threads.
_MAX_IN_MEMORY = 64 << 20
_BLOCK = 1 << 20
_HEADER = 64

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
        if isinstance(image, (str, os.PathLike)):
            image = _read_file(os.fsdecode(image), source, observation)
        elif is_encoded(image):
            image = read_content(image, source)
            observation.digest = hashlib.sha256(image).digest()
            observation.file_format = file_format(image[:_HEADER])
        read = read_image_of_call(image, source, depth)
        if not observation.digest:
            observation.digest = _digest_pixels(read)
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


def _read_file(path: str, source: str, observation: Observation) -> bytes | str:
    """Return the content of a file, or its path if it is large, and record its digest."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # Reported by `read_image`. Opening a pipe would wait for a writer.
            return path
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            if before.st_size > _MAX_IN_MEMORY:
                header = file.read(_HEADER)
                file.seek(0)
                content = None
                observation.digest = hashlib.file_digest(file, "sha256").digest()
                length = file.tell()
            else:
                content = file.read(_MAX_IN_MEMORY + 1)
                header, length = content[:_HEADER], len(content)
                observation.digest = hashlib.sha256(content).digest()
            after = os.fstat(file.fileno())
    except (OSError, ValueError):
        # Reported by `read_image`.
        return path
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or (
        length != before.st_size
    ):
        observation.digest = b""
        raise ImageError(source, "the file was changed while it was read")
    observation.size = length
    observation.file_format = file_format(header)
    promised = _FORMATS.get(PurePath(path).suffix.lower())
    observation.misnamed = (
        promised is not None
        and observation.file_format is not None
        and observation.file_format not in promised
    )
    return path if content is None else content


def _digest_pixels(image: Image.Image | npt.NDArray[np.float32]) -> bytes:
    array = np.ascontiguousarray(image)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()
