"""Where downloaded weights lie, and which of them lie there already.

There is one folder that transferkit writes to. Files that PyTorch's hub or Keras have fetched
before are used where they lie, and never changed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from transferkit.errors import OutputError
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
]

CACHE_VARIABLE = "TRANSFERKIT_CACHE"
"""The environment variable that names another folder for downloaded files."""


def cache_folder() -> Path:
    """The folder that downloaded weights are kept in; it need not exist.

    ``TRANSFERKIT_CACHE`` if the environment has it, else the folder that the system has for such
    files, ``~/.cache/transferkit`` on Linux.

    Raises
    ------
    OutputError
        If the variable names the home folder of somebody who has none.
    """
    return _from_environment(CACHE_VARIABLE) or Path(platformdirs.user_cache_dir("transferkit"))


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise OutputError(
            f"{variable} is {value}, and there is no such home folder; set it to another folder"
        ) from error


def _places(entry: WeightsEntry) -> list[Path]:
    """Where the file of an entry may lie, in the order in which it is looked for."""
    if entry.source == "torchvision":
        caches = _from_environment("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        home = _from_environment("TORCH_HOME") or caches / "torch"
        others = home / "hub" / "checkpoints"
    else:
        home = _from_environment("KERAS_HOME") or Path("~/.keras").expanduser()
        others = home / "models"
    return [cache_folder() / entry.file, others / entry.file]


def on_disk(entry: WeightsEntry) -> Path | None:
    """The file of an entry that would be used, or at least tried: it is not read.

    Returns
    -------
    Path or None
        None if there is none. Weights that are part of the package are not looked for.
    """
    return next((path for path in _places(entry) if path.is_file()), None)


def is_of_stated_size(path: Path, entry: WeightsEntry) -> bool:
    """Whether a file is as long as the entry's publisher states, as far as he does."""
    # Stated to a thousandth of a megabyte.
    return entry.size is None or abs(path.stat().st_size / 1024**2 - entry.size) < 2e-3


def find_cached(entry: WeightsEntry) -> Path | None:
    """The file of an entry, if it is on disk and is what the publisher says.

    A file that is not is left alone and told of in a warning, but not used.

    Parameters
    ----------
    entry
        A row of the catalogue.

    Returns
    -------
    Path or None
        In the cache, or in that of PyTorch's hub or of Keras; None if there is none.

    Examples
    --------
    >>> from transferkit.weights import find_weights
    >>> from transferkit.weights.cache import find_cached
    >>> path = find_cached(find_weights("mobilenet_v2", "imagenet1k_v2"))
    """
    for path in _places(entry):
        if path.is_file():
            problem = problem_of(path, entry)
            if problem is None:
                return path
            warnings.warn(f"{path} is not used: {problem}", stacklevel=2)
    return None


def problem_of(path: Path, entry: WeightsEntry) -> str | None:
    """What is wrong with a file that should be the entry's; None if nothing is.

    Parameters
    ----------
    path
        A file.
    entry
        What is published of it. Where no digest is, the file must be whole as HDF5, as all such
        files are.
    """
    try:
        if entry.checksum is None:
            import h5py  # slow to import, and seldom needed

            with h5py.File(path, "r"):
                return None
        found = entry.checksum.of(path)
    except OSError as error:
        return f"it cannot be read, or is damaged or cut short ({error})"
    if found.startswith(entry.checksum.digits):
        return None
    return f"its digest is {found}, but {entry.checksum} is published"


def cached_files() -> list[Path]:
    """The whole files of weights in the cache folder, by name; those of others are not listed."""
    folder = cache_folder()
    return sorted(path for entry in WEIGHTS if (path := folder / entry.file).is_file())


def part_files(path: Path) -> tuple[Path, Path, Path]:
    """What lies beside ``path`` while it is fetched: what there is of it, a note, a lock."""
    return (
        path.with_name(f"{path.name}.part"),
        path.with_name(f"{path.name}.part.json"),
        path.with_name(f"{path.name}.lock"),
    )


def clear_cache() -> list[Path]:
    """Remove all weights from the cache folder, also what an interrupted download has left.

    Nothing else in the folder is touched, nor are the caches of PyTorch's hub and of Keras. A
    file that another process is fetching just now stays.

    Returns
    -------
    list of Path
        What was removed.

    Raises
    ------
    OutputError
        If something cannot be removed.
    """
    import filelock  # slow to import, and seldom needed

    removed: list[Path] = []
    folder = cache_folder()
    for entry in WEIGHTS:
        path = folder / entry.file
        part, note, lock = part_files(path)
        if not any(found.exists() for found in (path, part, note, lock)):
            continue
        try:
            with filelock.FileLock(lock, timeout=0):
                removed += _remove((path, part, note))
                # While it is held: who waits for it then makes another, and looks for the file
                # anew. Windows refuses that, but there it is removed when it is let go.
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
