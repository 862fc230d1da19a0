"""Finding pictures in folders, in an order that is the same on every machine."""

from __future__ import annotations

import os
from pathlib import Path

from transferkit.errors import DatasetError

__all__ = ["SUFFIXES", "list_images", "list_labeled_images"]

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
)
"""File name endings, in lower case, that make a file in a folder count as a picture."""

# Pictures of formats that are not read are listed too: told of, not passed over in silence.
_LISTED_SUFFIXES = SUFFIXES.union(
    (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg")
)

_LAYOUT = (
    "a folder of labelled folders is expected, one folder of pictures for each class: "
    "cat/1.jpg, cat/2.jpg, dog/1.jpg"
)


# What the parts of a data set are called, each of which has a folder for each class.
_PARTS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in a folder and in all folders below it.

    Parameters
    ----------
    folder
        The folder; or a single file, which is then the only one of the list, whatever its name.

    Returns
    -------
    list of Path
        Each begins with ``folder``. Sorted by the path below ``folder``, written with forward
        slashes and compared character by character, so that the order does not depend on the
        machine. Only files with an ending in `SUFFIXES`, in upper or lower case, and those of
        other formats of pictures, such as HEIC, which then cannot be read; files and
        folders whose name begins with a dot are left out. Links to folders are followed; a
        folder that can be reached in several ways is listed once.

    Raises
    ------
    DatasetError
        If there is no such path, the folder cannot be read, or there are no pictures in it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit import list_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.PNG"):
    ...         Image.new("RGB", (8, 8)).save(Path(folder) / name)
    ...     [path.name for path in list_images(folder)]
    ['a.PNG', 'b.png']
    """
    root = _existing(folder)
    if not root.is_dir():
        return [root]
    paths = _images_below(root)
    if not paths:
        raise DatasetError(
            f"{root}: there are no images in this folder (files are looked for that end in "
            f"{', '.join(sorted(SUFFIXES))})"
        )
    return paths


def list_labeled_images(folder: str | os.PathLike[str]) -> tuple[list[Path], list[str]]:
    """The pictures in a folder of labelled folders, and the label of each.

    Parameters
    ----------
    folder
        A folder that has one folder for each class, named after it, with the pictures of that
        class in it, or in folders below it.

    Returns
    -------
    paths
        As `list_images` gives them for each class folder, the classes in alphabetical order.
    labels
        The label of each path: the name of the class folder that it is in.

    Raises
    ------
    DatasetError
        If there is no such folder, it has no class folders, a class folder has no pictures, or
        the folders are parts of a data set, ``train`` and ``test``, with class folders in each;
        the message says which and what is expected.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit import list_labeled_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for label in ("dog", "cat"):
    ...         (Path(folder) / label).mkdir()
    ...         Image.new("RGB", (8, 8)).save(Path(folder) / label / "1.png")
    ...     paths, labels = list_labeled_images(folder)
    >>> labels
    ['cat', 'dog']
    """
    root = _existing(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: is a file; {_LAYOUT}")
    classes = sorted(name for name, is_folder in _entries(root) if is_folder)
    if not classes:
        found = "pictures but no folders" if _images_below(root) else "no folders and no pictures"
        raise DatasetError(f"{root}: there are {found} in it; {_LAYOUT}")
    if _PARTS.issuperset(map(str.lower, classes)) and not any(
        _has_images(root / name) for name in classes
    ):
        parts = ", ".join(str(root / name) for name in classes)
        raise DatasetError(
            f"{root}: its folders are parts of a data set, with a folder for each class in them; "
            f"give one of them: {parts}"
        )
    paths: list[Path] = []
    labels: list[str] = []
    for label in classes:
        found_here = _images_below(root / label)
        if not found_here:
            raise DatasetError(f"{root / label}: there are no images in this class folder")
        paths += found_here
        labels += [label] * len(found_here)
    return paths, labels


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path, if there is something of that name."""
    try:
        path = Path(folder)
        os.stat(path)
    except FileNotFoundError:
        raise DatasetError(f"{folder}: no such file or folder") from None
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{folder!r}: is no path that this system accepts") from error
    return path


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Name of each visible entry of a folder, and whether it is a folder."""
    try:
        with os.scandir(folder) as entries:
            return [
                (entry.name, _is_folder(entry))
                for entry in entries
                if not entry.name.startswith(".")
            ]
    except OSError as error:
        raise DatasetError(f"{folder}: this folder cannot be read: {error.strerror}") from error


def _has_images(folder: Path) -> bool:
    """Whether there are pictures in the folder itself."""
    return any(_is_listed(name) for name, is_folder in _entries(folder) if not is_folder)


def _is_listed(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _LISTED_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round to itself
        return False


def _images_below(root: Path) -> list[Path]:
    """All pictures below a folder, sorted; none is not an error here."""
    found: list[str] = []
    # Each folder is visited once, however many links lead to it: a link to a folder above would
    # otherwise be followed for ever. Identities are compared, and folders are visited in the
    # order of their names, so that the path under which a linked folder is listed is fixed.
    visited: set[tuple[int, int]] = set()
    to_visit = [""]
    while to_visit:
        prefix = to_visit.pop()
        folder = root / prefix
        try:
            status = os.stat(folder)
        except OSError as error:
            raise DatasetError(f"{folder}: this folder cannot be read: {error.strerror}") from error
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            continue
        visited.add(identity)
        below = []
        for name, is_folder in _entries(folder):
            if is_folder:
                below.append(f"{prefix}{name}/")
            elif _is_listed(name):
                found.append(prefix + name)
        to_visit += sorted(below, reverse=True)
    return [root / name for name in sorted(found)]
