"""A file object for content that can be read from any position."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

__all__ = ["RandomAccessFile"]


class RandomAccessFile(io.RawIOBase):
    """A file object, with a position of its own, for content that can be read from any position.

    Parameters
    ----------
    read_at
        Returns the bytes from a position on, at most as many as its second argument says, and at
        least one before the end. It is not called at or beyond the end.
    length
        The length of the content in bytes.

    Examples
    --------
    >>> from transferkit.support.random_access import RandomAccessFile
    >>> content = b"abcdef"
    >>> file = RandomAccessFile(lambda position, size: content[position : position + size], 6)
    >>> file.seek(-4, 2), file.read(3), file.read()
    (2, b'cde', b'f')
    """

    def __init__(self, read_at: Callable[[int, int], bytes], length: int) -> None:
        super().__init__()
        self._read_at = read_at
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read into a buffer, and return the number of bytes; 0 at the end."""
        size = min(len(buffer), self._length - self._position)
        if size <= 0:
            return 0
        content = self._read_at(self._position, size)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
