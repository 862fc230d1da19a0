"""Reading from servers: what is temporary is tried again, and connections are kept.

http and https need nothing else; other schemes, such as ``s3``, are those of fsspec.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from transferkit.errors import (
    DownloadError,
    ImageError,
    shorten_path,
)
from transferkit.images import NamedImage
from transferkit.images.reading import join_blocks
from transferkit.sources.temporary import TemporaryContent
from transferkit.support.remote import (
    RemoteError,
    check_scheme,
    import_fsspec,
    try_several_times,
)
from transferkit.weights.download import OFFLINE_VARIABLE, TEMPORARY_STATUSES, failure_reason

if TYPE_CHECKING:
    import requests

__all__ = [
    "FileSystems",
    "Remote",
    "RemoteImage",
    "RemoteStream",
    "Remotes",
    "download_temporarily",
    "to_remote_error",
    "url_name",
]

# Seconds: to connect, and between two reads.
_TIMEOUT = (10.0, 30.0)
# Seconds for a whole image, which a server may send byte by byte.
_MAX_SECONDS = 120.0
_BLOCK = 1 << 16
# Errors of a file system for which another try is futile.
_FINAL_ERRORS = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


def url_name(url: str) -> str:
    """Return the path of a URL, whose suffix tells the kind of file.

    Examples
    --------
    >>> from transferkit.sources.remote import url_name
    >>> url_name("https://example.org/a/train.tar?download=1")
    '/a/train.tar'
    """
    return urlsplit(url).path


def to_remote_error(error: Exception) -> RemoteError:
    """Return the error for one of a file system, which may have any type."""
    if isinstance(error, RemoteError):
        return error
    if isinstance(error, FileNotFoundError):
        return RemoteError("no such file or folder")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    is_temporary = isinstance(error, OSError) and not isinstance(error, _FINAL_ERRORS)
    return RemoteError(f"cannot be read: {reason}", is_temporary=is_temporary)


class Remote(ABC):
    """A kind of server."""

    @abstractmethod
    def blocks(self, url: str, begin: int = 0) -> Iterator[bytes]:
        """Yield the content of a file in blocks.

        Parameters
        ----------
        url
            The file.
        begin
            The position of the first byte, from 0.

        Raises
        ------
        RemoteError
            If it cannot be read, possibly after some blocks.
        """


class Http(Remote):
    """Servers of http and https. Each thread keeps its connections."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        return (Http, ())

    def blocks(self, url: str, begin: int = 0) -> Iterator[bytes]:
        """Yield the content of a file; see `Remote`."""
        import requests
        import urllib3

        _check_online()
        # Without compression, so that positions are those of the file.
        headers = {"Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        try:
            with self._session().get(
                url, headers=headers, stream=True, timeout=_TIMEOUT
            ) as response:
                status = response.status_code
                if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    raise RemoteError(
                        f"the server returned {status} {response.reason}".strip(),
                        is_temporary=status in TEMPORARY_STATUSES,
                    )
                ignored = begin if status == HTTPStatus.OK else 0
                # What has arrived, rather than a full block, for which a slow server takes long.
                read = getattr(response.raw, "read1", response.raw.read)
                while block := read(_BLOCK, decode_content=True):
                    yield block[ignored:]
                    ignored = max(0, ignored - len(block))
        except (ValueError, requests.TooManyRedirects) as error:
            # All errors of requests about invalid URLs are ValueErrors.
            raise RemoteError(f"the URL cannot be requested ({error})") from error
        except requests.RequestException as error:
            raise RemoteError(failure_reason(error), is_temporary=True) from error
        except urllib3.exceptions.HTTPError as error:
            is_late = isinstance(error, urllib3.exceptions.TimeoutError)
            reason = "the server does not respond" if is_late else "the connection was lost"
            raise RemoteError(reason, is_temporary=True) from error

    def _session(self) -> requests.Session:
        import requests

        # A connection cannot be used by two processes, after a fork.
        if getattr(self._local, "process", None) != os.getpid():
            self._local.session = requests.Session()
            self._local.process = os.getpid()
        return cast("requests.Session", self._local.session)


class FileSystems(Remote):
    """The file systems of fsspec, such as those of S3 and Google Cloud Storage."""

    def blocks(self, url: str, begin: int = 0) -> Iterator[bytes]:
        """Yield the content of a file; see `Remote`."""
        try:
            with self.open(url) as file:
                if begin:
                    file.seek(begin)
                while block := file.read(_BLOCK):
                    yield block
        except Exception as error:
            raise to_remote_error(error) from error

    def open(self, url: str) -> IO[bytes]:
        """Open a file, which can seek.

        Raises
        ------
        RemoteError
            If it cannot be opened.
        """
        try:
            file_system, path = self.resolve(url)
            return cast("IO[bytes]", file_system.open(path, "rb"))
        except Exception as error:
            raise to_remote_error(error) from error

    def resolve(self, url: str) -> tuple[Any, str]:
        """Return the file system of a URL, and the path in it."""
        if urlsplit(url).scheme != "memory":
            _check_online()
        file_system, path = import_fsspec().core.url_to_fs(url)
        return file_system, path


def _check_online() -> None:
    if os.environ.get(OFFLINE_VARIABLE, "0") not in {"", "0"}:
        raise RemoteError(f"{OFFLINE_VARIABLE} is set")


class Remotes:
    """What reads URLs: one `Remote` for each scheme, so that connections are kept."""

    def __init__(self) -> None:
        self._by_scheme: dict[str, Remote] = {}

    def of(self, url: str) -> Remote:
        """Return what reads a URL.

        Raises
        ------
        UnknownNameError
            If the scheme is unknown.
        UnsupportedError
            If fsspec, or the package that it needs for the scheme, is not installed.
        """
        scheme = urlsplit(url).scheme
        if scheme not in self._by_scheme:
            self._by_scheme[scheme] = _make_remote(scheme)
        return self._by_scheme[scheme]


def _make_remote(scheme: str) -> Remote:
    if scheme in {"http", "https"}:
        return Http()
    check_scheme(scheme)
    return FileSystems()


@dataclass(frozen=True, slots=True)
class RemoteImage(NamedImage):
    """An image on a server.

    Attributes
    ----------
    source
        Its URL.
    remote
        What reads it.
    """

    source: str
    remote: Remote

    def read(self) -> bytes:
        """Return the content; see `NamedImage`."""
        try:
            return try_several_times(self._read_once)
        except RemoteError as error:
            raise ImageError(self.source, error.reason) from error

    def _read_once(self) -> bytes:
        return join_blocks(_in_time(self.remote.blocks(self.source)), self.source)


def _in_time(blocks: Iterator[bytes]) -> Iterator[bytes]:
    end = time.monotonic() + _MAX_SECONDS
    for block in blocks:
        if time.monotonic() > end:
            raise RemoteError(f"the server took more than {_MAX_SECONDS:.0f} seconds")
        yield block


class RemoteStream:
    """A file on a server that is read once from its start, over as many connections as needed.

    Parameters
    ----------
    url
        The file.
    remote
        What reads it.
    """

    def __init__(self, url: str, remote: Remote) -> None:
        self._url = url
        self._remote = remote
        self._position = 0
        self._blocks: Iterator[bytes] | None = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end.

        Raises
        ------
        RemoteError
            If it cannot be read, in several tries.
        """
        content = bytearray()
        while len(content) < size:
            if not self._rest:
                self._rest = try_several_times(self._next)
                if not self._rest:
                    break
            part = self._rest[: size - len(content)]
            self._rest = self._rest[len(part) :]
            content += part
        return bytes(content)

    def _next(self) -> bytes:
        """Return the next block; none at the end."""
        if self._blocks is None:
            self._blocks = self._remote.blocks(self._url, self._position)
        try:
            block = next((block for block in self._blocks if block), b"")
        except RemoteError:
            self._blocks = None
            raise
        self._position += len(block)
        return block

    def close(self) -> None:
        """Close the connection."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            with suppress(Exception):
                close()


def download_temporarily(url: str, remote: Remote) -> TemporaryContent:
    """Return the content of a URL, in a temporary file.

    Raises
    ------
    DownloadError
        If it cannot be read.
    """
    content = TemporaryContent()
    with closing(RemoteStream(url, remote)) as stream:
        try:
            while block := stream.read(_BLOCK):
                content.append(block)
        except RemoteError as error:
            raise DownloadError(f"{shorten_path(url)}: {error.reason}") from error
    return content
