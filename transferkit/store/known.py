"""The images that a store has: 16 bytes for each, however long their names are."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from transferkit.store.shards import Record, Shard, decode_source, encode_source, read_records
from transferkit.support.arrow import import_arrow

__all__ = ["NEW", "KnownImages", "find_content", "find_readable", "fingerprint"]

NEW = 2**32 - 1
"""The row of an image that is not in a shard yet."""

# The number of images that wait to be sorted in, about 10 MB.
_MAX_WAITING = 1 << 16


def fingerprint(size: int | None, modified: int | None, sha256: bytes | None) -> int:
    """Return 32 bits that differ if an image has probably changed.

    Parameters
    ----------
    size, modified
        Of a file.
    sha256
        The digest of an image that has no time of modification.
    """
    if modified is not None:
        return zlib.crc32(f"{size} {modified}".encode())
    return 0 if sha256 is None else int.from_bytes(sha256[:4], "little")


class KnownImages:
    """The sources of images, each with its row and a fingerprint of its content.

    Sources are compared by 64 bits of a digest: among a million, the probability that any two
    are taken for one is about one in 40 million.

    Examples
    --------
    >>> from transferkit.store import Record
    >>> from transferkit.store.known import KnownImages, fingerprint
    >>> known = KnownImages()
    >>> known.add(Record(7, "a.jpg", 1000, 123))
    >>> known.find("b.jpg") is None, known.find("a.jpg") == (7, fingerprint(1000, 123, None))
    (True, True)
    """

    def __init__(self) -> None:
        # Sorted by key. Three arrays, because each is searched or read on its own.
        self._keys: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._fingerprints: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        self._rows: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        # Key to row and fingerprint.
        self._waiting: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._waiting)

    def add(self, record: Record) -> None:
        """Add an image."""
        content = fingerprint(record.size, record.modified, record.sha256)
        self.add_row(record.source, record.row, content)

    def add_row(self, source: str, row: int, content: int = 0) -> None:
        """Add an image by its source, its row and the fingerprint of its content."""
        self._waiting[_key(source)] = (row, content)
        if len(self._waiting) >= _MAX_WAITING:
            self._sort_in()

    def find(self, source: str) -> tuple[int, int] | None:
        """Return the row and the fingerprint of an image; None if it is not known."""
        key = _key(source)
        if key in self._waiting:
            return self._waiting[key]
        index = int(np.searchsorted(self._keys, np.uint64(key)))
        if index == len(self._keys) or int(self._keys[index]) != key:
            return None
        return int(self._rows[index]), int(self._fingerprints[index])

    def _sort_in(self) -> None:
        rows, fingerprints = zip(*self._waiting.values(), strict=True)
        keys = np.concatenate([self._keys, np.array(list(self._waiting), np.uint64)])
        order = np.argsort(keys, kind="stable")
        # Of an image that was skipped and read later, the last row.
        is_last = np.append(keys[order][1:] != keys[order][:-1], True)
        order = order[is_last]
        self._keys = keys[order]
        self._rows = np.concatenate([self._rows, np.array(rows, np.uint32)])[order]
        self._fingerprints = np.concatenate(
            [self._fingerprints, np.array(fingerprints, np.uint32)]
        )[order]
        self._waiting.clear()


def find_readable(
    shards: Sequence[Shard],
) -> tuple[npt.NDArray[np.bool_], dict[str, tuple[int, str]]]:
    """Return which images of a store could be read, and why the others could not.

    Parameters
    ----------
    shards
        Those of the store.

    Returns
    -------
    readable
        (n,) for each row of the shards, whether it has features.
    skipped
        The source of each image that has none to the position of its last row and the reason. An
        image that was skipped may have been read in a later run; it is not among them.
    """
    pa, _ = import_arrow()
    parts = [np.empty(0, np.bool_)]
    skipped: dict[str, tuple[int, str]] = {}
    start = 0
    for shard in shards:
        for batch in read_records(shard, ["source", "error"]):
            readable = batch.column("error").is_null()
            parts.append(readable.to_numpy(False))
            left_out = batch.filter(batch.column("error").is_valid())
            positions = start + np.flatnonzero(~parts[-1])
            lists = (column.to_pylist() for column in left_out.columns)
            for position, source, reason in zip(positions.tolist(), *lists, strict=True):
                # At the end, in the order of the rows.
                skipped.pop(source, None)
                skipped[source] = (position, reason)
            start += batch.num_rows
    if skipped:
        wanted = pa.array(list(skipped), pa.string())
        for shard in shards:
            for batch in read_records(shard, ["source", "error"]):
                sources = batch.column("source").filter(batch.column("error").is_null())
                for source in sources.filter(pa.compute.is_in(sources, wanted)).to_pylist():
                    skipped.pop(source, None)
    return np.concatenate(parts), skipped


def find_content(shards: Sequence[Shard], images: Mapping[bytes, str]) -> dict[bytes, str]:
    """Return the sources of images that a store has in another folder, by their digests.

    Images of the same content and another file name may well be two.

    Parameters
    ----------
    shards
        Those of the store.
    images
        The SHA-256 of images to their sources.
    """
    pa, _ = import_arrow()
    wanted = pa.array(list(images), pa.binary(32))
    found: dict[bytes, str] = {}
    for shard in shards:
        for batch in read_records(shard, ["source", "sha256"]):
            same = batch.filter(pa.compute.is_in(batch.column("sha256"), wanted))
            for source, sha256 in zip(*(part.to_pylist() for part in same.columns), strict=True):
                if _file_name(source) == _file_name(images[sha256]):
                    found[sha256] = decode_source(source)
    return found


def _file_name(source: str) -> str:
    return source.replace("\\", "/").rpartition("/")[2]


def _key(source: str) -> int:
    content = encode_source(source).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
