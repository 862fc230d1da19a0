"""The images that sources yield: paths, and images with a name whose content is read later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TypeAlias

from transferkit.errors import ImageError
from transferkit.images import NamedImage
from transferkit.images.reading import join_blocks

__all__ = ["ContentImage", "SourceImage", "TarMember", "UnreadableImage", "read_in_blocks"]

_BLOCK = 1 << 20

SourceImage: TypeAlias = str | NamedImage
"""The types of the images that sources yield: the path of a local file, or a named image. All can
be pickled."""


@dataclass(frozen=True, slots=True)
class ContentImage(NamedImage):
    """An image whose content is in memory.

    Attributes
    ----------
    source
        Its name.
    content
        The bytes of the image file.
    """

    source: str
    content: bytes

    def read(self) -> bytes:
        """Return the content."""
        return self.content


@dataclass(frozen=True, slots=True)
class UnreadableImage(NamedImage):
    """An entry of a source that cannot be read, so that it is skipped and listed.

    Attributes
    ----------
    source
        Its name.
    reason
        Why, as a clause.
    """

    source: str
    reason: str

    def read(self) -> bytes:
        """Raise the error."""
        raise ImageError(self.source, self.reason)


@dataclass(frozen=True, slots=True)
class TarMember(NamedImage):
    """An image in an uncompressed tar file on disk.

    Attributes
    ----------
    source
        Its name.
    archive
        The path of the tar file.
    position, size
        Where its content begins in the tar file, and its size, in bytes.
    """

    source: str
    archive: str
    position: int
    size: int

    def read(self) -> bytes:
        """Return the content; see `NamedImage`."""
        with open(self.archive, "rb") as file:
            file.seek(self.position)
            content = join_blocks(read_in_blocks(file, self.size), self.source)
        if len(content) != self.size:
            raise ImageError(self.source, f"{self.archive} has become shorter")
        return content


def read_in_blocks(file: IO[bytes], size: int | None = None) -> Iterator[bytes]:
    """Yield the rest of a file, or ``size`` bytes of it, in blocks."""
    left = size
    while block := file.read(_BLOCK if left is None else min(left, _BLOCK)):
        yield block
        if left is not None:
            left -= len(block)
