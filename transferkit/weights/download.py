"""Fetching a file: whole, the right one, and only once.

What has arrived lies beside the file's place until all of it is there and is checked. So an
interrupted download is gone on with, by this process or the next, and what bears the file's name
is always whole.
"""

from __future__ import annotations

import errno
import json
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

__all__ = ["OFFLINE_VARIABLE", "download", "fetch"]

OFFLINE_VARIABLE = "TRANSFERKIT_OFFLINE"
"""The environment variable that, set to 1, forbids every connection."""

# Of a chunk that a break cuts short nothing is kept, so chunks are short.
_CHUNK = 1 << 16
_TRIES = 5
# Seconds before a second try; twice as many before each that follows.
_PAUSE = 1.0
# Seconds: to connect, and to hear nothing from a server that has begun to answer.
_TIMEOUT = (15.0, 60.0)
# Answers that may be others a moment later.
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch(entry: WeightsEntry, *, progress: bool | None = None) -> Path:
    """The file of an entry of the catalogue, from disk or else from its publisher.

    Parameters
    ----------
    entry
        A row of the catalogue.
    progress
        None shows it on a terminal only.

    Returns
    -------
    Path
        A file that is what its publisher says: in the cache folder, or where PyTorch's hub or
        Keras keep theirs.

    Raises
    ------
    DownloadError
        If it is not on disk and cannot be fetched, or ``TRANSFERKIT_OFFLINE`` forbids to.
    OutputError
        If the cache folder cannot be written to.
    """
    found = find_cached(entry)
    if found is not None:
        return found
    path = cache_folder() / entry.file
    by_hand = (
        f"to do without a connection, put the file at {path} "
        f"({entry.checksum or 'of which no digest is published'})"
    )
    if os.environ.get(OFFLINE_VARIABLE, "0") not in {"", "0"}:
        raise DownloadError(
            f"{entry} are needed, and {OFFLINE_VARIABLE} is set: {entry.url} was not fetched; "
            f"{by_hand}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be made: {error.strerror or error}; set {CACHE_VARIABLE} to a "
            "folder that may be written to"
        ) from error
    try:
        download(entry.url, path, check=lambda file: problem_of(file, entry), progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{error}; {by_hand}") from error
    return path


def download(
    url: str,
    path: Path,
    *,
    check: Callable[[Path], str | None],
    progress: bool | None = None,
) -> None:
    """Fetch a file, so that ``path`` is a whole and checked file or as it was before.

    A part that an earlier call has left is gone on with if the server still has the same file. Of
    several processes that ask for the same ``path`` one fetches it, and the others wait for that.
    Interrupted, it keeps what has arrived.

    Parameters
    ----------
    url
        Of the file, http or https; redirections are followed.
    path
        Where it is to be, in a folder that exists. A file there that passes the check is left
        as it is, and nothing is fetched.
    check
        Says of a file what is wrong with it; None if nothing is. A file that does not pass is
        removed.
    progress
        None shows it on a terminal only.

    Raises
    ------
    DownloadError
        If the server does not have it, cannot be reached, breaks off again and again, or sends
        another file than it should, or if there is no space left.
    OutputError
        If the folder cannot be written to.
    """
    # Slow to import, and not needed where nothing is fetched; so is requests, below.
    import filelock

    part, note, lock = part_files(path)
    try:
        with filelock.FileLock(lock):
            # Another process may have fetched it meanwhile.
            if path.is_file() and check(path) is None:
                return
            _Transfer(url, part, note, progress).run()
            problem = check(part)
            if problem is not None:
                _forget(part, note)
                raise DownloadError(
                    f"what {url} sent is not what is published, and was not kept: {problem}; try "
                    "again, or another network if something between here and the server answers "
                    "for it"
                )
            part.replace(path)
            _forget(note)
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DownloadError(
                f"{url}: no space is left for it in {path.parent}; what has arrived is kept and "
                f"gone on with; make room, or set {CACHE_VARIABLE} to a folder on another disk"
            ) from error
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}; set {CACHE_VARIABLE} to a "
            "folder that may be written to"
        ) from error


