"""Files mapped into memory, and the float32 arrays in them.

What a file says of itself, how long it is or where a tensor lies, may be wrong or a lie. So
every array is checked against the bytes that are there.
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

from transferkit.errors import FileFormatError

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
"""The types of numbers that weights may have, each with NumPy's name for how it is stored.

NumPy has no bfloat16, which is the upper half of a float32."""

ZIP_START = b"PK\x03\x04"
"""What a zip archive begins with."""

# Of older NumPy, the most axes that an array can have.
_MOST_AXES = 32
# Nor can NumPy have an array of no numbers whose other axes multiply to more than it can count.
_LARGEST_EMPTY = 2**31


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The bytes of a file, read from the disk as they are looked at.

    Parameters
    ----------
    path
        A file.

    Returns
    -------
    memoryview
        Of bytes, read-only. The file stays mapped for as long as anything refers to them.

    Raises
    ------
    FileFormatError
        If there is no such file, or it cannot be read.
    """
    # A pipe would wait for a writer for ever, so it is never opened.
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "no ordinary file"
        raise FileFormatError(f"{os.fspath(path)}: is {kind}")
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size > 0:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise FileFormatError(f"{os.fspath(path)}: there is no such file") from None
    except (OSError, ValueError) as error:  # a path with a zero byte in it is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise FileFormatError(f"{os.fspath(path)}: {reason}") from error
    raise FileFormatError(f"{os.fspath(path)}: the file is empty")


def array_at(
    data: memoryview,
    kind: str,
    shape: Sequence[int],
    start: int = 0,
    strides: Sequence[int] | None = None,
) -> npt.NDArray[np.float32]:
    """The float32 array that lies in ``data``.

    Parameters
    ----------
    data
        Bytes.
    kind
        Which of `FLOATS` they are, each little-endian.
    shape
        Of the array.
    start
        The first byte.
    strides
        How many numbers lie between neighbours along each axis; None: row by row.

    Returns
    -------
    array
        A read-only view of ``data`` where that is float32, and else a copy.

    Raises
    ------
    ValueError
        If a length, the start or a stride is negative, or the array ends after ``data``.

    Examples
    --------
    >>> from transferkit.weights.mapped import array_at
    >>> array_at(memoryview(bytes([0, 0, 128, 63])), "float32", (1,))
    array([1.], dtype=float32)
    """
    stored = np.dtype(FLOATS[kind])
    if strides is None:
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"shape {tuple(shape[:9])} does not go with {len(strides)} strides")
    if start < 0 or any(number < 0 for number in (*shape, *strides)):
        raise ValueError("a negative length, offset or stride")
    if 0 in shape:
        if math.prod(max(1, length) for length in shape) > _LARGEST_EMPTY:
            raise ValueError("an empty array of enormous axes")
        return np.zeros(tuple(shape), np.float32)
    last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    end = start + (last + 1) * stored.itemsize
    if end > len(data):
        raise ValueError(f"an array that needs {end} bytes, where there are {len(data)}")
    steps = tuple(step * stored.itemsize for step in strides)
    found: npt.NDArray[np.generic] = np.ndarray(tuple(shape), stored, data, start, steps)
    if kind == "bfloat16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    # Numbers too large for float32 become infinite, as they do in the frameworks.
    with np.errstate(over="ignore"):
        return found.astype(np.float32, copy=False)


def in_memory(
    arrays: Mapping[str, npt.NDArray[np.float32]],
) -> dict[str, npt.NDArray[np.float32]]:
    """Copies of arrays that may lie in a mapped file, which then is not needed any more.

    Files of one's own are written over, by the next epoch of a training or a copy of a newer
    one. Numbers that are still in such a file would change under whoever computes with them,
    and where it is cut short the system ends the process. Windows would not let it be replaced.

    Parameters
    ----------
    arrays
        Name to array.

    Returns
    -------
    dict of str to array
        The same, row by row, read-only.

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
    """The bytes of a member of the zip archive ``data``, which must not be compressed.

    Raises
    ------
    ValueError
        If it is compressed or encrypted, or is not where the archive says.
    """
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"{entry.filename!r} is compressed or encrypted")
    # The name and the extra field before the bytes have their lengths at the end of 30 bytes.
    header = bytes(data[entry.header_offset : entry.header_offset + 30])
    if len(header) < 30 or not header.startswith(ZIP_START):
        raise ValueError(f"{entry.filename!r} is not where the archive says")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + 30 + lengths
    if start + entry.file_size > len(data):
        raise ValueError(f"{entry.filename!r} ends after the file")
    return data[start : start + entry.file_size]


class MappedFile(io.RawIOBase):
    """Bytes as a file, none of them copied before they are read."""

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
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        part = self._data[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
