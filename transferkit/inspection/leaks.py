"""Test images that are copies of training images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from transferkit.inspection.observation import hash_file

__all__ = ["exact_copies"]


def exact_copies(
    train: Sequence[str | os.PathLike[str]], test: Sequence[str | os.PathLike[str]]
) -> list[tuple[Path, Path]]:
    """Return the test images that are exact copies of training images.

    Only files of the same length as another one are read.

    Parameters
    ----------
    train, test
        Paths. Files that cannot be read are left out.

    Returns
    -------
    list of tuple
        Each test image with one training image that has the same content.

    Examples
    --------
    >>> from transferkit.demo import TEST, TRAIN
    >>> from transferkit.images import list_images
    >>> from transferkit.inspection import exact_copies
    >>> exact_copies(list_images(TRAIN), list_images(TEST))
    []
    """
    by_length: dict[int, list[Path]] = {}
    for path in map(Path, train):
        length = _length(path)
        if length is not None:
            by_length.setdefault(length, []).append(path)
    digests: dict[int, dict[bytes, Path]] = {}
    copies: list[tuple[Path, Path]] = []
    for path in map(Path, test):
        length = _length(path)
        if length is None or length not in by_length:
            continue
        if length not in digests:
            digests[length] = {}
            for other in by_length[length]:
                digest = _digest(other)
                if digest is not None:
                    digests[length].setdefault(digest, other)
        digest = _digest(path)
        if digest is not None and digest in digests[length]:
            copies.append((path, digests[length][digest]))
    return copies


def _length(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    try:
        return hash_file(path)
    except OSError:
        return None
