"""Test images that are copies of training images."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

from transferkit.datasets.copies import content_keys

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
    known = [Path(path) for path in train if _can_be_read(path)]
    tested = [Path(path) for path in test if _can_be_read(path)]
    keys = content_keys([*known, *tested])
    by_key: dict[Hashable, Path] = {}
    for path, key in zip(known, keys[: len(known)], strict=True):
        if key is not None:
            by_key.setdefault(key, path)
    return [
        (path, by_key[key])
        for path, key in zip(tested, keys[len(known) :], strict=True)
        if key in by_key
    ]


def _can_be_read(path: str | os.PathLike[str]) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)
