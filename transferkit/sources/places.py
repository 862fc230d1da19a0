"""Where the paths are that a list or table contains."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from transferkit.errors import DatasetError, TransferkitError, shorten_path
from transferkit.sources.items import SourceImage, UnreadableImage
from transferkit.sources.remote import RemoteImage, Remotes
from transferkit.support.remote import is_url

__all__ = ["Places", "local_path", "url_problem"]


def url_problem(text: str) -> str | None:
    """Return why a text is no valid URL, as a clause; None for a valid one, and for a path.

    Examples
    --------
    >>> from transferkit.sources.places import url_problem
    >>> url_problem("http://[example.org/1.jpg")
    'not a valid URL (Invalid IPv6 URL)'
    """
    try:
        if is_url(text):
            urlsplit(text)
    except ValueError as error:
        return f"not a valid URL ({error})"
    return None


def local_path(text: str) -> str:
    """Return the path in a ``file`` URL; other texts unchanged.

    Examples
    --------
    >>> from transferkit.sources.places import local_path
    >>> local_path("photos/1.jpg")
    'photos/1.jpg'
    """
    if not text.lower().startswith("file://"):
        return text
    return url2pathname(urlsplit(text).path)


class Places:
    """The images that the lines of a list, or the rows of a table, name.

    Parameters
    ----------
    listing
        The path or URL of the list or table. Relative paths are relative to its folder.

    Examples
    --------
    >>> import os
    >>> from transferkit.sources.places import Places
    >>> Places("lists/train.txt").resolve("1.jpg").split(os.sep)
    ['lists', '1.jpg']
    >>> Places("lists/train.txt").resolve("https://example.org/1.jpg").source
    'https://example.org/1.jpg'
    """

    def __init__(self, listing: str) -> None:
        self._listing = listing
        self._remotes = Remotes()
        self._is_remote = is_url(listing)
        self._folder = (
            listing.partition("?")[0].rpartition("/")[0]
            if self._is_remote
            else os.path.dirname(listing)
        )

    def resolve(self, text: str) -> SourceImage:
        """Return the image of a path or URL; it is not checked whether it exists."""
        problem = url_problem(text)
        if problem is not None:
            return UnreadableImage(text, problem)
        path = local_path(text)
        if self._is_remote and not is_url(path) and path == text:
            path = f"{self._folder}/{path.lstrip('/')}"
        if not is_url(path):
            return os.path.join(self._folder, path)
        try:
            return RemoteImage(path, self._remotes.of(path))
        except TransferkitError as error:
            return UnreadableImage(path, str(error))

    def check(self, first: str) -> None:
        """Check the first path or URL, whose problem the others probably share.

        Raises
        ------
        DatasetError
            If it is relative to the working folder, not to that of the list.
        UnknownNameError
            If the scheme of the URL is unknown.
        UnsupportedError
            If a package for it is missing.
        """
        if url_problem(first) is not None:
            return
        path = local_path(first)
        if is_url(path):
            self._remotes.of(path)
            return
        if self._is_remote or os.path.isabs(path) or "\0" in path:
            return
        expected = os.path.join(self._folder, path)
        if not os.path.exists(expected) and os.path.exists(path):
            raise DatasetError(
                f"{shorten_path(self._listing)}: {shorten_path(path)} exists in the working "
                f"folder, but relative paths are relative to the folder of the list, "
                f"{Path(self._folder)}; move the list, or write absolute paths"
            )
