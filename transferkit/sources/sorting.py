"""Sorting of more names than fit in memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from transferkit.sources.temporary import TemporaryContent

__all__ = ["SortedNames"]

# Names in memory at a time, some 10 MB of them.
_CHUNK = 50_000
_BLOCK = 1 << 16
# Separates names in a file; neither file names nor URLs contain it.
_END = b"\0"
# Parts of names that are no valid Unicode, as Linux allows, are kept as they are.
_LOSSLESS = "surrogatepass"


class SortedNames:
    """Different names, sorted character by character, in memory that does not grow with them.

    Parameters
    ----------
    names
        The names, without NUL characters. They are sorted in chunks, which are written to a
        temporary file, and merged into a second one.
    chunk
        The number of names in memory at a time. Without more names, no file is written.

    Examples
    --------
    >>> from transferkit.sources.sorting import SortedNames
    >>> names = SortedNames(iter("cabab"), chunk=2)
    >>> len(names), list(names)
    (3, ['a', 'b', 'c'])
    """

    def __init__(self, names: Iterable[str], *, chunk: int = _CHUNK) -> None:
        self._file: TemporaryContent | None = None
        self._few: list[str] = []
        chunks: list[tuple[int, int]] = []
        file = TemporaryContent()
        waiting: list[str] = []
        for name in names:
            waiting.append(name)
            if len(waiting) >= chunk:
                begin, end, _ = _write(file, sorted(waiting))
                chunks.append((begin, end))
                waiting.clear()
        waiting.sort()
        if not chunks:
            self._few = list(_different(waiting))
            self._length = len(self._few)
            return
        file.flush()
        merged = heapq.merge(*(_read(file, *place) for place in chunks), waiting)
        self._file = TemporaryContent()
        _, self._end, self._length = _write(self._file, _different(merged))
        self._file.flush()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._few) if self._file is None else _read(self._file, 0, self._end)


def _different(names: Iterable[str]) -> Iterator[str]:
    """Yield sorted names, each once."""
    before = None
    for name in names:
        if name != before:
            yield name
        before = name


def _write(file: TemporaryContent, names: Iterable[str]) -> tuple[int, int, int]:
    """Write names; return where they begin and end in the file, and their number."""
    begin, number = file.length, 0
    for name in names:
        file.append(name.encode("utf-8", _LOSSLESS) + _END)
        number += 1
    return begin, file.length, number


def _read(file: TemporaryContent, begin: int, end: int) -> Iterator[str]:
    """Yield the names in a part of the file."""
    rest = b""
    while begin < end:
        block = file.read_at(begin, min(_BLOCK, end - begin))
        begin += len(block)
        *complete, rest = (rest + block).split(_END)
        for name in complete:
            yield name.decode("utf-8", _LOSSLESS)
