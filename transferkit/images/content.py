"""The content of images that are files: read once, with its digest."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images.bit_depth import BitDepth
from transferkit.images.named import NamedImage
from transferkit.images.reading import (
    ImageLike,
    is_encoded,
    read_content,
    read_image_of_call,
)

__all__ = ["HEADER", "Content", "digest_pixels", "load_content", "load_with_digest"]

HEADER = 64
"""The number of bytes at the start of a file that tell its format."""

# A larger file is hashed in blocks and then read again, to limit the memory of the threads.
_MAX_IN_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """An image whose file has been read.

    Attributes
    ----------
    image
        The bytes of the file; the image as it was given, if it is no file, cannot be read, or is
        large.
    sha256
        The digest of the file; empty if it could not be read, or the image is no file.
    header
        The first 64 bytes of the file.
    size
        The length of the file in bytes; None for an image that is no file.
    modified
        When the file was modified, in nanoseconds since 1970; None for one without a path.
    """

    image: ImageLike
    sha256: bytes = b""
    header: bytes = b""
    size: int | None = None
    modified: int | None = None


def load_content(image: ImageLike, source: str) -> Content:
    """Read the file of an image, and return its content with its digest.

    Parameters
    ----------
    image
        As for `read_image`.
    source
        The name of the image in error messages.

    Raises
    ------
    ImageError
        If the file is changed while it is read, or a file object or named image cannot be read.
        A path that cannot be read is returned, for `read_image` to report.

    Examples
    --------
    >>> from transferkit.images.content import load_content
    >>> content = load_content(b"GIF89a", "images[0]")
    >>> content.size, content.sha256.hex()[:8]
    (6, '610f5ae4')
    """
    if isinstance(image, (str, os.PathLike)):
        return _load_file(os.fsdecode(image), source)
    if is_encoded(image) or isinstance(image, NamedImage):
        data = read_content(image, source)
        return Content(data, hashlib.sha256(data).digest(), data[:HEADER], len(data))
    return Content(image)


def digest_pixels(image: Image.Image | npt.NDArray[np.float32]) -> bytes:
    """Return the SHA-256 of the pixels that `read_image` returns, with their shape and dtype."""
    array = np.ascontiguousarray(image)
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()


def load_with_digest(
    image: ImageLike, source: str, depth: BitDepth
) -> tuple[Content, Image.Image | npt.NDArray[np.float32] | None]:
    """Return the content of an image with its digest: that of the file, otherwise of the pixels.

    Parameters
    ----------
    image, source, depth
        As for `read_image_of_call`.

    Returns
    -------
    Content
        Its digest is never empty.
    image
        What `read_image` returns, if the pixels were needed for the digest; None if not.

    Raises
    ------
    ImageError
        If the image cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.bit_depth import BitDepth
    >>> from transferkit.images.content import load_with_digest
    >>> content, image = load_with_digest(np.zeros((8, 8), np.uint8), "images[0]", BitDepth())
    >>> len(content.sha256), image.size
    (32, (8, 8))
    """
    content = load_content(image, source)
    if content.sha256:
        return content, None
    read = read_image_of_call(content.image, source, depth)
    return replace(content, sha256=digest_pixels(read)), read


def _load_file(path: str, source: str) -> Content:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            # Reported by `read_image`. Opening a pipe would wait for a writer.
            return Content(path)
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            data = None
            if before.st_size > _MAX_IN_MEMORY:
                header = file.read(HEADER)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").digest()
                length = file.tell()
            else:
                # One more byte shows whether it has grown. A larger number allocates memory for it.
                data = file.read(before.st_size + 1)
                header, length = data[:HEADER], len(data)
                digest = hashlib.sha256(data).digest()
            after = os.fstat(file.fileno())
    except (OSError, ValueError):
        # Reported by `read_image`.
        return Content(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or (
        length != before.st_size
    ):
        raise ImageError(source, "the file was changed while it was read")
    return Content(path if data is None else data, digest, header, length, before.st_mtime_ns)
