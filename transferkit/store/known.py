"""The images that a store has: 16 bytes for each, however long their names are."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import numpy.typing as npt

from transferkit.store.shards import Record, encode_source

__all__ = ["NEW", "KnownImages", "fingerprint"]

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
        self._keys = keys[order]
        self._rows = np.concatenate([self._rows, np.array(rows, np.uint32)])[order]
        self._fingerprints = np.concatenate(
            [self._fingerprints, np.array(fingerprints, np.uint32)]
        )[order]
        self._waiting.clear()


def _key(source: str) -> int:
    content = encode_source(source).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
