"""Folders of images, and files that match a pattern, in memory that does not grow with them."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from transferkit.errors import DatasetError
from transferkit.images.folders import names_below
from transferkit.sources.items import SourceImage
from transferkit.sources.sorting import SortedNames

__all__ = ["Folder", "is_pattern", "matching_paths"]

_MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Return whether a text has wildcards: ``*``, ``?`` or ``[``.

    Examples
    --------
    >>> from transferkit.sources.folders import is_pattern
    >>> is_pattern("photos/**/*.jpg"), is_pattern("photos/1.jpg")
    (True, False)
    """
    return _MAGIC.search(text) is not None


class Folder:
    """The images in a folder and its subfolders, in the order of `list_images`.

    Parameters
    ----------
    folder
        The folder.

    Attributes
    ----------
    number
        The number of images.

    Raises
    ------
    DatasetError
        If the folder cannot be read.
    """

    def __init__(self, folder: str) -> None:
        root = Path(folder)
        self._begin = "" if root == Path() else os.path.join(root, "")
        self._names = SortedNames(names_below(root))
        self.number = len(self._names)

    def __iter__(self) -> Iterator[SourceImage]:
        for name in self._names:
            yield self._begin + (name if os.sep == "/" else name.replace("/", os.sep))


def matching_paths(pattern: str) -> Iterator[str]:
    """Yield the files and folders that match a pattern, unsorted, some possibly several times.

    The memory does not depend on their number.

    Parameters
    ----------
    pattern
        A path in which ``*`` and ``?`` stand for characters of a name, ``[...]`` for one of some
        characters, and a part ``**`` for any number of folders. Wildcards match no name that begins
        with a dot, and ``**`` follows no links to folders.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from transferkit.sources.folders import matching_paths
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("1.jpg", "2.jpg", "3.txt"):
    ...         Path(folder, name).touch()
    ...     sorted(Path(path).name for path in matching_paths(f"{folder}/**/*.jpg"))
    ['1.jpg', '2.jpg']
    """
    path = Path(pattern)
    parts = path.parts[1:] if path.anchor else path.parts
    return _matches(path.anchor, parts)


def _matches(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """Yield what matches the parts of a pattern below a folder."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _matches(folder, rest or ("*",))
        for entry in _visible(folder):
            if entry.is_dir(follow_symlinks=False):
                yield from _matches(os.path.join(folder, entry.name), parts)
    elif is_pattern(part):
        matches: Callable[[str], object] = re.compile(fnmatch.translate(part)).match
        for entry in _visible(folder, hidden=part.startswith(".")):
            if matches(entry.name):
                path = os.path.join(folder, entry.name)
                if not rest:
                    yield path
                elif entry.is_dir():
                    yield from _matches(path, rest)
    else:
        path = os.path.join(folder, part)
        if rest:
            yield from _matches(path, rest)
        elif os.path.lexists(path):
            yield path


def _visible(folder: str, hidden: bool = False) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if hidden or not entry.name.startswith("."):
                    yield entry
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DatasetError(f"{folder}: the folder cannot be read: {error.strerror}") from error
