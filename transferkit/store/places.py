"""Where a store is: a local folder, or a folder on a file system of fsspec, such as ``s3``.

A file is written under a temporary name, and has its own name only when it is complete.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from transferkit.errors import DownloadError, OutputError, ParameterError, shorten, shorten_path
from transferkit.store.locks import FolderLock, RemoteLock, StoreLock
from transferkit.support.atomic_write import (
    check_folder_writable,
    sync_folder,
    write_atomically,
)
from transferkit.support.random_access import RandomAccessFile
from transferkit.support.remote import (
    RemoteError,
    check_scheme,
    import_fsspec,
    is_url,
    try_several_times,
)
from transferkit.weights.download import OFFLINE_VARIABLE

__all__ = ["FolderPlace", "Place", "RemotePlace", "find_place"]

Result = TypeVar("Result")

_LOCK = ".lock"
# The folder in a store with the arrays of layers; it may be removed at any time. As with all names
# in a store but those of shards, pyarrow and Spark pass over it because of the first character.
_ARRAYS = "_arrays"
# What is left of a URL in a pathlib.Path.
_BROKEN_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):[\\/]")
_PATTERN = re.compile(r"[*?\[\]]")
# Schemes of this machine.
_WITHOUT_CONNECTION = ("local", "memory")
# The size of the pieces that are read from servers.
_BLOCK = 4 << 20
# Errors of a file system for which another try is futile.
_FINAL_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class Place(ABC):
    """Where the files of a store are. A path-like object: its path is a folder or a URL."""

    @abstractmethod
    def __fspath__(self) -> str: ...

    def __str__(self) -> str:
        return os.fspath(self)

    @abstractmethod
    def locate(self, name: str) -> Path | str:
        """Return the path or the URL of a file."""

    @abstractmethod
    def absolute(self) -> Place:
        """Return the place as it is called in other working directories."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the files, sorted.

        Raises
        ------
        OSError
            If there is no such folder, or it cannot be read.
        """

    @abstractmethod
    def open(self, name: str) -> io.BufferedReader:
        """Open a file, which can seek.

        Raises
        ------
        OSError
            If it cannot be read; a `DownloadError` for a server.
        """

    @abstractmethod
    def create(self) -> None:
        """Create the folder if it is not there.

        Raises
        ------
        OSError
            If it cannot be created.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all.

        Raises
        ------
        OutputError
            If it cannot be written.
        """

    @abstractmethod
    def begin(self, part: str) -> Path:
        """Begin to write a file, and return the local file that gets its content.

        Parameters
        ----------
        part
            The temporary name, which the place has from now on, however the process ends.

        Raises
        ------
        OSError
            If it cannot be written.
        """

    @abstractmethod
    def complete(self, part: str, name: str) -> None:
        """Give a file that was begun, and is closed now, its name.

        Raises
        ------
        OSError
            If it cannot be written.
        """

    @abstractmethod
    def discard(self, part: str) -> None:
        """Remove a file that was begun.

        Raises
        ------
        OSError
            If it cannot be removed.
        """

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Rename a file; one that has the new name is replaced.

        Raises
        ------
        OSError
            If it cannot be renamed.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises
        ------
        OSError
            If it cannot be removed.
        """

    @abstractmethod
    def lock(self) -> StoreLock:
        """Return the lock of the store, which is not acquired yet."""

    @abstractmethod
    def arrays(self) -> Path | None:
        """Return the folder for the arrays of layers, which need not exist; None: none."""


