"""Images from anywhere: folders, patterns, lists, tables, archives and URLs, as one iterable."""

from __future__ import annotations

import difflib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Protocol, TypeAlias

from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    ParameterError,
    shorten,
    shorten_path,
)
from transferkit.images.folders import is_listed, no_images
from transferkit.sources.folders import Folder, is_pattern, matching_paths
from transferkit.sources.items import SourceImage
from transferkit.sources.lists import TextList
from transferkit.sources.parquet import ParquetTable
from transferkit.sources.places import local_path, url_problem
from transferkit.sources.remote import (
    FileSystems,
    Remote,
    RemoteImage,
    Remotes,
    download_temporarily,
    url_name,
)
from transferkit.sources.remote_folders import RemoteFolder, is_remote_folder, matching_urls
from transferkit.sources.sorting import SortedNames
from transferkit.sources.tars import LocalTar, RemoteTar
from transferkit.support.remote import is_url

__all__ = ["Sources", "is_single", "open_sources"]

_LISTS = (".txt", ".lst")
_TABLES = (".parquet",)
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# Of a folder with many files, the names that are compared with one that does not exist.
_MAX_COMPARED = 2000


class _Part(Protocol):
    """The images of one input; ``number`` is None if it is unknown before they are read."""

    @property
    def number(self) -> int | None: ...

    def __iter__(self) -> Iterator[SourceImage]: ...


_Parts: TypeAlias = list[_Part | SourceImage]


class Sources:
    """The images of several inputs, in order; `open_sources` returns it.

    It can be iterated several times, and yields paths and named images
    (`transferkit.images.NamedImage`), which can be pickled.

    Attributes
    ----------
    number
        The number of images; None if it is unknown before they are read, as for a tar file.
    """

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self.number = _total(parts)

    def __iter__(self) -> Iterator[SourceImage]:
        for part in self._parts:
            if isinstance(part, SourceImage):
                yield part
            else:
                yield from part

    def __length_hint__(self) -> int:
        return NotImplemented if self.number is None else self.number


def _total(parts: Iterable[_Part | SourceImage]) -> int | None:
    total = 0
    for part in parts:
        number = 1 if isinstance(part, SourceImage) else part.number
        if number is None:
            return None
        total += number
    return total


class _Matches:
    """Files that match a pattern, sorted, of which some are tar files and the like."""

    def __init__(
        self,
        names: SortedNames,
        parts: dict[str, _Parts],
        make_image: Callable[[str], SourceImage],
    ) -> None:
        self._names = names
        self._make_image = make_image
        self._parts = parts
        inside = _total(itertools.chain.from_iterable(parts.values()))
        self.number = None if inside is None else len(names) - len(parts) + inside

    def __iter__(self) -> Iterator[SourceImage]:
        for name in self._names:
            if name in self._parts:
                yield from Sources(self._parts[name])
            else:
                yield self._make_image(name)


