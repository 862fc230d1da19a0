"""The paths of images that were moved since their features were computed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from transferkit.errors import DatasetError, shorten_path

__all__ = ["Relocation", "find_relocation"]


@dataclass(frozen=True, slots=True)
class Relocation:
    """A folder that was moved: where it was when the features were computed, and where it is.

    Attributes
    ----------
    stored
        The beginning of the paths in the store, with the separator at its end; may be empty.
    local
        What replaces it.

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
        if not source.startswith(self.local):
            return source
        rest = source[len(self.local) :]
        return self.stored + (rest.replace("/", "\\") if _is_windows(self.stored) else rest)


def find_relocation(sources: Iterable[str], base: str | os.PathLike[str]) -> Relocation:
    """Find which beginning of the paths in a store is a folder here.

    Parameters
    ----------
    sources
        Some paths in the store.
    base
        The folder here that has the images.

    Returns
    -------
    Relocation
        The shortest beginning of a path with which the rest of it is the path of a file in
        ``base``.

    Raises
    ------
    DatasetError
        If there is none.
    """
    folder = Path(base)
    if not folder.is_dir():
        raise DatasetError(f"base is {shorten_path(base)}; expected a folder that exists")
    example = None
    for source in sources:
        example = example or source
        windows = _is_windows(source)
        parts = (PureWindowsPath if windows else PurePosixPath)(source).parts
        for start in range(len(parts)):
            rest = parts[start:]
            if not Path(rest[0]).is_absolute() and folder.joinpath(*rest).is_file():
                ending = ("\\" if windows else "/").join(rest)
                return Relocation(source[: len(source) - len(ending)], os.path.join(folder, ""))
    if example is None:
        raise DatasetError("base is given, but the store has no images")
    raise DatasetError(
        f"base is {shorten_path(base)}, but no ending of the paths in the store, such as "
        f"{shorten_path(example)}, is the path of a file in this folder"
    )


def _is_windows(path: str) -> bool:
    return "\\" in path and "/" not in path
