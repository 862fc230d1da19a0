"""How far the workers are, which they report while they compute a shard."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transferkit.features.to_store import StoreRun

__all__ = ["Counter", "ShardProgress", "counted"]

_INTERVAL = 1.0


class Counter:
    """An actor of Ray that has the numbers of images of all shards."""

    def __init__(self) -> None:
        self._counts: dict[int, tuple[int, int]] = {}

    def set(self, shard: int, num_rows: int, num_skipped: int) -> None:
        """Replace the numbers of a shard, which begins again if its worker is lost."""
        self._counts[shard] = (num_rows, num_skipped)

    def total(self) -> tuple[int, int]:
        """Return the number of images, and of those that were skipped."""
        rows, skipped = zip(*self._counts.values(), strict=True) if self._counts else ((), ())
        return sum(rows), sum(skipped)


class ShardProgress:
    """In a worker: counts the images of a shard, and reports them about once a second.

    Parameters
    ----------
    counter
        A `Counter`, as an actor of Ray; None: nothing is reported.
    """

    def __init__(self, counter: Any) -> None:
        self._counter = counter
        self._shard = 0
        self._rows = 0
        self._skipped = 0
        self._reported = 0.0

    def begin(self, shard: int) -> None:
        """Begin a shard."""
        self._shard = shard
        self._rows = self._skipped = 0

    def add(self, num_rows: int, num_skipped: int) -> None:
        """Count images of the shard."""
        self._rows += num_rows
        self._skipped += num_skipped
        now = time.monotonic()
        if self._counter is not None and now - self._reported >= _INTERVAL:
            self._reported = now
            # Nothing waits for this.
            self._counter.set.remote(self._shard, self._rows, self._skipped)


@contextmanager
def counted(ray: Any, run: StoreRun) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """Count the images of a run during a ``with`` block, while workers compute them.

    Parameters
    ----------
    ray
        The module.
    run
        The run.

    Yields
    ------
    counter, done
        A `Counter`, as an actor of Ray; and a list to which the numbers of images and of skipped
        ones are appended when a shard is complete.
    """
    counter = ray.remote(Counter).options(num_cpus=0).remote()
    done: list[tuple[int, int]] = []
    seen = (0, 0)
    ended = threading.Event()

    def count(total: tuple[int, int]) -> None:
        nonlocal seen
        run.count(total[0] - seen[0], total[1] - seen[1])
        seen = total

    def poll() -> None:
        while not ended.wait(_INTERVAL):
            try:
                count(ray.get(counter.total.remote()))
            except ray.exceptions.RayError:
                # Its machine is lost; the end is still counted.
                return

    thread = threading.Thread(target=poll, name="transferkit-ray-progress", daemon=True)
    thread.start()
    try:
        yield counter, done
    finally:
        ended.set()
        thread.join()
        ray.kill(counter)
    count((sum(rows for rows, _ in done), sum(skipped for _, skipped in done)))