def open_sources(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    column: str | None = None,
) -> Sources:
    r"""Return the images of folders, patterns, lists, tables, archives and URLs.

    The memory does not grow with the number of images.

    Parameters
    ----------
    inputs
        One or several of

        - a folder, whose images are those of `list_images`, in the same order;
        - the path of an image;
        - a pattern with ``*``, ``?``, ``[...]`` or ``**`` (any number of folders), such as
          ``photos/**/*.jpg``. What matches is sorted: images, tar and Parquet files and folders, or
          all files if the pattern ends in a suffix. ``**`` does not follow links to folders;
        - a text file, ``.txt`` or ``.lst``, with a path or URL on each line. Relative paths are
          relative to the folder of the text file;
        - a Parquet file, ``.parquet``, with a path or URL, or the content of an image, in each row;
        - a tar file, ``.tar``, ``.tar.gz`` or ``.tgz``, such as the shards of WebDataset: the files
          in it whose suffix is one of an image, in their order;
        - an ``http`` or ``https`` URL of one of these files, or a URL of a file, a folder or a
          pattern on a file system of fsspec (``s3``, ``gs``, ...), which needs the extra
          ``remote``.
    column
        The column of the images in Parquet files: strings, which are paths or URLs; or binary; or
        structures of ``bytes`` and ``path``, as in Hugging Face's datasets. None: the only one that
        can be meant.

    Returns
    -------
    Sources
        The images, for `FeatureExtractor.extract` and the like. Those that cannot be read, such as
        a URL that times out three times, or what is damaged in a tar file, are reported when they
        are read, and skipped with ``on_error="skip"``. The source of an image in a tar file is
        ``a.tar/1.jpg``, that of a row with the content of an image ``a.parquet[7]``.

    Raises
    ------
    DatasetError
        If there are no inputs, an input does not exist or has no images, or the column is not
        recognized.
    FileFormatError
        If a text file is no text, or a Parquet file is damaged.
    UnknownNameError
        If the column or the scheme of a URL does not exist.
    UnsupportedError
        If pyarrow or fsspec is needed and not installed.
    DownloadError
        If a list or table cannot be downloaded.
    ParameterError
        If ``column`` is given and there is no Parquet file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit.sources import open_sources
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         Image.new("RGB", (8, 8)).save(Path(folder, name))
    ...     _ = Path(folder, "list.txt").write_text("b.png\nb.png\n")
    ...     sources = open_sources([folder, f"{folder}/list.txt"])
    ...     sources.number, [Path(path).name for path in sources]
    (4, ['a.png', 'b.png', 'b.png', 'b.png'])
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    if not isinstance(inputs, Iterable):
        raise ArgumentTypeError(
            f"inputs is {shorten(inputs)}; expected a path, pattern or URL, or several of them"
        )
    opener = _Opener(column)
    parts = [part for one in inputs for part in opener.open(one)]
    if not parts:
        raise DatasetError("no images were given")
    if column is not None and not opener.has_table:
        raise ParameterError(
            f"column is {shorten(column)}, but there is no Parquet file ({', '.join(_TABLES)}) "
            "among the inputs; leave it out"
        )
    return Sources(parts)


def is_single(path: str) -> bool:
    """Return whether a path is not one that only `open_sources` reads: a folder, a tar file, ..."""
    if is_url(path):
        return False
    if is_listed(path):
        return not is_pattern(path) or os.path.lexists(path)
    if is_pattern(path) and not os.path.lexists(path):
        return False
    return not _ends(path, _ARCHIVES + _LISTS + _TABLES) and not os.path.isdir(path)


class _Opener:
    """Opens inputs, and remembers whether one of them was a table."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._remotes = Remotes()
        self.has_table = False

    def open(self, given: str | os.PathLike[str]) -> _Parts:
        if not isinstance(given, (str, os.PathLike)):
            raise ArgumentTypeError(
                f"inputs has a {type(given).__name__}; expected paths, patterns and URLs"
            )
        text = os.fsdecode(given)
        problem = url_problem(text)
        if problem is not None:
            raise DatasetError(f"{shorten_path(text)}: {problem}")
        text = local_path(text)
        if not text:
            raise DatasetError("the path is empty; pass '.' for the current directory")
        if is_url(text):
            return self._open_url(text, self._remotes.of(text))
        if is_pattern(text) and not os.path.lexists(text):
            found = (path.replace(os.sep, "/") for path in matching_paths(text))
            return self._open_pattern(text, found, self._open_path, str)
        return self._open_path(text)

    def _open_path(self, path: str) -> _Parts:
        try:
            is_folder = os.path.isdir(path)
            if not is_folder:
                os.stat(path)
        except FileNotFoundError:
            raise _missing(path) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a valid path"
            raise DatasetError(f"{shorten_path(path)}: cannot be accessed: {reason}") from None
        if is_folder:
            return [_checked(Folder(path), path)]
        if _ends(path, _ARCHIVES):
            return [LocalTar(path)]
        if _ends(path, _LISTS):
            return [TextList(path, lambda: open(path, "rb"))]
        if _ends(path, _TABLES):
            return [self._table(path, lambda: path)]
        return [path]

    def _open_url(self, url: str, remote: Remote) -> _Parts:
        name = url_name(url)
        if isinstance(remote, FileSystems) and is_pattern(url):
            open_one = functools.partial(self._open_url, remote=remote)
            make_image = functools.partial(RemoteImage, remote=remote)
            return self._open_pattern(url, matching_urls(url, remote), open_one, make_image)
        if _ends(name, _ARCHIVES):
            return [RemoteTar(url, remote)]
        if _ends(name, _LISTS):
            return [TextList(url, download_temporarily(url, remote).open)]
        if _ends(name, _TABLES):
            # The end of a table is read first, which needs a file that can seek.
            open_file: Callable[[], IO[bytes]] = (
                functools.partial(remote.open, url)
                if isinstance(remote, FileSystems)
                else download_temporarily(url, remote).open
            )
            return [self._table(url, open_file)]
        if (
            isinstance(remote, FileSystems)
            and not is_listed(name)
            and is_remote_folder(url, remote)
        ):
            return [_checked(RemoteFolder(url, remote), url)]
        return [RemoteImage(url, remote)]

    def _table(self, name: str, open_file: Callable[[], str | IO[bytes]]) -> ParquetTable:
        self.has_table = True
        return ParquetTable(name, open_file, self._column)

    def _open_pattern(
        self,
        pattern: str,
        found: Iterable[str],
        open_one: Callable[[str], _Parts],
        make_image: Callable[[str], SourceImage],
    ) -> _Parts:
        """Return what matches a pattern.

        Parameters
        ----------
        pattern
            The pattern, for messages.
        found
            What matches it, with forward slashes, in any order.
        open_one
            Opens a tar file and the like.
        make_image
            Returns the image of a name.
        """
        names = SortedNames(path for path in found if _is_meant(path, pattern))
        if not len(names):
            raise DatasetError(f"{shorten_path(pattern)}: no images match the pattern")
        parts: dict[str, _Parts] = {}
        for name in names:
            if not is_listed(name):
                # Of several folders, some may be empty.
                parts[name] = [Folder(name)] if os.path.isdir(name) else open_one(name)
        return [_Matches(names, parts, make_image)]


def _checked(folder: Folder | RemoteFolder, name: str) -> _Part:
    """Return a folder that has images."""
    if not folder.number:
        raise DatasetError(
            f"{shorten_path(name)}: {no_images('folder')}; for tar or Parquet files in it, pass a "
            f"pattern such as {shorten_path(os.path.join(name, '*.tar'))!r}"
        )
    return folder


def _is_meant(path: str, pattern: str) -> bool:
    """Return whether what matches a pattern is an image, or has images in it."""
    suffix = os.path.splitext(pattern)[1]
    if suffix and not is_pattern(suffix):
        return True
    name = url_name(path) if is_url(path) else path
    return is_listed(name) or _ends(name, _ARCHIVES + _TABLES) or os.path.isdir(path)


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _missing(path: str) -> DatasetError:
    """Return the error for a path that does not exist, with similar names."""
    folder, name = os.path.split(path.rstrip("/" + os.sep))
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in itertools.islice(entries, _MAX_COMPARED)]
    except OSError:
        names = []
    close = difflib.get_close_matches(name, names, n=3)
    shown = " or ".join(shorten_path(os.path.join(folder, one)) for one in close)
    hint = f"; did you mean {shown}?" if close else ""
    return DatasetError(f"{shorten_path(path)}: no such file or folder{hint}")
