"""Images with the same content, byte for byte."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images import ImageLike
from transferkit.images.stream import source_name

__all__ = ["content_keys"]


def content_keys(images: Sequence[ImageLike]) -> list[Hashable | None]:
    """Return keys that are equal for images with the same content.

    Parameters
    ----------
    images
        Paths, whose files are compared by their bytes; or arrays, bytes and PIL images, compared by
        their values. File objects are not read.

    Returns
    -------
    list
        The size and SHA-256 of each; None for those that equal no other. Only files that have the
        same size as another one are read.

    Raises
    ------
    ImageError
        If a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from transferkit.datasets.copies import content_keys
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder, name) for name in "abc"]
    ...     for path, content in zip(paths, (b"1", b"2", b"1")):
    ...         _ = path.write_bytes(content)
    ...     first, second, third = content_keys(paths)
    >>> first == third, second is None
    (True, True)
    """
    sources = [source_name(image, index) for index, image in enumerate(images)]
    sizes = [_size(image, source) for image, source in zip(images, sources, strict=True)]
    with_this_size = Counter(sizes)
    keys: list[Hashable | None] = [
        None if size is None or with_this_size[size] < 2 else (size, _digest(image, source))
        for image, size, source in zip(images, sizes, sources, strict=True)
    ]
    number = Counter(keys)
    return [key if number[key] > 1 else None for key in keys]


def _size(image: ImageLike, source: str) -> Hashable | None:
    """Return what is equal for images that may have the same content; None if unknown."""
    if isinstance(image, np.ndarray):
        return (image.shape, image.dtype.str)
    if isinstance(image, Image.Image):
        return (image.size, image.mode)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return memoryview(image).nbytes
    if isinstance(image, (str, os.PathLike)):
        try:
            return os.stat(image).st_size
        except (OSError, ValueError) as error:
            raise ImageError(source, f"cannot be read: {_reason(error)}") from None
    return None


def _digest(image: ImageLike, source: str) -> str:
    if isinstance(image, (np.ndarray, Image.Image)):
        return hashlib.sha256(image.tobytes()).hexdigest()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return hashlib.sha256(image).hexdigest()
    try:
        with Path(os.fsdecode(image)).open("rb") as file:  # type: ignore[arg-type]
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(source, f"cannot be read: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
