"""Files mapped into memory, and the float32 arrays in them.

Lengths and offsets in a file may be wrong, or manipulated. So every array is checked against the
size of the file.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, shorten, shorten_path

__all__ = [
    "FLOATS",
    "ZIP_START",
    "MappedFile",
    "array_at",
    "in_memory",
    "map_file",
    "stored_member",
]

FLOATS = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2"}
"""The floating-point types of weights to NumPy's dtypes.

NumPy has no bfloat16, which is the upper half of a float32."""

ZIP_START = b"PK\x03\x04"
"""The first bytes of a zip archive."""

# The maximum number of axes in NumPy before version 2.
_MAX_AXES = 32
# NumPy rejects an empty array if the product of its other axes overflows.
_MAX_EMPTY_SIZE = 2**31
_MAX_LINE = 4096


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """Map a file into memory, so that its bytes are read from disk on access.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    memoryview
        The bytes, read-only. The file stays mapped as long as anything refers to them.

    Raises
    ------
    FileFormatError
        If the file does not exist or cannot be read.
    """
    # Opening a pipe would wait for a writer, so it is not opened.
    if os.path.exists(path) and not os.path.isfile(path):
        problem = "is a folder" if os.path.isdir(path) else "not a regular file"
        raise FileFormatError(f"{shorten_path(path)}: {problem}")
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size > 0:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise FileFormatError(f"{shorten_path(path)}: no such file") from None
    except (OSError, ValueError) as error:  # a path with a zero byte in it is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(f"{shorten_path(path)}: {reason}") from None
    raise FileFormatError(f"{shorten_path(path)}: the file is empty")


def array_at(
    data: memoryview,
    kind: str,
    shape: Sequence[int],
    start: int = 0,
    strides: Sequence[int] | None = None,
) -> npt.NDArray[np.float32]:
    """Return a float32 array stored in ``data``.

    Parameters
    ----------
    data
        The bytes.
    kind
        The type of the stored values, a key of `FLOATS`; little-endian.
    shape
        The shape of the array.
    start
        The index of the first byte.
    strides
        The strides in values along each axis; None: C order.

    Returns
    -------
    array
        A read-only view of ``data`` if that is float32, else a copy.

    Raises
    ------
    ValueError
        If a length, the start or a stride is negative, or the array extends beyond ``data``.

    Examples
    --------
    >>> from transferkit.weights.mapped import array_at
    >>> array_at(memoryview(bytes([0, 0, 128, 63])), "float32", (1,))
    array([1.], dtype=float32)
    """
    stored = np.dtype(FLOATS[kind])
    if strides is None:
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if len(shape) != len(strides) or len(shape) > _MAX_AXES:
        raise ValueError(f"shape {tuple(shape[:9])} does not match {len(strides)} strides")
    if start < 0 or any(number < 0 for number in (*shape, *strides)):
        raise ValueError("a negative length, offset or stride")
    if 0 in shape:
        if math.prod(max(1, length) for length in shape) > _MAX_EMPTY_SIZE:
            raise ValueError("an empty array with too large axes")
        return np.zeros(tuple(shape), np.float32)
    last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    end = start + (last + 1) * stored.itemsize
    if end > len(data):
        raise ValueError(f"an array that extends to byte {end} of {len(data)}")
    steps = tuple(step * stored.itemsize for step in strides)
    array: npt.NDArray[np.generic] = np.ndarray(tuple(shape), stored, data, start, steps)
    if kind == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    # Values too large for float32 become infinite, as in the frameworks.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def in_memory(
    arrays: Mapping[str, npt.NDArray[np.float32]],
) -> dict[str, npt.NDArray[np.float32]]:
    """Copy arrays that may be mapped from a file, so that the file is no longer needed.

    A user's file may be overwritten, for example after the next epoch of training. Values
    mapped from it would change during computations, and if the file is truncated the operating
    system terminates the process. On Windows it could not be replaced.

    Parameters
    ----------
    arrays
        Name to array.

    Returns
    -------
    dict of str to array
        Copies in C order, read-only.

    Examples
    --------
    >>> from transferkit.weights.mapped import array_at, in_memory
    >>> file = bytearray([0, 0, 128, 63])
    >>> arrays = in_memory({"bias": array_at(memoryview(file), "float32", (1,))})
    >>> file[:] = bytes(4)
    >>> arrays["bias"]
    array([1.], dtype=float32)
    """
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}
    for copy in copies.values():
        copy.setflags(write=False)
    return copies


def stored_member(data: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """Return the bytes of an uncompressed member of the zip archive ``data``.

    Raises
    ------
    ValueError
        If the member is compressed or encrypted, or is not at its stated position.
    """
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"{shorten(entry.filename)} is compressed or encrypted")
    # A header of 30 bytes ends with the lengths of the name and the extra field that follow it.
    header = bytes(data[entry.header_offset : entry.header_offset + 30])
    if len(header) < 30 or not header.startswith(ZIP_START):
        raise ValueError(f"{shorten(entry.filename)} is not at its stated position")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + 30 + lengths
    if start + entry.file_size > len(data):
        raise ValueError(f"{shorten(entry.filename)} extends beyond the file")
    return data[start : start + entry.file_size]


class MappedFile(io.RawIOBase):
    """A file object for bytes in memory, which are copied only when they are read.

    A length that a file claims may exceed what is left of it. Unlike those of `io`, these methods
    never allocate more than that.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        base = (0, self._position, len(self._data))[whence]
        if base + offset < 0:
            raise ValueError("a negative position")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:  # noqa: D102
        left = max(0, len(self._data) - self._position)
        size = left if size < 0 else min(size, left)
        part = bytes(self._data[self._position : self._position + size])
        self._position += size
        return part

    def readline(self, size: int | None = -1, /) -> bytes:  # noqa: D102
        # Lines in weights files are names.
        limit = _MAX_LINE if size is None or size < 0 else min(size, _MAX_LINE)
        part = bytes(self._data[self._position : self._position + limit])
        line = part[: part.find(b"\n") + 1] or part
        self._position += len(line)
        return line

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        part = self._data[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