def find_place(folder: str | os.PathLike[str]) -> Place:
    """Return the place that a path, a URL or a place names; ``~`` is the home folder.

    Raises
    ------
    ParameterError
        If it is empty or not a path, or the URL is not that of a store.
    UnknownNameError
        If the scheme of the URL is unknown.
    UnsupportedError
        If fsspec, or the package that it needs for the scheme, is not installed.
    """
    if isinstance(folder, Place):
        return folder
    if not isinstance(folder, (str, os.PathLike)):
        raise ParameterError(f"folder is {shorten(folder)}; expected a path or a URL")
    text = os.fsdecode(folder)
    if not text:
        raise ParameterError("folder is ''; expected a path or a URL, such as 'features/'")
    if not isinstance(folder, str) and (match := _BROKEN_URL.match(text)):
        raise ParameterError(
            f"{shorten_path(text)}: a Path cannot hold a URL; give it as a str, "
            f"'{match['scheme']}://...'"
        )
    if not is_url(text):
        try:
            return FolderPlace(Path(text).expanduser())
        except RuntimeError:
            raise ParameterError(
                f"{shorten_path(text)}: the home folder in this path cannot be found"
            ) from None
    if text.lower().startswith("file://"):
        return FolderPlace(Path(url2pathname(urlsplit(text).path)))
    if _PATTERN.search(text):
        raise ParameterError(
            f"{shorten_path(text)}: the URL of a store cannot have '*', '?', '[' or ']'"
        )
    check_scheme(urlsplit(text).scheme)
    return RemotePlace(text.rstrip("/"))


@dataclass(frozen=True, slots=True)
class FolderPlace(Place):
    """A local folder.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def locate(self, name: str) -> Path:
        """Return the path of a file; see `Place`."""
        return self.path / name

    def absolute(self) -> Place:
        """Return the place as it is called in other working directories; see `Place`."""
        return FolderPlace(self.path.absolute())

    def names(self) -> list[str]:
        """Return the names of the files; see `Place`."""
        return sorted(os.listdir(self.path))

    def open(self, name: str) -> io.BufferedReader:
        """Open a file; see `Place`."""
        return self.locate(name).open("rb")

    def create(self) -> None:
        """Create the folder; see `Place`."""
        check_folder_writable(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; see `Place`."""
        with write_atomically(self.locate(name)) as file:
            file.write(content)

    def begin(self, part: str) -> Path:
        """Begin to write a file; see `Place`."""
        return self.locate(part)

    def complete(self, part: str, name: str) -> None:
        """Give a file its name; see `Place`."""
        self.rename(part, name)

    def discard(self, part: str) -> None:
        """Remove a file that was begun; see `Place`."""
        self.remove(part)

    def rename(self, old: str, new: str) -> None:
        """Rename a file; see `Place`."""
        self.locate(old).replace(self.locate(new))
        sync_folder(self.path)

    def remove(self, name: str) -> None:
        """Remove a file; see `Place`."""
        self.locate(name).unlink(missing_ok=True)

    def lock(self) -> StoreLock:
        """Return the lock of the store; see `Place`."""
        return FolderLock(self.locate(_LOCK))

    def arrays(self) -> Path | None:
        """Return the folder for arrays; see `Place`."""
        return self.path / _ARRAYS


