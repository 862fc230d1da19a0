"""Folders, and files that match a pattern, on the file systems of fsspec."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from transferkit.errors import DatasetError, shorten_path
from transferkit.images.folders import is_listed, is_visible
from transferkit.sources.items import SourceImage
from transferkit.sources.remote import (
    FileSystems,
    RemoteImage,
    to_remote_error,
)
from transferkit.sources.sorting import SortedNames
from transferkit.support.remote import RemoteError, try_several_times

__all__ = ["RemoteFolder", "is_remote_folder", "matching_urls"]


class RemoteFolder:
    """The images in a folder of a file system and its subfolders, in the order of `list_images`.

    The names in one folder are in memory at a time, because file systems return them together.

    Parameters
    ----------
    url
        The folder.
    remote
        The file systems.

    Attributes
    ----------
    number
        The number of images.

    Raises
    ------
    DatasetError
        If it cannot be read.
    """

    def __init__(self, url: str, remote: FileSystems) -> None:
        self._url = url.rstrip("/")
        self._remote = remote
        try:
            file_system, path = remote.resolve(url)
            self._names = SortedNames(_names_below(file_system, path.rstrip("/")))
        except RemoteError as error:
            raise DatasetError(f"{shorten_path(url)}: {error.reason}") from error
        self.number = len(self._names)

    def __iter__(self) -> Iterator[SourceImage]:
        for name in self._names:
            yield RemoteImage(f"{self._url}/{name}", self._remote)


def _names_below(file_system: Any, root: str) -> Iterator[str]:
    to_visit = [""]
    while to_visit:
        prefix = to_visit.pop()
        folder = posixpath.join(root, prefix).rstrip("/")
        for entry in _list(file_system, folder):
            path = str(entry["name"]).rstrip("/")
            name = posixpath.basename(path)
            # Some list a folder as an entry of itself.
            if path.lstrip("/") == folder.lstrip("/") or not is_visible(name):
                continue
            if entry["type"] == "directory":
                to_visit.append(f"{prefix}{name}/")
            elif is_listed(name):
                yield prefix + name


def _list(file_system: Any, folder: str) -> list[dict[str, Any]]:
    def attempt() -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = file_system.ls(folder, detail=True)
            # File systems keep what they have listed.
            file_system.invalidate_cache(folder)
        except Exception as error:
            raise to_remote_error(error) from error
        return entries

    return try_several_times(attempt)


def is_remote_folder(url: str, remote: FileSystems) -> bool:
    """Return whether a URL is that of a folder.

    Raises
    ------
    DatasetError
        If it does not exist, or the server does not say.
    """

    def attempt() -> bool:
        try:
            file_system, path = remote.resolve(url)
            return bool(file_system.info(path)["type"] == "directory")
        except Exception as error:
            raise to_remote_error(error) from error

    try:
        return try_several_times(attempt)
    except RemoteError as error:
        raise DatasetError(f"{shorten_path(url)}: {error.reason}") from error


def matching_urls(pattern: str, remote: FileSystems) -> Iterator[str]:
    """Yield the URLs of the files that match a pattern, as `matching_paths` does for paths.

    Raises
    ------
    DatasetError
        If the server cannot be read.
    """

    def attempt() -> list[str]:
        try:
            file_system, path = remote.resolve(pattern)
            found = file_system.glob(path, detail=True)
            # What comes before the path in the URL: the scheme, and a host if there is one.
            has_path = pattern.endswith(path)
            return [
                pattern.removesuffix(path) + name
                if has_path
                else str(file_system.unstrip_protocol(name))
                for name, entry in found.items()
                if entry["type"] != "directory"
            ]
        except Exception as error:
            raise to_remote_error(error) from error

    try:
        yield from try_several_times(attempt)
    except RemoteError as error:
        raise DatasetError(f"{shorten_path(pattern)}: {error.reason}") from error
