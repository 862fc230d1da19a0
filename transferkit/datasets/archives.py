"""Unpacking of archives that may be damaged or hostile: .zip and .tar.gz.

An archive is not trusted: a name may lead out of the folder, a link may redirect what is written
after it, and a few kilobytes may decompress to terabytes. Only regular files are written, under
their names, and no more than was agreed on.
"""

from __future__ import annotations

import functools
import gzip
import lzma
import os
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from transferkit.errors import FileFormatError, OutputError, shorten, shorten_path
from transferkit.support.atomic_write import check_folder_writable
from transferkit.support.progress import show_progress
from transferkit.support.tar_headers import LimitedHeader

__all__ = ["MAX_FILES", "unpack_archive"]

MAX_FILES = 1_000_000
"""The maximum number of entries of an archive."""

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_ZIP = b"PK"
# What may follow the last file of a .tar: it is padded to a multiple of the size of its records.
_MAX_PADDING = 4 * _CHUNK
# On Windows, separators of folders, the letter of a drive or a stream of a file.
_UNSAFE = re.compile(r"[:\\\0]")
_DAMAGED = (
    EOFError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    # Of zipfile: a method of compression that it does not have, or a password.
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class _Entry:
    """A file or folder in an archive.

    Attributes
    ----------
    name
        Its path, as the archive states it.
    size
        Its stated size, in bytes.
    is_folder
        Whether it is a folder.
    open
        Opens its content.
    """

    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


def unpack_archive(
    path: Path,
    folder: Path,
    *,
    max_bytes: int,
    wanted: Callable[[str], bool] = lambda _: True,
    progress: bool | None = None,
) -> None:
    """Unpack an archive to a new folder, which is then complete, or does not exist on failure.

    Parameters
    ----------
    path
        A .zip or .tar.gz file, recognized by its content.
    folder
        The folder to create. The files are written to a temporary folder beside it, which is
        renamed when all are complete.
    max_bytes
        The maximum of the sizes of all files in the archive together, in bytes.
    wanted
        Returns whether the file of a name is unpacked. All are checked.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Raises
    ------
    FileFormatError
        If the archive is damaged, truncated, encrypted or of another format, contains more than
        ``max_bytes`` or `MAX_FILES`, or has absolute paths, ``..``, links or devices.
    OutputError
        If the folder exists or cannot be written, or the disk is full.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from pathlib import Path
    >>> from transferkit.datasets.archives import unpack_archive
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(Path(folder, "a.zip"), "w") as file:
    ...         file.writestr("images/1.txt", "one")
    ...     unpack_archive(Path(folder, "a.zip"), Path(folder, "a"), max_bytes=1000)
    ...     Path(folder, "a", "images", "1.txt").read_text()
    'one'
    """
    if os.path.lexists(folder):
        raise OutputError(f"{shorten_path(folder)}: exists already; expected a new folder")
    check_folder_writable(folder)
    temporary = folder.with_name(f".{folder.name[:20]}.{secrets.token_hex(4)}.part")
    try:
        try:
            temporary.mkdir(parents=True)
            _unpack(path, temporary, max_bytes, wanted, progress)
            temporary.replace(folder)
        except (FileFormatError, OutputError):
            raise
        except _DAMAGED as error:
            reason = shorten(str(error) or type(error).__name__)
            raise FileFormatError(
                f"{path}: a damaged or truncated archive: {reason}; download it again"
            ) from error
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be unpacked from {path}: {error.strerror or error}"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(
    path: Path,
    folder: Path,
    max_bytes: int,
    wanted: Callable[[str], bool],
    progress: bool | None,
) -> None:
    total = 0
    with show_progress(f"Unpacking {path.name}", None, shown=progress, in_bytes=True) as advance:
        for number, entry in enumerate(_entries(path)):
            total += entry.size
            # Stated sizes are checked before anything is written; `_copy` keeps to them.
            if total > max_bytes or number >= MAX_FILES:
                limit = f"{max_bytes:,} bytes" if total > max_bytes else f"{MAX_FILES:,} files"
                raise FileFormatError(f"{path}: not unpacked: it contains more than {limit}")
            target = folder / _checked_name(path, entry.name)
            if not entry.is_folder and wanted(entry.name):
                _copy(path, entry, target)
            advance(entry.size)


def _checked_name(path: Path, name: str) -> PurePosixPath:
    """Return the path of an entry, which is inside of the folder to unpack to."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or _UNSAFE.search(name) or not parts.parts:
        # `./`, the folder itself, is usual in a .tar.
        if name.strip("/") == "." and not name.startswith("/"):
            return parts
        raise FileFormatError(
            f"{path}: not unpacked: it has the name {shorten(name)}, which is not a path inside of "
            "a folder"
        )
    return parts


def _copy(path: Path, entry: _Entry, target: Path) -> None:
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):
                written += len(chunk)
                if written > entry.size:
                    break
                file.write(chunk)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise FileFormatError(
            f"{path}: not unpacked: it has the name {shorten(entry.name)} several times"
        ) from None
    if written != entry.size:
        comparison = "more" if written > entry.size else "less"
        raise FileFormatError(
            f"{path}: a damaged archive: {shorten(entry.name)} has {comparison} than the stated "
            f"{entry.size:,} bytes; download it again"
        )


def _entries(path: Path) -> Iterator[_Entry]:
    with path.open("rb") as file:
        begin = file.read(max(len(_GZIP), len(_ZIP)))
    if begin.startswith(_ZIP):
        yield from _zip_entries(path)
    elif begin.startswith(_GZIP):
        with gzip.open(path) as unzipped:
            yield from _tar_entries(path, unzipped)
    else:
        raise FileFormatError(f"{path}: not an archive; expected a .zip or .tar.gz file")


def _zip_entries(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise FileFormatError(f"{path}: not unpacked: it is encrypted")
            # Unix's type of the file; 0 in archives from other systems.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise _not_a_file(path, info.filename)
            yield _Entry(
                info.filename, info.file_size, info.is_dir(), functools.partial(archive.open, info)
            )


def _tar_entries(path: Path, file: gzip.GzipFile) -> Iterator[_Entry]:
    with tarfile.open(fileobj=file, mode="r|", tarinfo=LimitedHeader) as archive:
        for info in archive:
            if not info.isfile() and not info.isdir():
                raise _not_a_file(path, info.name)
            yield _Entry(
                info.name, info.size, info.isdir(), functools.partial(_open, archive, info)
            )
    # The checksum of a .gz file is checked when its end is read.
    for _ in range(0, _MAX_PADDING, _CHUNK):
        if not file.read(_CHUNK):
            return
    raise FileFormatError(f"{path}: not unpacked: there is more data after the last file")


def _open(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name} has no content")
    return content


def _not_a_file(path: Path, name: str) -> FileFormatError:
    return FileFormatError(
        f"{path}: not unpacked: {shorten(name)} is a link or device; expected files and folders"
    )
