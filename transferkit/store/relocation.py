"""The paths of images that were moved since their features were computed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

from transferkit.errors import DatasetError, shorten_path
from transferkit.images.content import load_content
from transferkit.store.shards import Record, Shard, decode_source, read_records

__all__ = ["Relocation", "check_base", "find_relocation", "sample_records"]

_T = TypeVar("_T")

_COLUMNS = ("row", "source", "size", "sha256")
# The number of paths that are tried to find out where the images are now, the number of shards that
# they are from, and the number of files that are read to compare their content.
_MAX_TRIED = 100
_MAX_SHARDS = 10
_MAX_HASHED = 5


@dataclass(frozen=True, slots=True)
class Relocation:
    """A folder that was moved: where it was when the features were computed, and where it is.

    Attributes
    ----------
    stored
        The beginning of the paths in the store, with the separator at its end; may be empty.
    local
        What replaces it, absolute.

    Examples
    --------
    >>> from transferkit.store.relocation import Relocation
    >>> moved = Relocation("/data/photos/", "/home/me/photos/")
    >>> moved.to_local("/data/photos/cat/1.jpg")
    '/home/me/photos/cat/1.jpg'
    >>> moved.to_stored("/home/me/photos/cat/1.jpg")
    '/data/photos/cat/1.jpg'
    """

    stored: str
    local: str

    def to_local(self, source: str) -> str:
        """Return the path of an image here; other sources are returned as they are."""
        if not source.startswith(self.stored):
            return source
        rest = source[len(self.stored) :]
        return self.local + (rest.replace("\\", "/") if _is_windows(self.stored) else rest)

    def to_stored(self, source: str) -> str:
        """Return the path of an image in the store; other sources are returned as they are."""
        path = self._absolute(source)
        if not path.startswith(self.local):
            return source
        rest = path[len(self.local) :]
        return self.stored + (rest.replace("/", "\\") if _is_windows(self.stored) else rest)

    def is_local(self, source: str) -> bool:
        """Return whether an image is in the folder here, however its path is written."""
        return self._absolute(source).startswith(self.local)

    def _absolute(self, source: str) -> str:
        return source if "://" in source else os.path.abspath(source)


def sample_records(shards: Sequence[Shard]) -> list[Record]:
    """Return what a store has about some of its images, from its beginning to its end.

    Raises
    ------
    FileFormatError
        If a shard is damaged.
    """
    chosen = _evenly_spaced(shards, _MAX_SHARDS)
    records: list[Record] = []
    for shard in chosen:
        rows = [row for batch in read_records(shard, _COLUMNS) for row in batch.to_pylist()]
        for row in _evenly_spaced(rows, _MAX_TRIED // len(chosen)):
            records.append(Record(**{**row, "source": decode_source(row["source"])}))
    return records


def find_relocation(records: Sequence[Record], base: str | os.PathLike[str]) -> Relocation:
    """Find which beginning of the paths in a store is a folder here.

    Parameters
    ----------
    records
        Some images of the store.
    base
        The folder here that has the images.

    Returns
    -------
    Relocation
        The beginning of a path with which the rest of most paths are those of files in ``base``, of
        the same content as far as the store knows it; the shortest of several.

    Raises
    ------
    DatasetError
        If there is none, or several fit as well.
    """
    check_base(base)
    if not records:
        raise DatasetError("base is given, but the store has no images")
    folder = Path(os.path.abspath(base))
    candidates: dict[str, Relocation] = {}
    for record in records:
        for found in _candidates(record.source, folder):
            candidates.setdefault(found.stored, found)
    fitting: list[tuple[int, Relocation]] = []
    largest = 0
    for found in candidates.values():
        number, is_same = _compare(found, records)
        largest = max(largest, number)
        if is_same:
            fitting.append((number, found))
    if not fitting:
        raise DatasetError(_why_not_found(records, base, largest))
    most = max(number for number, _ in fitting)
    best = sorted((found for number, found in fitting if number == most), key=_length)
    for other in best[1:]:
        if not other.stored.startswith(best[0].stored):
            raise DatasetError(
                f"base is {shorten_path(base)}, which {shorten_path(best[0].stored)} and "
                f"{shorten_path(other.stored)} in the store fit alike, with {most} of "
                f"{len(records)} tried images each; pass the folder above"
            )
    return best[0]


def check_base(base: str | os.PathLike[str]) -> None:
    """Check that the folder that has the images exists.

    Raises
    ------
    DatasetError
        If not.
    """
    if not Path(base).is_dir():
        raise DatasetError(f"base is {shorten_path(base)}; expected a folder that exists")


def _candidates(source: str, folder: Path) -> Iterator[Relocation]:
    """Yield with which beginnings of a path the rest of it is a file in a folder."""
    windows = _is_windows(source)
    parts = (PureWindowsPath if windows else PurePosixPath)(source).parts
    for start in range(len(parts)):
        rest = parts[start:]
        if not Path(rest[0]).is_absolute() and folder.joinpath(*rest).is_file():
            ending = ("\\" if windows else "/").join(rest)
            yield Relocation(source[: len(source) - len(ending)], os.path.join(folder, ""))


def _compare(relocation: Relocation, records: Sequence[Record]) -> tuple[int, bool]:
    """Return how many images are there, and whether these are the ones of the store.

    A few may have changed since.
    """
    found = num_same = num_others = 0
    for record in records:
        path = relocation.to_local(record.source)
        if not record.source.startswith(relocation.stored) or not os.path.isfile(path):
            continue
        found += 1
        if record.size is None:
            continue
        if os.path.getsize(path) != record.size:
            num_others += 1
        elif record.sha256 is not None and num_same + num_others < _MAX_HASHED:
            is_same = load_content(path, path).sha256 == record.sha256
            num_same += is_same
            num_others += not is_same
    return found, num_same > num_others or num_others == 0


def _why_not_found(records: Sequence[Record], base: str | os.PathLike[str], found: int) -> str:
    where, example = shorten_path(base), shorten_path(records[0].source)
    if found:
        return (
            f"base is {where}, which has files with the names of {found} of {len(records)} tried "
            f"images of the store, such as {example}, but with other content; pass the folder that "
            "has the images themselves"
        )
    return (
        f"base is {where}, but no ending of the paths in the store, such as {example}, is the path "
        f"of a file in this folder; {len(records)} were tried"
    )


def _evenly_spaced(items: Sequence[_T], number: int) -> Sequence[_T]:
    step = max(1, -(-len(items) // number))
    return items[::step]


def _length(relocation: Relocation) -> int:
    return len(relocation.stored)


def _is_windows(path: str) -> bool:
    return "\\" in path and "/" not in path