@dataclass(frozen=True, slots=True)
class RemotePlace(Place):
    """A folder on a file system of fsspec. Credentials are those of the environment.

    Attributes
    ----------
    url
        The URL of the folder.
    """

    url: str

    def __fspath__(self) -> str:
        return self.url

    def locate(self, name: str) -> str:
        """Return the URL of a file; see `Place`."""
        return f"{self.url}/{name}"

    def absolute(self) -> Place:
        """Return the place itself; see `Place`."""
        return self

    def names(self) -> list[str]:
        """Return the names of the files; see `Place`."""

        def listed(system: Any, folder: str) -> list[str]:
            # File systems keep what they have listed.
            system.invalidate_cache(folder)
            return sorted(posixpath.basename(path) for path in system.ls(folder, detail=False))

        return self._reading(listed, "")

    def open(self, name: str) -> io.BufferedReader:
        """Open a file; see `Place`."""

        def size(system: Any, path: str) -> int:
            system.invalidate_cache(posixpath.dirname(path))
            return int(system.info(path)["size"])

        length = self._reading(size, name)

        def read_at(position: int, size: int) -> bytes:
            return self.read(name, position, position + size)

        return io.BufferedReader(RandomAccessFile(read_at, length), _BLOCK)

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes from ``begin`` to ``end - 1`` of a file.

        Raises
        ------
        DownloadError
            If they cannot be read.
        """

        def part(system: Any, path: str) -> bytes:
            content: bytes = system.cat_file(path, start=begin, end=end)
            if len(content) != end - begin:
                raise OSError("the connection was lost")
            return content

        return self._reading(part, name)

    def create(self) -> None:
        """Create the folder; see `Place`."""

        def make_folders(system: Any, path: str) -> None:
            # Not the first part, which is a bucket: one is not created because of a typing error.
            parts = path.split("/")
            for stop in range(2, len(parts) + 1):
                folder = "/".join(parts[:stop])
                if not system.exists(folder):
                    with suppress(FileExistsError):
                        system.mkdir(folder, create_parents=False)

        self._call(make_folders, "")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; see `Place`."""
        part = f".{name}.{secrets.token_hex(4)}.part"

        def written(system: Any, path: str) -> None:
            system.pipe_file(path, content)
            system.mv(path, f"{posixpath.dirname(path)}/{name}")

        try:
            self._call(written, part)
        except OSError as error:
            with suppress(OSError):
                self.remove(part)
            reason = error.strerror or error
            raise OutputError(
                f"{shorten_path(self.locate(name))}: cannot be written: {reason}"
            ) from None

    def begin(self, part: str) -> Path:
        """Begin to write a file, and leave an empty one with its name; see `Place`."""
        self._call(lambda system, path: system.pipe_file(path, b""), part)
        return _local_file(part)

    def complete(self, part: str, name: str) -> None:
        """Upload a file, and give it its name; see `Place`."""
        local = _local_file(part)

        def uploaded(system: Any, path: str) -> None:
            system.put_file(str(local), path)
            system.mv(path, f"{posixpath.dirname(path)}/{name}")

        self._call(uploaded, part)
        local.unlink()

    def discard(self, part: str) -> None:
        """Remove a file that was begun; see `Place`."""
        _local_file(part).unlink(missing_ok=True)
        self.remove(part)

    def rename(self, old: str, new: str) -> None:
        """Rename a file; see `Place`."""
        self._call(
            lambda system, path: system.mv(path, f"{posixpath.dirname(path)}/{new}"),
            old,
        )

    def remove(self, name: str) -> None:
        """Remove a file; see `Place`."""
        with suppress(FileNotFoundError):
            self._call(lambda system, path: system.rm_file(path), name)

    def lock(self) -> StoreLock:
        """Return the lock of the store; see `Place`."""
        return RemoteLock(self.url, _LOCK, self._call)

    def arrays(self) -> Path | None:
        """Return None: arrays are in a temporary folder; see `Place`."""
        return None

    def _reading(self, call: Callable[[Any, str], Result], name: str) -> Result:
        """Return the result of `_call`, whose errors are DownloadErrors."""
        try:
            return self._call(call, name)
        except FileNotFoundError:
            raise
        except OSError as error:
            where = self.locate(name) if name else self.url
            reason = error.strerror or error
            raise DownloadError(f"{shorten_path(where)}: cannot be read: {reason}") from error

    def _call(self, call: Callable[[Any, str], Result], name: str) -> Result:
        """Return the result of a call with the file system, and the path of a file in it.

        The call is repeated after errors that may be temporary.

        Raises
        ------
        OSError
            If it fails, whatever the file system raises.
        """
        is_offline = os.environ.get(OFFLINE_VARIABLE, "0") not in {"", "0"}
        if is_offline and urlsplit(self.url).scheme not in _WITHOUT_CONNECTION:
            raise RemoteError(f"{OFFLINE_VARIABLE} is set")

        def attempt() -> Result:
            try:
                system, folder = import_fsspec().core.url_to_fs(self.url)
                folder = folder.rstrip("/")
                return call(system, f"{folder}/{name}" if name else folder)
            except Exception as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                for kind in _FINAL_ERRORS:
                    if isinstance(error, kind):
                        raise kind(error.errno or 0, reason) from error
                raise RemoteError(reason, is_temporary=isinstance(error, OSError)) from error

        return try_several_times(attempt)


def _local_file(part: str) -> Path:
    return Path(tempfile.gettempdir(), f"transferkit{part}")
