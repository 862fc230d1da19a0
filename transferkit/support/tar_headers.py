"""Headers of tar files that are not trusted."""

from __future__ import annotations

import tarfile
from typing import Self

__all__ = ["LimitedHeader"]

_MAX_ATTRIBUTES = 1 << 20


class LimitedHeader(tarfile.TarInfo):
    """The header of an entry; long names and attributes, which are read into memory, are limited.

    They have headers of their own.

    Examples
    --------
    >>> import io, tarfile
    >>> from transferkit.support.tar_headers import LimitedHeader
    >>> file = io.BytesIO()
    >>> with tarfile.open(fileobj=file, mode="w") as archive:
    ...     archive.addfile(tarfile.TarInfo("1.jpg"))
    >>> _ = file.seek(0)
    >>> with tarfile.open(fileobj=file, tarinfo=LimitedHeader) as archive:
    ...     archive.getnames()
    ['1.jpg']
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header in a block.

        Raises
        ------
        tarfile.HeaderError
            If it is damaged, or is followed by more than 1 MB of attributes.
        """
        info = super().frombuf(buf, encoding, errors)
        if not (info.isfile() or info.isdir()) and info.size > _MAX_ATTRIBUTES:
            raise tarfile.HeaderError(f"a header has {info.size:,} bytes of attributes")
        return info
