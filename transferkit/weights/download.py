"""Downloads that are resumed, checked, and shared between processes.

Data is written to a partial file beside the destination, which is renamed when it is complete
and checked. So an interrupted download is resumed by this process or a later one, and a file with
the final name is always complete.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING

from transferkit.errors import DownloadError, OutputError
from transferkit.support.progress import show_progress
from transferkit.weights.cache import (
    CACHE_VARIABLE,
    cache_folder,
    find_cached,
    part_files,
    problem_of,
)
from transferkit.weights.catalogue import WeightsEntry

if TYPE_CHECKING:
    import requests

__all__ = ["OFFLINE_VARIABLE", "download", "fetch", "fetch_file"]

_LOGGER = logging.getLogger(__name__)

OFFLINE_VARIABLE = "TRANSFERKIT_OFFLINE"
"""The environment variable that, set to 1, forbids all connections."""

# Chunks are small because an incomplete chunk is lost when the connection breaks.
_CHUNK = 1 << 16
_TRIES = 5
# Seconds before the second try; doubled before each further one.
_PAUSE = 1.0
# Seconds: to connect, and between two reads.
_TIMEOUT = (15.0, 60.0)
# Temporary errors of the server.
TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch(entry: WeightsEntry, *, progress: bool | None = None) -> Path:
    """Return the file of a catalog row; download it if it is not on disk.

    Parameters
    ----------
    entry
        A row of the catalog.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Returns
    -------
    Path
        A checked file in the cache folder, or in the cache of PyTorch's hub or Keras.

    Raises
    ------
    DownloadError
        If the file is not on disk and the download fails or is forbidden by
        ``TRANSFERKIT_OFFLINE``.
    OutputError
        If the cache folder cannot be written to.
    """
    cached = find_cached(entry)
    if cached is not None:
        return cached
    path = cache_folder() / entry.file
    fetch_file(
        entry.url,
        path,
        what=str(entry),
        expected=str(entry.checksum or "its publisher states no checksum"),
        check=lambda file: problem_of(file, entry),
        progress=progress,
    )
    return path


def fetch_file(
    url: str,
    path: Path,
    *,
    what: str,
    expected: str,
    check: Callable[[Path], str | None],
    progress: bool | None = None,
) -> None:
    """Download a file into the cache folder, unless connections are forbidden.

    Parameters
    ----------
    url, path, check, progress
        As for `download`; the folder of ``path`` is created.
    what
        What the file is, for messages.
    expected
        The checksum of the file, for messages.

    Raises
    ------
    DownloadError
        As for `download`, and if ``TRANSFERKIT_OFFLINE`` is set. The message says where to put the
        file manually.
    OutputError
        If the folder cannot be created or written to.
    """
    by_hand = f"to install the file manually, put it at {path} ({expected})"
    if os.environ.get(OFFLINE_VARIABLE, "0") not in {"", "0"}:
        raise DownloadError(
            f"{OFFLINE_VARIABLE} is set, so {url} was not downloaded ({what}); {by_hand}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be created: {error.strerror or error}; set {CACHE_VARIABLE} to "
            "a writable folder"
        ) from error
    try:
        download(url, path, check=check, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{error}; {by_hand}") from error


def download(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], str | None],
    progress: bool | None = None,
) -> None:
    """Download a file to ``path``, which is then complete and checked, or unchanged on failure.

    A partial file of an earlier call is resumed if the server still has the same file. If several
    processes download to the same ``path``, one does and the others wait. An interrupted download
    keeps the data received so far.

    Parameters
    ----------
    url
        The http or https URL of the file; redirects are followed.
    path
        The destination, in an existing folder. If there is a file that passes the check,
        nothing is downloaded.
    check
        Returns what is wrong with a file, or None. A downloaded file that fails is removed.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Raises
    ------
    DownloadError
        If the server does not have the file, cannot be reached, breaks the connection
        repeatedly or sends a file that fails the check, or if the disk is full.
    OutputError
        If the folder cannot be written to.
    """
    # Slow to import, and not needed if nothing is downloaded; the same for requests, below.
    import filelock

    part, validator, lock = part_files(path)
    try:
        with filelock.FileLock(lock):
            # Another process may have downloaded it while this one waited.
            if path.is_file() and check(path) is None:
                return
            _LOGGER.info("downloading %s to %s", url, path)
            _Transfer(url, part, validator, progress).run()
            problem = check(part)
            if problem is not None:
                _remove(part, validator)
                raise DownloadError(
                    f"{url}: the file fails the check and was removed: {problem}; try again, or "
                    "use another network if a proxy changes downloads"
                )
            part.replace(path)
            _remove(validator)
            _LOGGER.info("downloaded %s", path)
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DownloadError(
                f"{url}: not enough space in {path.parent}; the partial file is kept and will be "
                f"resumed; free some space, or set {CACHE_VARIABLE} to a folder on another disk"
            ) from error
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}; set {CACHE_VARIABLE} to a "
            "writable folder"
        ) from error


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class _TemporaryError(Exception):
    """A lost connection or a busy server: another try may succeed."""


@dataclass
class _Transfer:
    """The download of one file to ``part``, over one or more connections.

    Attributes
    ----------
    url
        The URL of the file.
    part
        The partial file.
    validator_file
        A file with the validator (``ETag`` or ``Last-Modified``) of the version in ``part``.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.
    """

    url: str
    part: Path
    validator_file: Path
    progress: bool | None

    def run(self) -> None:
        """Download until the file is complete."""
        tries = 0
        while True:
            before = self._size()
            try:
                self._receive()
                return
            except _TemporaryError as error:
                # Tries that received some data do not count.
                tries = 1 if self._size() > before else tries + 1
                if tries >= _TRIES:
                    kept = "; the partial file is kept and will be resumed"
                    if self._size() == 0:
                        _remove(self.part, self.validator_file)
                        kept = ""
                    raise DownloadError(
                        f"{self.url}: the download failed after {_TRIES} tries ({error}); check "
                        f"the connection and try again{kept}"
                    ) from error
                time.sleep(_PAUSE * 2 ** (tries - 1))

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self) -> str | None:
        """Return the validator of the version in the partial file; None if unknown."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.validator_file.read_text())
            if known["url"] == self.url and isinstance(known["validator"], str):
                return str(known["validator"])
        return None

    def _receive(self) -> None:
        """Download over one connection."""
        import requests

        size, validator = self._size(), self._validator()
        # Without compression, so that lengths are those of the file.
        headers = {"Accept-Encoding": "identity"}
        # Without a validator the version in the partial file is unknown, so it is not resumed.
        if size and validator is not None:
            headers |= {"Range": f"bytes={size}-", "If-Range": validator}
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    if size == _content_range(response)[1]:
                        # The partial file is complete, only not checked and renamed yet.
                        return
                    _remove(self.part, self.validator_file)
                    raise _TemporaryError("the partial file did not match the file on the server")
                if response.status_code in TEMPORARY_STATUSES:
                    raise _TemporaryError(f"the server returned {_status(response)}")
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    raise DownloadError(f"{self.url}: the server returned {_status(response)}")
                self._store(response, size, validator)
        except (ValueError, requests.TooManyRedirects) as error:
            # All errors of requests about invalid URLs are ValueErrors.
            raise DownloadError(f"{self.url}: the URL cannot be requested ({error})") from error
        except requests.RequestException as error:
            raise _TemporaryError(failure_reason(error)) from error

    def _store(self, response: requests.Response, size: int, requested: str | None) -> None:
        """Append the response to the partial file, or replace it.

        Parameters
        ----------
        response
            The response of the server, not read yet.
        size
            The size of the partial file.
        requested
            The validator of the version in the partial file.
        """
        validator = _validator_of(response)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response)
            if start != size or validator not in {None, requested}:
                # The server ignores If-Range, and its file has changed.
                _remove(self.part, self.validator_file)
                raise _TemporaryError("the file on the server has changed")
        else:
            size = 0
            _remove(self.part, self.validator_file)
            if validator is not None:
                text = json.dumps({"url": self.url, "validator": validator})
                self.validator_file.write_text(text)
        missing = 0 if total is None else total - size
        if shutil.disk_usage(self.part.parent).free < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            self.part.open("ab") as file,
            show_progress(
                f"Downloading {self.part.stem}", total, shown=self.progress, in_bytes=True
            ) as advance,
        ):
            advance(size)
            self._copy(response, file, advance)
        if total is not None and self._size() != total:
            raise _TemporaryError(f"received {self._size():,} of {total:,} bytes")

    @staticmethod
    def _copy(response: requests.Response, file: IO[bytes], advance: Callable[[int], None]) -> None:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            advance(len(chunk))


def _validator_of(response: requests.Response) -> str | None:
    """Return what identifies this version of a file byte for byte; None if there is nothing."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte of the response and the length of the file, from the header.

    It has the form ``bytes 100-199/200``, or ``bytes */200`` if the response has no data.
    """
    sent, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = sent.partition("-")[0]
    return int(start) if start.isdigit() else None, int(total) if total.isdigit() else None


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason}".strip()


def failure_reason(error: requests.RequestException) -> str:
    """Return the cause in a few words; `requests` nests the messages of three libraries."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection to the server"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not respond"
    if isinstance(error, requests.exceptions.Timeout):
        return "the server does not respond"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "no connection to the server, or the connection was lost"
    return str(error)
