"""The cache of downloaded weights.

transferkit writes to one folder only. Files that PyTorch's hub or Keras have downloaded are used
where they are, and never changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from transferkit.errors import OutputError
from transferkit.support.warning import warn
from transferkit.weights.catalogue import WEIGHTS, WeightsEntry

__all__ = [
    "CACHE_VARIABLE",
    "cache_folder",
    "cached_files",
    "clear_cache",
    "find_cached",
    "is_of_stated_size",
    "on_disk",
    "part_files",
    "problem_of",
    "remove_downloads",
]

CACHE_VARIABLE = "TRANSFERKIT_CACHE"
"""The environment variable with another folder for downloaded files."""


def cache_folder() -> Path:
    """Return the folder for downloaded weights; it may not exist yet.

    It is the value of ``TRANSFERKIT_CACHE`` if that is set, else the system's folder for cached
    files, ``~/.cache/transferkit`` on Linux.

    Raises
    ------
    OutputError
        If the variable refers to a home folder that does not exist.
    """
    return _from_environment(CACHE_VARIABLE) or Path(platformdirs.user_cache_dir("transferkit"))


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise OutputError(
            f"{variable} is {value}, a home folder that does not exist; set it to another folder"
        ) from error


def _locations(entry: WeightsEntry) -> list[Path]:
    """Return the paths at which the file of an entry is searched for, in this order."""
    folders = [cache_folder()]
    if entry.source == "torchvision":
        caches = _from_environment("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        home = _from_environment("TORCH_HOME") or caches / "torch"
        folders.append(home / "hub" / "checkpoints")
    elif entry.source == "keras":
        home = _from_environment("KERAS_HOME") or Path("~/.keras").expanduser()
        folders.append(home / "models")
    return [folder / entry.file for folder in folders]


def on_disk(entry: WeightsEntry) -> Path | None:
    """Return the first file of an entry that is on disk, without checking its contents.

    Returns
    -------
    Path or None
        None if there is none. Weights that are part of the package are not considered.
    """
    return next((path for path in _locations(entry) if path.is_file()), None)


def is_of_stated_size(path: Path, entry: WeightsEntry) -> bool:
    """Return whether a file has the size that the publisher states; True if none is stated."""
    # Sizes are stated to three decimals.
    return entry.size is None or abs(path.stat().st_size / 1024**2 - entry.size) < 2e-3


def find_cached(entry: WeightsEntry) -> Path | None:
    """Return the file of an entry if it is on disk and passes the check.

    A file that fails the check is not used and not changed; a warning says why.

    Parameters
    ----------
    entry
        A row of the catalog.

    Returns
    -------
    Path or None
        A file in the cache, or in the cache of PyTorch's hub or Keras; None if there is none.

    Examples
    --------
    >>> from transferkit.weights import find_weights
    >>> from transferkit.weights.cache import find_cached
    >>> path = find_cached(find_weights("mobilenet_v2", "imagenet1k_v2"))
    """
    for path in _locations(entry):
        if path.is_file():
            problem = problem_of(path, entry)
            if problem is None:
                return path
            warn(f"{path} is not used: {problem}")
    return None


def problem_of(path: Path, entry: WeightsEntry) -> str | None:
    """Return what is wrong with a file of an entry; None if it passes the check.

    Parameters
    ----------
    path
        The file.
    entry
        Its row of the catalog. If that has no checksum, the file must be a complete HDF5 file;
        all files without a checksum are.
    """
    try:
        if entry.checksum is None:
            import h5py  # slow to import, and rarely needed

            with h5py.File(path, "r"):
                return None
        digest = entry.checksum.of(path)
    except OSError as error:
        return f"it cannot be read, is damaged or truncated ({error})"
    if digest.startswith(entry.checksum.digits):
        return None
    return f"its digest is {digest}; expected {entry.checksum}"


def cached_files() -> list[Path]:
    """Return the complete weights files in the cache folder, sorted by name."""
    folder = cache_folder()
    return sorted(path for entry in WEIGHTS if (path := folder / entry.file).is_file())


def part_files(path: Path) -> tuple[Path, Path, Path]:
    """Return the temporary files of a download to ``path``: partial file, validator and lock."""
    return (
        path.with_name(f"{path.name}.part"),
        path.with_name(f"{path.name}.part.json"),
        path.with_name(f"{path.name}.lock"),
    )


def clear_cache() -> list[Path]:
    """Remove all weights from the cache folder, including partial downloads.

    Other files in the folder stay, as do the caches of PyTorch's hub and of Keras, and a file
    that another process is downloading.

    Returns
    -------
    list of Path
        The removed files.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    folder = cache_folder()
    return remove_downloads(folder / entry.file for entry in WEIGHTS)


def remove_downloads(paths: Iterable[Path]) -> list[Path]:
    """Remove downloaded files, and those of partial downloads to the same paths.

    A file that another process is downloading stays.

    Parameters
    ----------
    paths
        The files, which may not exist.

    Returns
    -------
    list of Path
        The removed files.

    Raises
    ------
    OutputError
        If a file cannot be removed.
    """
    import filelock  # slow to import, and rarely needed

    removed: list[Path] = []
    for path in paths:
        part, validator, lock = part_files(path)
        if not any(file.exists() for file in (path, part, validator, lock)):
            continue
        try:
            with filelock.FileLock(lock, timeout=0):
                removed += _remove((path, part, validator))
                # Unlinked while it is held: a process that waits for it then creates a new lock
                # and checks for the file again. Windows does not allow this, but removes the
                # file when the lock is released.
                with suppress(OSError):
                    lock.unlink()
        except filelock.Timeout:
            continue
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from error
    return removed


def _remove(paths: Iterable[Path]) -> list[Path]:
    removed = []
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from error
        removed.append(path)
    return removed
