"""The archives of published data sets in the cache folder."""

from __future__ import annotations

from pathlib import Path

from transferkit.datasets import cats_dogs, oxford_pets
from transferkit.weights.cache import cache_folder, remove_downloads

__all__ = ["cached_archives", "clear_archives"]


def cached_archives() -> list[Path]:
    """Return the complete archives of data sets in the cache folder, sorted by name."""
    return [path for path in _paths() if path.is_file()]


def clear_archives() -> list[Path]:
    """Remove all archives of data sets from the cache folder, including partial downloads.

    What was unpacked from them stays.

    Returns
    -------
    list of Path
        The removed files.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    return remove_downloads(_paths())


def _paths() -> list[Path]:
    archives = (*oxford_pets.ARCHIVES, *cats_dogs.ARCHIVES)
    return sorted(cache_folder() / archive.file for archive in archives)
