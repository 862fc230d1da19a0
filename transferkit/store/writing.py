"""Writing of a store: its lock, what it has already, and where new shards belong."""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from transferkit.errors import DownloadError, FileFormatError, OutputError, shorten_path
from transferkit.store.known import KnownImages
from transferkit.store.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from transferkit.store.mapped import remove_copies
from transferkit.store.places import find_place
from transferkit.store.shards import (
    Record,
    Shard,
    ShardWriter,
    check_layer_names,
    decode_source,
    distinct_shards,
    has_valid_digest,
    is_system_error,
    list_parts,
    read_records,
)
from transferkit.support.arrow import import_arrow
from transferkit.support.warning import warn

__all__ = ["Slot", "StoreWriter", "new_shard"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a shard belongs that is not there yet.

    Attributes
    ----------
    number
        The number of the shard.
    first_row
        The number of its first image in the store.
    max_rows
        The largest number of images it may have.
    is_gap
        Whether it replaces one that was lost, so that a part of it would leave no number for the
        rest.
    after
        If it replaces one that was lost: the last row before this one and the lost ones beside it;
        -1: none.
    """

    number: int
    first_row: int
    max_rows: int
    is_gap: bool
    after: int = -1


@dataclass(frozen=True, slots=True)
class _Range:
    """The rows of a shard: ``first`` to ``stop - 1``."""

    shard: Shard
    first: int
    stop: int


def new_shard(folder: str | os.PathLike[str], manifest: Manifest, slot: Slot) -> ShardWriter:
    """Return a writer of the shard that belongs in a slot; it needs no lock.

    Parameters
    ----------
    folder, manifest
        Of the store; the folder may be a URL.
    slot
        As returned by `StoreWriter.next_slot`, in this or another process.
    """
    return ShardWriter(
        folder,
        slot.number,
        manifest.layers,
        manifest.dtype,
        metadata={"first_row": slot.first_row},
    )


class StoreWriter:
    """Adds shards to a store, which no other process can do at the same time.

    On entering a ``with`` block, the folder and the manifest are created if they are not there;
    otherwise the manifest is compared with the new one, and every shard with its digest: damaged
    ones are renamed, and their rows are to be written again.

    Parameters
    ----------
    folder
        The folder, or its URL.
    manifest
        The manifest of a new store.
    differences
        A function that names each difference between the description in the manifest of an
        existing store, its argument, and that in ``manifest``, as clauses.
    on_check
        Called with 1 when a shard has been checked.

    Attributes
    ----------
    place : Place
        Where the store is.
    manifest : Manifest
        The manifest; on entering, that of the store if there is one.
    known : KnownImages
        The images that the store has.
    damaged : list of str
        The names of the damaged shards.

    Raises
    ------
    OutputError
        On entering: if the folder cannot be written to, or another process writes to the store.
    ParameterError
        On entering: if the store was made with other settings; when created: if a layer has the
        name of another column.
    FileFormatError
        On entering: if the store is of a newer version, its manifest is missing or damaged, or a
        file cannot be read.
    DownloadError
        On entering: if the store cannot be read from a server.
    UnsupportedError
        When created: if pyarrow is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        *,
        differences: Callable[[Mapping[str, Any]], list[str]],
        on_check: Callable[[int], None] = lambda _number: None,
    ) -> None:
        import_arrow()
        check_layer_names(manifest.layers)
        self.place = find_place(folder)
        self.known = KnownImages()
        self.damaged: list[str] = []
        self.manifest = manifest
        self._differences = differences
        self._on_check = on_check
        self._lock = self.place.lock()
        self._ranges: list[_Range] = []
        self._gaps: list[Slot] = []
        # The row before lost ones to that after them, of which the first has been seen, and the
        # second has not; None: there are no rows after them.
        self._places: dict[int, int | None] = {}
        self._open_places: set[int] = set()
        self._num_lost = 0
        self._is_order_lost = False
        self._unfilled: list[Slot] = []
        self._next_number = 0
        self._next_row = 0
        self._cached: tuple[Shard, list[dict[str, Any]]] | None = None

    def __enter__(self) -> Self:
        try:
            self.place.create()
            self._lock.acquire()
        except OutputError:
            raise
        except OSError as error:
            raise self._not_written(error) from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._lock.release()

    @property
    def first_source(self) -> str | None:
        """The source of the first image of the store; None if it has none."""
        if not self._ranges or self._ranges[0].first == self._ranges[0].stop:
            return None
        return self.find_record(self._ranges[0].first).source

    def new_shard(self, slot: Slot) -> ShardWriter:
        """Return a writer of the shard that belongs in a slot."""
        return new_shard(self.place, self.manifest, slot)

    def next_slot(self) -> Slot:
        """Return where the next new image belongs: in a shard that was lost, or at the end.

        It belongs in one that was lost if the images that were before these have been passed, see
        `pass_row`, and those after them have not. Any other image is new.

        At the end, shards have the rows up to the next multiple of the shard size, so that the
        first image of a batch does not depend on interruptions.
        """
        for slot in self._gaps:
            if slot.after in self._open_places:
                return slot
        # More images than were lost: some of them are new, and which is not known.
        full = self._open_places.difference(slot.after for slot in self._gaps)
        if any(self._places[after] is not None for after in full):
            self._is_order_lost = True
        size = self.manifest.shard_size
        return Slot(self._next_number, self._next_row, size - self._next_row % size, is_gap=False)

    def use(self, slot: Slot, num_rows: int) -> None:
        """Record that a number of rows are written to the slot that `next_slot` returned."""
        if slot.is_gap:
            self._gaps.remove(slot)
            self._num_lost += slot.max_rows - num_rows
        else:
            self._next_number += 1
            self._next_row += num_rows

    def pass_row(self, row: int) -> None:
        """Record that the input has come to an image that the store has.

        Parameters
        ----------
        row
            Its row.
        """
        if row in self._places:
            self._open_places.add(row)
        closed = {after for after in self._open_places if self._places[after] == row}
        self._open_places -= closed

    def find_record(self, row: int) -> Record:
        """Return what the store has about the image of a row.

        Raises
        ------
        FileFormatError
            If its shard is damaged.
        """
        index = bisect.bisect_right([item.first for item in self._ranges], row) - 1
        item = self._ranges[index]
        if self._cached is None or self._cached[0] != item.shard:
            rows = [row for batch in read_records(item.shard) for row in batch.to_pylist()]
            self._cached = (item.shard, rows)
        values = self._cached[1][row - item.first]
        return Record(**{**values, "source": decode_source(values["source"])})

    def check_lock(self) -> None:
        """Check that no other process has taken the lock since, which a server cannot prevent.

        Raises
        ------
        OutputError
            If one has.
        """
        self._lock.check()

    def finish(self) -> None:
        """Record that the run is complete, and how many shards there are then.

        Of lost shards whose images were not among the input, empty ones are written.

        Warns
        -----
        UserWarning
            If rows were lost for good, or may be in another order than before.

        Raises
        ------
        OutputError
            If this cannot be written.
        """
        self.check_lock()
        for slot in self._gaps + self._unfilled:
            shard = self.new_shard(slot)
            shard.open()
            shard.finish()
        self._warn_of_losses()
        number, rows = self._next_number, self._next_row
        manifest = dataclasses.replace(self.manifest, num_shards=number, num_rows=rows)
        if manifest != self.manifest:
            self.manifest = manifest
            write_manifest(self.place, manifest)

    def _open(self) -> None:
        shards = distinct_shards(self.place)
        if shards or MANIFEST in self.place.names():
            stored = read_manifest(self.place)
            stored.check_same(self.manifest, self._differences(stored.description), self.place)
            self.manifest = stored
        else:
            write_manifest(self.place, self.manifest)
        for leftover in list_parts(self.place):
            with suppress(OSError):
                self.place.remove(leftover)
        for shard in shards:
            item = self._check(shard)
            if item is None:
                self._set_aside(shard)
            else:
                self._ranges.append(item)
            self._on_check(1)
        self._find_gaps()

    def _check(self, shard: Shard) -> _Range | None:
        """Return the rows of a shard, after adding its images; None if it is damaged.

        Raises
        ------
        DownloadError
            If it cannot be read from a server, which does not mean that it is damaged.
        FileFormatError
            If the system cannot read it, which does not mean so either.
        """
        try:
            if not has_valid_digest(shard):
                return None
            metadata, num_rows = shard.read_metadata()
            first = int(metadata["first_row"])
            records = []
            for batch in read_records(shard, ["row", "source", "size", "modified", "sha256"]):
                lists = (column.to_pylist() for column in batch.columns)
                records += [
                    Record(row, decode_source(source), *others)
                    for row, source, *others in zip(*lists, strict=True)
                ]
        except DownloadError:
            raise
        except FileFormatError as error:
            if is_system_error(error.__cause__):
                raise
            return None
        except OSError as error:
            if not is_system_error(error):
                return None
            # Such as too many open files, or a network drive that is away for a moment.
            raise FileFormatError(
                f"{shorten_path(shard.location)}: cannot be read: {error.strerror or error}"
            ) from error
        except (KeyError, TypeError, ValueError):
            return None
        for record in records:
            self.known.add(record)
        return _Range(shard, first, first + num_rows)

    def _set_aside(self, shard: Shard) -> None:
        try:
            # Kept, but no longer read: neither by a store, nor by pyarrow.
            self.place.rename(shard.name, f"_{shard.name}.damaged")
        except OSError as error:
            raise self._not_written(error) from None
        remove_copies(self.place)
        self.damaged.append(shard.name)

    def _find_gaps(self) -> None:
        """Find the slots of shards that are missing before others."""
        number = row = 0
        size = self.manifest.shard_size
        for item in self._ranges:
            missing = list(range(number, item.shard.number))
            while missing:
                start, position = row, missing.pop(0)
                stop = min(start + size - start % size, item.first) if missing else item.first
                slot = Slot(position, start, stop - start, is_gap=True)
                (self._gaps if stop > start else self._unfilled).append(slot)
                row = stop
            number, row = item.shard.number + 1, item.stop
        for position in range(number, self.manifest.num_shards or 0):
            rest = max(0, (self.manifest.num_rows or 0) - row)
            slot = Slot(position, row, min(size - row % size, rest), is_gap=True)
            (self._gaps if rest else self._unfilled).append(slot)
            number, row = position + 1, row + slot.max_rows
        self._next_number, self._next_row = number, row
        self._find_places()

    def _find_places(self) -> None:
        """Find between which rows the images of lost shards were."""
        stored = {item.first: item for item in self._ranges if item.stop > item.first}
        for index, slot in enumerate(self._gaps):
            before = self._gaps[index - 1] if index else None
            is_beside = before is not None and before.first_row + before.max_rows == slot.first_row
            after = before.after if before is not None and is_beside else slot.first_row - 1
            self._gaps[index] = dataclasses.replace(slot, after=after)
            stop = slot.first_row + slot.max_rows
            self._places[after] = stop if stop in stored else None
        if -1 in self._places:
            self._open_places.add(-1)

    def _warn_of_losses(self) -> None:
        where = shorten_path(self.place)
        lost = self._num_lost + sum(slot.max_rows for slot in self._gaps)
        if lost:
            which = "1 of their rows is" if lost == 1 else f"{lost:,} of their rows are"
            warn(
                f"{where}: shards were lost, and {which} not in the store any more, because their "
                "images were not given, or in another order than before; images in another order "
                "have new rows at the end"
            )
        if self._is_order_lost:
            warn(
                f"{where}: shards were lost, and more new images were given in their place than "
                "they had; the rows may be in another order than before, so use store.sources"
            )

    def _not_written(self, error: OSError) -> OutputError:
        reason = error.strerror or error
        return OutputError(f"{shorten_path(self.place)}: cannot be written: {reason}")
