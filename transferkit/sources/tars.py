"""Images in tar files, such as the shards of WebDataset: read in order, and never unpacked.

An archive is not trusted: its names are only names, links are not followed, and headers and images
of extreme sizes are not read. What is before a damaged place is read.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Self, cast

from transferkit.errors import ImageError, shorten
from transferkit.images.folders import is_listed, is_visible, no_images
from transferkit.images.reading import MAX_CONTENT, join_blocks, too_long
from transferkit.sources.items import (
    ContentImage,
    SourceImage,
    TarMember,
    UnreadableImage,
    read_in_blocks,
)
from transferkit.sources.remote import Remote, RemoteStream
from transferkit.support.remote import RemoteError
from transferkit.support.tar_headers import LimitedHeader

__all__ = ["LocalTar", "RemoteTar"]

_GZIP = b"\x1f\x8b"
_COMPRESSED = (_GZIP, b"BZh", b"\xfd7zXZ")
_DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    RemoteError,
    EOFError,
    ValueError,
)


class _Header(LimitedHeader):
    """A header; a damaged one is an error, where tarfile ends as if the archive were complete."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # The end of an archive is a block of zeros.
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            reason = str(error) if len(buf) == tarfile.BLOCKSIZE else "it has no end"
            raise tarfile.ReadError(reason) from error


@dataclass(frozen=True)
class LocalTar:
    """A tar file on disk.

    Attributes
    ----------
    path
        The file.
    """

    path: str

    number = None

    def __iter__(self) -> Iterator[SourceImage]:
        try:
            with open(self.path, "rb") as file:
                is_compressed = file.read(6).startswith(_COMPRESSED)
                length = file.seek(0, 2)
                file.seek(0)
                yield from _images(self.path, file, None if is_compressed else length)
        except OSError as error:
            yield UnreadableImage(self.path, f"cannot be read: {error.strerror or error}")


@dataclass(frozen=True)
class RemoteTar:
    """A tar file on a server, which is read as a stream.

    Attributes
    ----------
    url
        The file.
    remote
        What reads it.
    """

    url: str
    remote: Remote

    number = None

    def __iter__(self) -> Iterator[SourceImage]:
        with closing(RemoteStream(self.url, self.remote)) as stream:
            yield from _images(self.url, cast("IO[bytes]", stream), None)


class _Continued:
    """A file that is read once, of which the first bytes were read already."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int) -> bytes:
        start, self._start = self._start[:size], self._start[size:]
        return start + self._rest.read(size - len(start))


def _images(source: str, file: IO[bytes], length: int | None) -> Iterator[SourceImage]:
    """Yield the images of an archive.

    Parameters
    ----------
    source
        The name of the archive.
    file
        Its content.
    length
        The length of the file if it is an uncompressed one on disk, whose images can be read
        later; otherwise None.
    """
    number = 0
    try:
        mode = "r:"
        if length is None:
            start = file.read(len(_GZIP))
            mode, file = "r|*", cast("IO[bytes]", _Continued(start, file))
            if start == _GZIP:
                # The module tarfile does not compare its checksum.
                mode, file = "r|", cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb"))
        with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                # Else all members are kept.
                archive.members = []
                image = _image(source, archive, member, length)
                if image is not None:
                    number += 1
                    yield image
        if isinstance(file, gzip.GzipFile):
            # The checksum follows the end of the archive.
            for _ in read_in_blocks(file):
                pass
    except _DAMAGE as error:
        reason = error.reason if isinstance(error, RemoteError) else str(error)
        yield UnreadableImage(
            source, f"damaged or truncated after {number:,} images: {reason or 'no reason given'}"
        )
        return
    if not number:
        yield UnreadableImage(source, no_images("archive"))


def _image(
    source: str, archive: tarfile.TarFile, member: tarfile.TarInfo, length: int | None
) -> SourceImage | None:
    """Return a member if it has the name of an image."""
    parts = PurePosixPath(member.name).parts
    if member.isdir() or not is_listed(member.name) or not all(map(is_visible, parts)):
        return None
    name = f"{source}/{'/'.join(parts).lstrip('/')}"
    if not member.isreg() or member.issparse():
        return UnreadableImage(name, "a link or device in a tar file, not an image")
    if member.size > MAX_CONTENT:
        return UnreadableImage(name, too_long(name).reason)
    if length is not None:
        if member.offset_data + member.size > length:
            raise tarfile.ReadError(f"it ends in {shorten(member.name)}")
        return TarMember(name, source, member.offset_data, member.size)
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    try:
        return ContentImage(name, join_blocks(read_in_blocks(content), name))
    except ImageError as error:
        return UnreadableImage(name, error.reason)
