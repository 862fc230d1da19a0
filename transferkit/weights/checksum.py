"""Checksums that publishers state for their files."""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Checksum"]


@dataclass(frozen=True, slots=True)
class Checksum:
    """The digest of a file, or its first digits.

    Attributes
    ----------
    algorithm
        ``"sha256"`` or ``"md5"``.
    digits
        The digest in hexadecimal. Torchvision publishes the first eight digits only. These and
        MD5 detect damaged files; only a full SHA-256 also detects forged ones.

    Examples
    --------
    >>> from transferkit.weights.checksum import Checksum
    >>> print(Checksum("sha256", "b0353104"))
    SHA-256 b0353104...
    """

    algorithm: str
    digits: str

    def of(self, path: Path) -> str:
        """Return the full digest of a file by this algorithm, in hexadecimal.

        The file is read again only if its size or time of modification has changed, since each
        fit of a clone loads the weights.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        status = path.stat()
        return _digest(os.path.abspath(path), self.algorithm, status.st_size, status.st_mtime_ns)

    def matches(self, path: Path) -> bool:
        """Return whether the digest of a file begins with these digits.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        return self.of(path).startswith(self.digits)

    def __str__(self) -> str:
        name, length = {"sha256": ("SHA-256", 64), "md5": ("MD5", 32)}[self.algorithm]
        return f"{name} {self.digits}" + ("..." if len(self.digits) < length else "")


@functools.lru_cache(maxsize=256)
def _digest(path: str, algorithm: str, size: int, modified: int) -> str:
    """Return the digest of a file; ``size`` and ``modified`` are part of the cache's key."""
    del size, modified
    with Path(path).open("rb") as file:
        # MD5 only detects damage here, so it is allowed where cryptographic use is barred.
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
