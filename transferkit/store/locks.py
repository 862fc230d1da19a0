"""The lock of a store, which lets one process at a time add to it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from transferkit.errors import OutputError, shorten, shorten_path

__all__ = ["FolderLock", "RemoteLock", "StoreLock"]

# Seconds between two renewals of a lock on a server.
_INTERVAL = 20.0
# Seconds after which a lock that is not renewed has ended.
_MAX_AGE = 120.0
# How often a lock is read that is damaged, and the seconds in between.
_TRIES = 4
_PAUSE = 0.5


class StoreLock(ABC):
    """The lock of a store."""

    @abstractmethod
    def acquire(self) -> None:
        """Acquire the lock.

        Raises
        ------
        OutputError
            If another process has it.
        OSError
            If it cannot be written.
        """

    @abstractmethod
    def check(self) -> None:
        """Check that no other process has taken the lock since.

        Raises
        ------
        OutputError
            If one has.
        """

    @abstractmethod
    def release(self) -> None:
        """Release the lock."""


class FolderLock(StoreLock):
    """A lock of the operating system, which ends with the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, timeout=0)

    def acquire(self) -> None:
        """Acquire the lock; see `StoreLock`."""
        try:
            self._lock.acquire()
        except Timeout:
            raise OutputError(
                f"{shorten_path(self._path.parent)}: another process is writing to this store; "
                "wait until it ends, or choose another folder"
            ) from None

    def check(self) -> None:
        """Do nothing: nobody else can take the lock."""

    def release(self) -> None:
        """Release the lock; see `StoreLock`."""
        self._lock.release()


@dataclass(frozen=True, slots=True)
class _Owner:
    """What is written in a lock on a server: who has it, and when it was renewed."""

    host: str
    process: int
    token: str
    time: float

    def is_gone(self) -> bool:
        """Return whether its process has ended, as far as this can be known."""
        if time.time() - self.time > _MAX_AGE:
            return True
        # On Windows, this would end the process.
        if self.host != socket.gethostname() or os.name == "nt":
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


class RemoteLock(StoreLock):
    """A file that names its owner, who renews it until the run ends.

    Servers have no locks. The file is created so that one of two processes fails, where the file
    system can do this, and read back where not. A process that was stopped for longer than the
    lock lasts, or begins in the same moment as another, is told when it renews the lock or writes
    the next shard.

    Parameters
    ----------
    url
        The URL of the store, for messages.
    name
        The name of the file.
    call
        Calls a function with the file system and the path of a file in the store, as
        `transferkit.store.places.RemotePlace` does.
    """

    def __init__(
        self, url: str, name: str, call: Callable[[Callable[[Any, str], Any], str], Any]
    ) -> None:
        self._url = url
        self._name = name
        self._call = call
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._other: _Owner | None = None

    def acquire(self) -> None:
        """Acquire the lock, and renew it in a thread from now on; see `StoreLock`."""
        self._check_free()
        try:
            self._create()
            self._check_free()
        except BaseException:
            self.release()
            raise
        self._thread = threading.Thread(
            target=self._renew, name="transferkit-store-lock", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Check that no other process has taken the lock; see `StoreLock`."""
        if self._other is not None:
            raise self._taken(self._other)

    def release(self) -> None:
        """Release the lock; see `StoreLock`."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        # Where this fails, the lock ends when it is old.
        with suppress(OSError):
            owner = self._read()
            if owner is not None and owner.token == self._token:
                self._remove()

    def _check_free(self) -> None:
        """Check that no other process has the lock, and remove one that has ended."""
        owner = self._read()
        if owner is None or owner.token == self._token:
            return
        if not owner.is_gone():
            raise self._taken(owner)
        self._remove()

    def _create(self) -> None:
        try:
            self._write(mode="create")
        except FileExistsError:
            # Another process was faster, or the answer to the first of several tries was lost.
            return
        except OSError:
            # The file system cannot create a file exclusively, or it cannot be written to.
            self._check_free()
            self._write()

    def _renew(self) -> None:
        while not self._ended.wait(_INTERVAL):
            # After a failure, the next renewal may succeed.
            with suppress(OSError):
                owner = self._read()
                if owner is not None and owner.token != self._token:
                    self._other = owner
                    return
                self._write()

    def _read(self) -> _Owner | None:
        """Return who has the lock; None if nobody has, or the file is damaged."""
        for _ in range(_TRIES):
            try:
                content = self._call(lambda system, path: system.cat_file(path), self._name)
                data = json.loads(content)
                return _Owner(
                    str(data["host"]), int(data["process"]), str(data["token"]), float(data["time"])
                )
            except FileNotFoundError:
                return None
            except (ValueError, KeyError, TypeError):
                # Some file systems show a file while it is written.
                time.sleep(_PAUSE)
        return None

    def _write(self, **mode: str) -> None:
        owner = _Owner(socket.gethostname(), os.getpid(), self._token, time.time())
        content = json.dumps(asdict(owner)).encode()
        self._call(lambda system, path: system.pipe_file(path, content, **mode), self._name)

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            self._call(lambda system, path: system.rm_file(path), self._name)

    def _taken(self, owner: _Owner) -> OutputError:
        return OutputError(
            f"{shorten_path(self._url)}: another process is writing to this store: process "
            f"{owner.process} on {shorten(owner.host)}; wait until it ends, or choose another "
            f"folder. If it was killed, its lock ends after {_MAX_AGE:.0f} seconds"
        )
