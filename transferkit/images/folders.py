"""Listing of images in folders, in an order that is the same on every machine."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from transferkit.errors import DatasetError, shorten, shorten_path
from transferkit.images.skipped import Skipped, check_on_error

__all__ = [
    "SUFFIXES",
    "is_listed",
    "is_visible",
    "list_images",
    "list_labeled_images",
    "names_below",
    "no_images",
    "split_folders",
]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs"}
    | {".heic", ".heif", ".hif"}
)
"""The suffixes, in lower case, of files in a folder that are listed as images."""

# Images in unsupported formats are listed too, so that they are reported rather than ignored.
_LISTED_SUFFIXES = SUFFIXES.union((".jxl", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg"))

_LAYOUT = "expected one folder of images for each class: cat/1.jpg, cat/2.jpg, dog/1.jpg"


# The usual names of the splits of a data set.
_SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))

# Folders that operating systems and tools create, besides those whose name begins with a dot.
_SYSTEM_FOLDERS = frozenset(
    ("__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found")
)


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the images in a folder and its subfolders.

    Parameters
    ----------
    folder
        The folder; or a file of any name, which is then the only element of the list.

    Returns
    -------
    list of Path
        The paths, each beginning with ``folder``, sorted by the path below ``folder`` with
        forward slashes, character by character, so that the order is the same on every
        machine. Files with a suffix in `SUFFIXES`, in upper or lower case, are listed, and
        those of other image formats, such as JPEG XL, which cannot be read. Files and folders
        whose name begins with a dot are left out, and folders of the operating system such as
        ``__MACOSX``. Links to folders are followed; a folder that
        can be reached in several ways is listed once.

    Raises
    ------
    DatasetError
        If the path does not exist, a folder cannot be read, or there are no images.

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
        raise DatasetError(f"{root}: {no_images('folder')}")
    return paths


def no_images(kind: str) -> str:
    """Return why a folder or archive (``kind``) is rejected, as a clause."""
    return f"no images in this {kind}; expected files that end in {', '.join(sorted(SUFFIXES))}"


def list_labeled_images(
    folder: str | os.PathLike[str],
    *,
    on_error: str = "raise",
    skipped: list[Skipped] | None = None,
) -> tuple[list[Path], list[str]]:
    """Return the images in a folder with one subfolder for each class, and their labels.

    Parameters
    ----------
    folder
        A folder with one subfolder for each class, named after the class, with the images of
        the class in it or in its subfolders.
    on_error
        ``"raise"``, or ``"skip"`` to skip class folders without images, and images that are in
        no class folder.
    skipped
        A list to which the skipped folders and images are appended.

    Returns
    -------
    paths
        The images of each class folder as `list_images` returns them, the classes in
        alphabetical order.
    labels
        The label of each path: the name of its class folder, in Unicode's normalization form C,
        so that it is the same on every operating system.

    Raises
    ------
    DatasetError
        If the folder does not exist or has no class folders; if a class folder has no images, or
        an image is in no class folder, and ``on_error`` is ``"raise"``; if the images are one
        level further down, as in a data set with ``train/cat``, ``train/dog``, ``test/cat`` and
        ``test/dog``; or if such a data set is beside the class folders.
    ParameterError
        If ``on_error`` is invalid.

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
    check_on_error(on_error)
    root = _existing(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: a file, not a folder; {_LAYOUT}")
    entries = sorted(_entries(root))
    classes = [name for name, is_folder in entries if is_folder]
    if not classes:
        content = "images but no folders" if _images_below(root) else "no folders and no images"
        raise DatasetError(f"{root}: {content} in this folder; {_LAYOUT}")
    _check_level(root, classes)
    unlabeled = [root / name for name, is_folder in entries if not is_folder and is_listed(name)]
    if unlabeled and on_error == "raise":
        raise DatasetError(
            f"{unlabeled[0]}: an image in no class folder; move it into one, or pass "
            "on_error='skip'"
        )
    if skipped is not None:
        skipped += [Skipped(str(path), "an image in no class folder") for path in unlabeled]
    paths: list[Path] = []
    labels: list[str] = []
    for name in classes:
        images = _images_below(root / name)
        if not images and on_error == "raise":
            raise DatasetError(f"{root / name}: no images in this class folder")
        if not images and skipped is not None:
            skipped.append(Skipped(str(root / name), "no images in this class folder"))
        paths += images
        labels += [unicodedata.normalize("NFC", name)] * len(images)
    if not paths:
        raise DatasetError(f"{root}: no images in any class folder")
    return paths, labels


def split_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of the splits of a data set with ``split/class/file``, sorted.

    Parameters
    ----------
    folder
        A folder.

    Returns
    -------
    list of Path
        All subfolders, if each has the name of a split, such as train or test, and has folders but
        no images in it; otherwise none.

    Raises
    ------
    DatasetError
        If the folder does not exist or cannot be read.
    """
    root = _existing(folder)
    if not root.is_dir():
        return []
    parts = [root / name for name, is_folder in sorted(_entries(root)) if is_folder]
    are_splits = all(
        part.name.lower() in _SPLITS
        and not _has_images(part)
        and any(is_folder for _, is_folder in _entries(part))
        for part in parts
    )
    return parts if are_splits else []


def _check_level(root: Path, classes: list[str]) -> None:
    """Raise an error if the class folders are those inside of the given ones, or of some."""
    below = [
        {name for name, is_folder in _entries(root / class_) if is_folder} for class_ in classes
    ]
    are_direct = [_has_images(root / name) for name in classes]
    if any(are_direct):
        for name, folders, is_direct in zip(classes, below, are_direct, strict=True):
            parts = sorted(folder for folder in folders if folder.lower() in _SPLITS)
            if len(parts) > 1 and not is_direct:
                raise DatasetError(
                    f"{root / name}: a data set with the parts {_first_names(parts)}, not the "
                    f"images of a class; move it out of {root}, or pass one of its parts"
                )
        return
    same = len(classes) > 1 and all(names == below[0] for names in below) and below[0]
    if same or (_SPLITS.issuperset(map(str.lower, classes)) and any(below)):
        inside = _first_names(sorted(set().union(*below)))
        splits = _first_names([str(root / name) for name in classes])
        raise DatasetError(
            f"{root}: the classes are one level further down ({inside}), in each of the folders "
            f"in it; pass one of these: {splits}"
        )


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _existing(folder: str | os.PathLike[str]) -> Path:
    """Return the folder as a path if it exists."""
    if folder == "":
        # Path("") is the current directory.
        raise DatasetError("the path is empty; pass '.' for the current directory")
    try:
        path = Path(folder)
        os.stat(path)
    except FileNotFoundError:
        raise DatasetError(f"{shorten_path(folder)}: no such file or folder") from None
    except OSError as error:
        reason = f"cannot be accessed: {error.strerror}"
        raise DatasetError(f"{shorten_path(folder)}: {reason}") from None
    except ValueError as error:
        raise DatasetError(f"{shorten(folder)}: not a valid path") from error
    return path


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the name of each visible entry of a folder, and whether it is a folder."""
    return list(_iter_entries(folder))


def _iter_entries(folder: Path) -> Iterator[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_visible(entry.name):
                    yield entry.name, _is_folder(entry)
    except OSError as error:
        raise DatasetError(f"{folder}: the folder cannot be read: {error.strerror}") from error


def is_visible(name: str) -> bool:
    """Return whether a file or folder of a name is listed: not a hidden or a system's one."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_FOLDERS


def _has_images(folder: Path) -> bool:
    """Return whether there are images in the folder itself."""
    return any(is_listed(name) for name, is_folder in _entries(folder) if not is_folder)


def is_listed(name: str) -> bool:
    """Return whether a file of a name is listed as an image, by its suffix."""
    return os.path.splitext(name)[1].lower() in _LISTED_SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _images_below(root: Path) -> list[Path]:
    """Return all images below a folder, sorted; possibly none."""
    return [root / name for name in sorted(names_below(root))]


def names_below(root: Path) -> Iterator[str]:
    """Yield the path below a folder of each image in it, with forward slashes, unsorted.

    The memory does not depend on the number of files.

    Parameters
    ----------
    root
        A folder.

    Raises
    ------
    DatasetError
        If a folder cannot be read.
    """
    # Each folder is visited once, because a link to a parent folder would be followed endlessly.
    # Folders are compared by identity and visited in the order of their names, so that the path
    # of a linked folder does not depend on the machine.
    visited: set[tuple[int, int]] = set()
    to_visit = [""]
    while to_visit:
        prefix = to_visit.pop()
        folder = root / prefix
        try:
            status = os.stat(folder)
        except OSError as error:
            raise DatasetError(f"{folder}: the folder cannot be read: {error.strerror}") from error
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            continue
        visited.add(identity)
        below = []
        for name, is_folder in _iter_entries(folder):
            if is_folder:
                below.append(f"{prefix}{name}/")
            elif is_listed(name):
                yield prefix + name
        to_visit += sorted(below, reverse=True)
