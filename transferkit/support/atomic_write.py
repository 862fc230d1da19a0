"""Atomic writing: to a temporary file in the same folder, renamed when it is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from transferkit.errors import OutputError, TransferkitError, shorten_path

__all__ = [
    "check_folder_writable",
    "check_writable",
    "png_path",
    "sync_folder",
    "write_atomically",
]


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to ``path`` when the block ends without an error.

    If the block raises or is interrupted, or the disk is full, no new file is left and an
    existing file at ``path`` is unchanged. Afterwards, the file is on the disk, so that a power
    failure does not leave an empty one.

    Parameters
    ----------
    path
        The file to write.

    Yields
    ------
    file
        Open for writing bytes.

    Raises
    ------
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit.support.atomic_write import write_atomically
    >>> with TemporaryDirectory() as folder:
    ...     with write_atomically(Path(folder, "notes.txt")) as file:
    ...         _ = file.write(b"content")
    ...     Path(folder, "notes.txt").read_bytes()
    b'content'
    """
    check_writable(path)
    temporary = path.with_name(f".{path.name[:20]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except TransferkitError:
        # Some are OSErrors too, such as a failed download of what is to be written.
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{shorten_path(path)}: cannot be written: {reason}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on the disk, where this is possible."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(path: Path) -> None:
    """Check that a result can be written to ``path``, before the work that computes it.

    Raises
    ------
    OutputError
        If ``path`` is a folder or a device, or its folder does not exist or is not writable.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; expected the name of a file")
        if path.exists() and not path.is_file():
            # Renaming a file to the path of a device, such as /dev/null, would replace it.
            raise OutputError(f"{path}: not a regular file")
        if not folder.is_dir():
            raise OutputError(
                f"{shorten_path(path)}: the folder '{shorten_path(folder)}' does not exist"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: the folder {str(folder)!r} is not writable")
    except OutputError:
        raise
    except OSError as error:
        # For example a name that is too long, or a folder that must not be read.
        raise OutputError(f"{shorten_path(path)}: cannot be written: {error.strerror}") from None


def check_folder_writable(folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist yet.

    Raises
    ------
    OutputError
        If it is a file, or it, or the first of its parents that exists, is not writable.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit.support.atomic_write import check_folder_writable
    >>> with TemporaryDirectory() as folder:
    ...     check_folder_writable(Path(folder, "new", "data"))
    """
    try:
        existing = folder.absolute()
        while not _exists(existing):
            existing = existing.parent
        if not existing.is_dir():
            raise OutputError(f"{shorten_path(folder)}: {shorten_path(existing)} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(
                f"{shorten_path(folder)}: the folder '{shorten_path(existing)}' is not writable"
            )
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shorten_path(folder)}: cannot be written: {reason}") from None


def _exists(path: Path) -> bool:
    """Return whether a path exists; an invalid one, such as a name that is too long, raises."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def png_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a PNG file that is to be written.

    Raises
    ------
    OutputError
        If its name does not end in ``.png``.

    Examples
    --------
    >>> from transferkit.support.atomic_write import png_path
    >>> png_path("curve.PNG").name
    'curve.PNG'
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise OutputError(f"{shorten_path(target)}: expected a file name that ends in .png")
    return target
