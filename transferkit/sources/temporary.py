"""Temporary files that several threads and processes read at the same time."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from typing import IO

from transferkit.support.random_access import RandomAccessFile

__all__ = ["TemporaryContent"]


class TemporaryContent:
    """A temporary file, which the system removes however the process ends.

    Examples
    --------
    >>> from transferkit.sources.temporary import TemporaryContent
    >>> content = TemporaryContent()
    >>> content.append(b"one"), content.append(b"two")
    (3, 3)
    >>> content.open().read(), content.open().read(4)
    (b'onetwo', b'onet')
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # until it is collected
        self._lock = threading.Lock()
        self.length = 0

    def __del__(self) -> None:
        # Else there is a ResourceWarning.
        self._file.close()

    def append(self, block: bytes) -> int:
        """Write bytes at the end, before any are read, and return their number."""
        self.length += self._file.write(block)
        return len(block)

    def flush(self) -> None:
        """Write what is buffered, before it is read."""
        self._file.flush()

    def open(self) -> io.BufferedReader:
        """Return a file object for reading, with a position of its own."""
        self.flush()
        return io.BufferedReader(RandomAccessFile(self.read_at, self.length))

    def read_at(self, position: int, size: int) -> bytes:
        """Return at most ``size`` bytes from a position."""
        if hasattr(os, "pread"):
            # The position of a file is shared between threads, and processes after a fork.
            return os.pread(self._file.fileno(), size, position)
        with self._lock:
            self._file.seek(position)
            return self._file.read(size)
