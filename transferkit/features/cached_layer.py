"""The features of one layer in a cache: found by the content of the image, and added."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, OutputError, shorten_path
from transferkit.features.cache import FeatureCache
from transferkit.store import (
    Record,
    Shard,
    ShardWriter,
    has_valid_digest,
    list_shards,
    read_arrays,
    read_records,
)
from transferkit.support.arrow import import_arrow
from transferkit.support.locks import ForkSafeLock

__all__ = ["CachedLayer", "NewFeatures"]

_LOGGER = logging.getLogger(__name__)

_COLUMN = "features"
# Of the shards that were read last.
_MAX_LOADED_BYTES = 128 << 20
# The number of pages of a file whose rows are read one by one, and the bytes that find a page.
_MAX_PIECES = 256
_PROBE = 64
# If there are as many smaller shards, they are joined.
_SMALL_BYTES = 1 << 20
_MAX_SMALL_SHARDS = 32
# In seconds. A process that was stopped for longer does not stop the others.
_MAX_WAIT = 60.0

Floats = npt.NDArray[np.float32]


class NewFeatures(NamedTuple):
    """The features of an image that is not in the cache yet.

    Attributes
    ----------
    source
        The name of the image, for information.
    sha256
        The digest of its content.
    row
        (h, w, c) or (d,) float32.
    """

    source: str
    sha256: bytes
    row: Floats


class _Pieces(NamedTuple):
    """Where the values of a shard are in its file, which has them uncompressed, page by page.

    Attributes
    ----------
    shape
        That of a row.
    places
        For each page: the first byte of the values, its position in the file, and the length.
    """

    shape: tuple[int, ...]
    places: list[tuple[int, int, int]]


class CachedLayer:
    """The features of one layer in a cache; safe to use from several threads and processes.

    They are in shards of their own folder, each written once, whose names have their digests. A
    shard that is damaged is removed.

    Parameters
    ----------
    cache
        The cache.
    key
        The digest of everything that determines the features: the name of the subfolder.
    description
        Information for the metadata of the shards.

    Attributes
    ----------
    key
        As given.

    Raises
    ------
    UnsupportedError
        If pyarrow is not installed.
    """

    def __init__(self, cache: FeatureCache, key: str, description: Mapping[str, str]) -> None:
        import filelock  # slow to import, and rarely needed

        import_arrow()
        self.key = key
        self._cache = cache
        self._folder = cache.path / key
        self._description = description
        self._lock = ForkSafeLock()
        self._digests: dict[str, Sequence[bytes]] = {}
        self._places: dict[bytes, tuple[Shard, int]] = {}
        self._loaded: OrderedDict[str, Floats] = OrderedDict()
        self._valid: set[str] = set()
        self._pieces: dict[str, _Pieces] = {}
        self._is_written = False
        self._queue = filelock.FileLock(self._folder / "queue.lock")
        self._turn = filelock.FileLock(self._folder / "turn.lock")

    def refresh(self) -> None:
        """Learn of the images that other processes have added since, and of removed ones.

        Raises
        ------
        OutputError
            If the folder cannot be read.
        """
        with self._lock:
            shards = {shard.name: shard for shard in self._list()}
            for name in self._digests.keys() - shards.keys():
                self._forget(name)
            for name in shards.keys() - self._digests.keys():
                self._learn(shards[name])

    def __contains__(self, sha256: bytes) -> bool:
        """Return whether the cache has the features of an image."""
        return sha256 in self._places

    def find(self, sha256: bytes) -> Floats | None:
        """Return the features of an image, read-only; None if the cache does not have them.

        Parameters
        ----------
        sha256
            The digest of its content.
        """
        with self._lock:
            while (place := self._places.get(sha256)) is not None:
                shard, row = place
                single = self._read_row(shard, row)
                if single is not None:
                    return single
                array = self._load(shard)
                if array is not None:
                    found: Floats = array[row]
                    return found
        return None

    def add(self, features: Sequence[NewFeatures]) -> None:
        """Write the features of images, and remove others if the cache is too large.

        Raises
        ------
        OutputError
            If they cannot be written.
        """
        by_shape: dict[tuple[int, ...], list[NewFeatures]] = {}
        for one in features:
            by_shape.setdefault(one.row.shape, []).append(one)
        for group in by_shape.values():
            self._write(group)
        self._is_written = self._is_written or bool(features)
        self._cache.limit_size()

    def close(self) -> None:
        """Free memory, and join small shards if there are many."""
        with self._lock:
            self._loaded.clear()
            if self._is_written:
                self._is_written = False
                # What cannot be joined now is joined later.
                with contextlib.suppress(OutputError, FileFormatError, OSError):
                    self._join_small_shards()

    def take_turn(self) -> bool:
        """Wait until no other process or thread computes features of this layer.

        Returns
        -------
        bool
            False if the folder cannot be locked, or the others took too long.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Whoever waits holds this one, so that the others get their turn.
            with self._queue.acquire(timeout=_MAX_WAIT):
                self._turn.acquire(timeout=_MAX_WAIT)
        except (OSError, NotImplementedError) as error:
            # A timeout is an OSError too.
            _LOGGER.info("%s: not locked: %s", self._folder, error)
            return False
        return True

    def end_turn(self) -> None:
        """Let others compute features of this layer."""
        self._turn.release()

    def _list(self) -> list[Shard]:
        try:
            return list_shards(self._folder)
        except FileFormatError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise OutputError(str(error)) from error

    def _learn(self, shard: Shard) -> None:
        """Add the images of a shard to those that can be found."""
        try:
            digests = [
                sha256
                for records in read_records(shard, ["sha256"])
                for sha256 in records.column(0).to_pylist()
            ]
        except FileFormatError as error:
            self._examine(shard, error)
            return
        self._digests[shard.name] = digests
        for row, sha256 in enumerate(digests):
            known = self._places.get(sha256)
            # Of an image that was computed twice, every process takes the same features.
            if known is None or shard.name < known[0].name:
                self._places[sha256] = (shard, row)

    def _load(self, shard: Shard) -> Floats | None:
        """Return the features in a shard; None, and forget the shard, if it cannot be read."""
        name = shard.name
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        try:
            if name not in self._valid:
                # Takes several times as long as reading it.
                if not has_valid_digest(shard):
                    raise FileFormatError(f"{shard.path}: damaged")
                self._valid.add(name)
            shape = shard.read_metadata()[0]["shapes"][_COLUMN]
            array = np.concatenate(list(read_arrays(shard, _COLUMN))).reshape(-1, *shape)
        except (FileFormatError, OSError, KeyError) as error:
            self._forget(name)
            self._examine(shard, error)
            return None
        array.setflags(write=False)
        if name not in self._pieces:
            with contextlib.suppress(OSError):
                self._pieces[name] = _Pieces(array.shape[1:], _find_pieces(shard.path, array))
        # Those that were not used for the longest time are removed first.
        with contextlib.suppress(OSError):
            os.utime(shard.path)
        self._loaded[name] = array
        while len(self._loaded) > 1 and self._loaded_bytes() > _MAX_LOADED_BYTES:
            self._loaded.popitem(last=False)
        return array

    def _read_row(self, shard: Shard, row: int) -> Floats | None:
        """Return a row of a shard that was read before, if it is not in memory any more."""
        name = shard.name
        known = self._pieces.get(name)
        if known is None or name in self._loaded:
            return None
        size = math.prod(known.shape) * 4
        begin, content = row * size, bytearray()
        try:
            with shard.path.open("rb") as file:
                for first, position, length in known.places:
                    start, end = max(begin, first), min(begin + size, first + length)
                    if start < end:
                        file.seek(position + start - first)
                        content += file.read(end - start)
        except OSError:
            return None
        if len(content) != size:
            return None
        found: Floats = np.frombuffer(bytes(content), np.float32).reshape(known.shape)
        return found

    def _loaded_bytes(self) -> int:
        return sum(array.nbytes for array in self._loaded.values())

    def _forget(self, name: str) -> None:
        """Forget the images of a shard, if they are not in another one too."""
        for sha256 in self._digests.pop(name, ()):
            place = self._places.get(sha256)
            if place is not None and place[0].name == name:
                del self._places[sha256]
        self._loaded.pop(name, None)
        self._valid.discard(name)
        self._pieces.pop(name, None)

    def _examine(self, shard: Shard, error: Exception) -> None:
        """Remove a shard that was not read, if its content is not what was written."""
        try:
            if not has_valid_digest(shard):
                _LOGGER.warning("%s is damaged, and removed from the cache", shard.path)
                shard.path.unlink()
                return
        except OSError as reason:
            # Another process may have removed it, to limit the size or because it joined shards;
            # or there are too many open files.
            error = reason
        # It is tried again in the next run.
        _LOGGER.info("%s is not used: %s", shard.path, error)

    def _write(self, features: Sequence[NewFeatures]) -> Path | str | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{shorten_path(self._folder)}: {reason}") from error
        metadata: dict[str, Any] = {**self._description, "num_images": len(features)}
        shapes = {_COLUMN: features[0].row.shape}
        with ShardWriter(self._folder, 0, shapes, metadata=metadata) as writer:
            for row, one in enumerate(features):
                record = Record(row, one.source, sha256=one.sha256)
                writer.append([record], {_COLUMN: one.row[None]})
        return writer.path

    def _join_small_shards(self) -> None:
        """Write the images of small shards into one, and remove them."""
        self.refresh()
        small = [shard for shard in self._list() if shard.path.stat().st_size < _SMALL_BYTES]
        if len(small) < _MAX_SMALL_SHARDS:
            return
        by_shape: dict[tuple[int, ...], dict[bytes, NewFeatures]] = {}
        joined: list[Shard] = []
        for shard in small:
            digests = self._digests.get(shard.name, ())
            array = self._load(shard)
            if array is None:
                continue
            joined.append(shard)
            for sha256, row in zip(digests, array, strict=True):
                rows = by_shape.setdefault(row.shape, {})
                rows.setdefault(sha256, NewFeatures("", sha256, row))
        written = {self._write(list(features.values())) for features in by_shape.values()}
        for shard in joined:
            # One that has the images of all others is written again under the same name.
            if shard.path not in written:
                with contextlib.suppress(OSError):
                    shard.path.unlink()
        self._loaded.clear()


def _find_pieces(path: Path, array: Floats) -> list[tuple[int, int, int]]:
    """Return where the bytes of an array are in a file; fewer pieces if they are not all found.

    Each is compared with the array, so that whatever is found has the right values.
    """
    values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    content = path.read_bytes()
    places: list[tuple[int, int, int]] = []
    first = position = 0
    while first < len(values) and len(places) < _MAX_PIECES:
        position = content.find(values[first : first + _PROBE].tobytes(), position)
        if position < 0:
            break
        length = min(len(values) - first, len(content) - position)
        is_other = values[first : first + length] != np.frombuffer(
            content, np.uint8, length, position
        )
        length = int(is_other.argmax()) if is_other.any() else length
        places.append((first, position, length))
        first, position = first + length, position + length
    return places
