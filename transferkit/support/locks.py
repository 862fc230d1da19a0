"""A lock for objects that may be copied to another process by a fork."""

from __future__ import annotations

import os
import threading

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A reentrant lock that nobody holds in a process that was just forked.

    A fork copies a lock in its current state, but not the thread that holds it and would
    release it. A pickled lock is restored as a new one.

    Examples
    --------
    >>> from transferkit.support.locks import ForkSafeLock
    >>> lock = ForkSafeLock()
    >>> with lock, lock:
    ...     print("held twice")
    held twice
    """

    def __init__(self) -> None:
        # By process.
        self._locks: dict[int, threading.RLock] = {}

    def __enter__(self) -> None:
        # `setdefault` is atomic: all threads of a process get the same lock.
        self._locks.setdefault(os.getpid(), threading.RLock()).acquire()

    def __exit__(self, *raised: object) -> None:
        self._locks[os.getpid()].release()

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return (ForkSafeLock, ())