def _forget(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class _BrokenOffError(Exception):
    """The connection was lost, or the server is busy: another try may do."""


@dataclass
class _Transfer:
    """One file on its way to ``part``, through as many connections as it needs."""

    url: str
    part: Path
    note: Path
    progress: bool | None

    def run(self) -> None:
        """Fetch until the part is whole."""
        tries = 0
        while True:
            before = self._size()
            try:
                self._receive()
                return
            except _BrokenOffError as error:
                # A bad line that brings something each time is good enough.
                tries = 1 if self._size() > before else tries + 1
                if tries >= _TRIES:
                    raise DownloadError(
                        f"{self.url} could not be fetched in {_TRIES} tries ({error}); what has "
                        "arrived is kept and gone on with; see whether there is a connection, "
                        "and try again"
                    ) from error
                time.sleep(_PAUSE * 2 ** (tries - 1))

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self) -> str | None:
        """What the server called the version of the file that the part is of, if that is known."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.note.read_text())
            if known["url"] == self.url and isinstance(known["validator"], str):
                return str(known["validator"])
        return None

    def _receive(self) -> None:
        """One connection's worth."""
        import requests

        have, validator = self._size(), self._validator()
        # Bytes as they are on disk, not packed for the way: else lengths would mean nothing.
        headers = {"Accept-Encoding": "identity"}
        # Without a validator there is no telling which version of the file the part is of.
        if have and validator is not None:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    if have == _content_range(response)[1]:
                        # All of it was there, only not checked and put in its place yet.
                        return
                    _forget(self.part, self.note)
                    raise _BrokenOffError("the part did not fit the file")
                if response.status_code in _PASSING_STATUSES:
                    raise _BrokenOffError(f"the server says {_status(response)}")
                if response.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                    raise DownloadError(f"{self.url}: the server says {_status(response)}")
                self._store(response, have, validator)
        except (ValueError, requests.TooManyRedirects) as error:
            # All that requests has for what is no address is a ValueError.
            raise DownloadError(f"{self.url}: cannot be asked for ({error})") from error
        except requests.RequestException as error:
            raise _BrokenOffError(_reason(error)) from error

    def _store(self, response: requests.Response, have: int, asked_for: str | None) -> None:
        """Write what the server sends behind what is there, or in its place."""
        validator = _validator_of(response)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            start, total = _content_range(response)
            if start != have or validator not in {None, asked_for}:
                # A server that ignores If-Range, and whose file has changed.
                _forget(self.part, self.note)
                raise _BrokenOffError("the file on the server has changed")
        else:
            have = 0
            _forget(self.part, self.note)
            if validator is not None:
                self.note.write_text(json.dumps({"url": self.url, "validator": validator}))
        missing = 0 if total is None else total - have
        if shutil.disk_usage(self.part.parent).free < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            self.part.open("ab") as file,
            show_progress(
                f"Fetching {self.part.stem}", total, shown=self.progress, in_bytes=True
            ) as advance,
        ):
            advance(have)
            self._copy(response, file, advance)
        if total is not None and self._size() != total:
            raise _BrokenOffError(f"{self._size():,} of {total:,} bytes have arrived")

    @staticmethod
    def _copy(response: requests.Response, file: IO[bytes], advance: Callable[[int], None]) -> None:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            advance(len(chunk))


def _validator_of(response: requests.Response) -> str | None:
    """What tells this version of a file from others, byte for byte."""
    tag = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Where what is sent begins, and how long the whole file is.

    ``bytes 100-199/200``, or ``bytes */200`` where nothing is sent.
    """
    sent, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    start = sent.partition("-")[0]
    return int(start) if start.isdigit() else None, int(total) if total.isdigit() else None


def _status(response: requests.Response) -> str:
    return f"{response.status_code} {response.reason}".strip()


def _reason(error: requests.RequestException) -> str:
    """The cause in few words, where `requests` tells of three layers of them."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection could be made"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.Timeout):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "there is no connection to the server, or it broke off"
    return str(error)
