"""What a publisher says of a file's contents, held against the file."""

from __future__ import annotations

import hashlib
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
        Hexadecimal. Torchvision publishes the first eight digits only. Both these and MD5 tell
        a damaged file; against one that was forged with care, only a whole SHA-256 helps.

    Examples
    --------
    >>> from transferkit.weights.checksum import Checksum
    >>> print(Checksum("sha256", "b0353104"))
    SHA-256 b0353104...
    """

    algorithm: str
    digits: str

    def of(self, path: Path) -> str:
        """The file's whole digest by this algorithm, in hexadecimal.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        with path.open("rb") as file:
            # MD5 here tells damage, and may so be used where it is barred from cryptography.
            return hashlib.file_digest(
                file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)
            ).hexdigest()

    def matches(self, path: Path) -> bool:
        """Whether the file's digest begins with these digits.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return self.of(path).startswith(self.digits)

    def __str__(self) -> str:
        name, length = {"sha256": ("SHA-256", 64), "md5": ("MD5", 32)}[self.algorithm]
        return f"{name} {self.digits}" + ("..." if len(self.digits) < length else "")
