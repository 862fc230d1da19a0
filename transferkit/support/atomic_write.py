"""Writing a file: under a temporary name beside its place, and renamed when it is whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from transferkit.errors import OutputError

__all__ = ["check_writable", "write_atomically"]


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the name ``path`` when the block ends well.

    If the block raises, is interrupted, or the disk is full, nothing new is left behind and
    what was at ``path`` before is still there.

    Raises
    ------
    OutputError
        If it cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit.support.atomic_write import write_atomically
    >>> with TemporaryDirectory() as folder:
    ...     with write_atomically(Path(folder, "notes.txt")) as file:
    ...         _ = file.write(b"kept")
    ...     Path(folder, "notes.txt").read_bytes()
    b'kept'
    """
    check_writable(path)
    temporary = path.with_name(f".{path.name[:20]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """See, before long work, that its result can be written to ``path``.

    Raises
    ------
    OutputError
        If ``path`` is a folder or a device, or the folder it would stand in is missing or not
        writable.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            # A rename would put a file in the place of a device such as /dev/null.
            raise OutputError(f"{path}: is no ordinary file")
        if not folder.is_dir():
            raise OutputError(f"{path}: there is no folder {str(folder)!r}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: the folder {str(folder)!r} may not be written to")
    except OutputError:
        raise
    except OSError as error:
        # A name too long, say, or a folder that may not be looked into.
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
