"""What everything that uses servers shares: URLs, fsspec, and tries that are repeated."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from transferkit.errors import UnknownNameError, UnsupportedError

__all__ = ["RemoteError", "check_scheme", "import_fsspec", "is_url", "try_several_times"]

Result = TypeVar("Result")

# With two characters or more: C:// is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_TRIES = 3
# Seconds before the second try; doubled before each further one.
_PAUSE = 1.0


class RemoteError(OSError):
    """A file on a server that cannot be read or written.

    Parameters
    ----------
    reason
        Why, as a clause.
    is_temporary
        Whether another try may succeed.
    """

    def __init__(self, reason: str, *, is_temporary: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_temporary = is_temporary


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and not a path.

    Examples
    --------
    >>> from transferkit.support.remote import is_url
    >>> is_url("s3://bucket/1.jpg"), is_url("photos/1.jpg"), is_url("C:/1.jpg")
    (True, False, False)
    """
    return _URL.match(text) is not None


def import_fsspec() -> Any:
    """Return the module ``fsspec``.

    Raises
    ------
    UnsupportedError
        If it is not installed.
    """
    try:
        import fsspec
        import fsspec.core
    except ImportError as error:
        raise UnsupportedError(
            "URLs other than http and https need fsspec, which is not installed; "
            'pip install "transferkit[remote]"'
        ) from error
    return fsspec


def check_scheme(scheme: str) -> None:
    """Check that fsspec has a file system for a scheme, such as ``s3``.

    Raises
    ------
    UnknownNameError
        If the scheme is unknown.
    UnsupportedError
        If fsspec, or the package that it needs for the scheme, is not installed.
    """
    fsspec = import_fsspec()
    from fsspec.registry import known_implementations

    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        known = sorted({"http", "https", *fsspec.available_protocols()})
        raise UnknownNameError("URL scheme", scheme, known) from None
    except ImportError as error:
        package = known_implementations[scheme]["class"].partition(".")[0]
        remedy = "" if package == "fsspec" else f"; pip install {package}"
        raise UnsupportedError(
            f"URLs with {scheme}:// need a package that is not installed: {error}{remedy}"
        ) from error


def try_several_times(call: Callable[[], Result]) -> Result:
    """Return the result of a call, which is repeated after a pause if its error is temporary.

    Raises
    ------
    RemoteError
        That of the last try.
    """
    for number in range(1, _TRIES):
        try:
            return call()
        except RemoteError as error:
            if not error.is_temporary:
                raise
            time.sleep(_PAUSE * 2 ** (number - 1))
    try:
        return call()
    except RemoteError as error:
        if not error.is_temporary:
            raise
        raise RemoteError(f"{error.reason}, in {_TRIES} tries") from error
