"""Published data sets: their archives are downloaded, verified and unpacked into a folder.

The folder gets ``train`` and ``test`` with one folder for each class, and a hidden file that says
what it contains. That is written last, so a folder with it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transferkit.datasets.folders import from_folder
from transferkit.datasets.labelled_images import LabelledImages
from transferkit.errors import (
    DatasetError,
    DownloadError,
    FileFormatError,
    ImageError,
    OutputError,
    shorten_path,
)
from transferkit.images import Skipped
from transferkit.images.reading import read_image
from transferkit.support.atomic_write import check_folder_writable, write_atomically
from transferkit.support.progress import show_progress
from transferkit.support.warning import warn
from transferkit.weights.cache import cache_folder
from transferkit.weights.checksum import Checksum
from transferkit.weights.download import fetch_file

__all__ = ["ArchiveFiles", "PublishedArchive", "find_undecodable", "provide"]

ArchiveFiles: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""The types of the parameter ``archive``."""

_RECORD = ".transferkit.json"
_LOCK = ".transferkit.lock"
_UNFINISHED = ".unfinished"
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class PublishedArchive:
    """An archive that a publisher offers.

    Attributes
    ----------
    url
        Its URL.
    file
        Its name in the cache folder.
    size
        Its size, in bytes.
    sha256
        Its SHA-256 digest, in hexadecimal.
    max_bytes
        What its files may have together, in bytes.
    """

    url: str
    file: str
    size: int
    sha256: str
    max_bytes: int

    @property
    def checksum(self) -> Checksum:
        """The digest, as a checksum."""
        return Checksum("sha256", self.sha256)

    def problem_of(self, path: Path) -> str | None:
        """Return what is wrong with a file; None if it is the archive."""
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"it has {size:,} bytes; expected {self.size:,}"
            digest = self.checksum.of(path)
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"
        return None if digest == self.sha256 else f"its SHA-256 is {digest}; expected {self.sha256}"

    def fetch(self, progress: bool | None) -> Path:
        """Return the archive in the cache folder; download it if it is not there."""
        path = cache_folder() / self.file
        if path.is_file():
            problem = self.problem_of(path)
            if problem is None:
                return path
            warn(f"{path} is not used: {problem}")
        try:
            fetch_file(
                self.url,
                path,
                what=f"{self.size / 1e6:,.0f} MB",
                expected=str(self.checksum),
                check=self.problem_of,
                progress=progress,
            )
        except DownloadError as error:
            raise DownloadError(f"{error}; or pass the downloaded file as archive") from error
        return path


def provide(
    folder: str | os.PathLike[str],
    settings: Mapping[str, str | int],
    archives: Sequence[PublishedArchive],
    arrange: Callable[[Sequence[Path], Path], list[Skipped]],
    *,
    archive: ArchiveFiles = None,
    progress: bool | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Return the parts of a data set in a folder, which is created if it is not complete yet.

    Parameters
    ----------
    folder
        The folder; missing, empty, or written by an earlier call with the same settings.
    settings
        The name of the data set, and the parameters that determine what is in the folder.
    archives
        What is downloaded.
    arrange
        Unpacks the files of ``archives`` into a folder, as ``train/class/file`` and
        ``test/class/file``, and returns what was left out.
    archive
        Local files of some of the archives, which are then not downloaded.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Returns
    -------
    train, test : LabelledImages
        ``skipped`` of ``train`` lists what was left out of both.

    Raises
    ------
    DatasetError
        If the folder has other content.
    DownloadError
        If an archive cannot be downloaded.
    FileFormatError
        If an archive is not the published one.
    OutputError
        If the folder cannot be written, which is checked first.
    """
    root = Path(folder)
    record = _read_record(root)
    if record is None:
        record = _create(root, settings, archives, arrange, archive, progress)
    if record["settings"] != settings:
        raise DatasetError(
            f"{root}: has {_described(record['settings'])}, not {_described(settings)}; give "
            "another folder"
        )
    data = from_folder(root, on_error="skip")
    train, test = (data.of_split(name) for name in _SPLITS)
    train.skipped = [Skipped(**item) for item in record["skipped"]]
    return train, test


def find_undecodable(paths: Sequence[Path], progress: bool | None) -> dict[Path, str]:
    """Return the files that cannot be decoded as images, each with the reason.

    Parameters
    ----------
    paths
        The files, of which the format is recognized by their content.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.
    """
    found: dict[Path, str] = {}
    with (
        show_progress("Checking images", len(paths), shown=progress) as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            for path, problem in zip(paths, pool.map(_problem_of_image, paths), strict=True):
                if problem is not None:
                    found[path] = problem
                advance(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _problem_of_image(path: Path) -> str | None:
    try:
        read_image(path)
    except ImageError as error:
        return error.reason
    return None


def _create(
    root: Path,
    settings: Mapping[str, str | int],
    archives: Sequence[PublishedArchive],
    arrange: Callable[[Sequence[Path], Path], list[Skipped]],
    archive: ArchiveFiles,
    progress: bool | None,
) -> dict[str, Any]:
    """Fill the folder and return its record."""
    import filelock  # slow to import, and not needed for a complete folder

    # All that can be checked before the download is checked here.
    check_folder_writable(root)
    _check_empty(root)
    local = _local_files(archives, archive)
    work = root / _UNFINISHED
    is_new = not root.exists()
    record = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _check_space(root, archives)
        with filelock.FileLock(root / _LOCK):
            try:
                # Another process may have filled the folder while this one waited, or an earlier
                # call may have been interrupted in its last step.
                record = _read_record(root)
                if record is None:
                    if not (work / _RECORD).is_file():
                        _fill(work, settings, archives, arrange, local, progress)
                    for name in (*_SPLITS, _RECORD):
                        if (work / name).exists():
                            (work / name).replace(root / name)
                    record = _read_record(root)
            finally:
                if not (work / _RECORD).is_file():
                    shutil.rmtree(work, ignore_errors=True)
                # While it is held: a process that waits for it then creates a new one. Windows
                # does not allow this.
                with suppress(OSError):
                    (root / _LOCK).unlink()
    except (DownloadError, OutputError):
        raise
    except OSError as error:
        raise OutputError(f"{root}: cannot be written: {error.strerror or error}") from error
    finally:
        if record is None and is_new:
            # Only if it is empty.
            with suppress(OSError):
                root.rmdir()
    if record is None:
        raise OutputError(f"{root}: was changed by another process; try again")
    return record


def _check_space(root: Path, archives: Sequence[PublishedArchive]) -> None:
    """Raise an error if the disk is too full; photos take as much space as their archives."""
    needed, free = sum(one.size for one in archives), shutil.disk_usage(root).free
    if free < needed:
        raise OutputError(
            f"{root}: the data set needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free "
            "on this disk"
        )


def _fill(
    work: Path,
    settings: Mapping[str, str | int],
    archives: Sequence[PublishedArchive],
    arrange: Callable[[Sequence[Path], Path], list[Skipped]],
    local: Mapping[PublishedArchive, Path],
    progress: bool | None,
) -> None:
    """Create the content of the folder, with the record as its last file."""
    paths = [local.get(one) or one.fetch(progress) for one in archives]
    # Of a call that was killed.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    skipped = arrange(paths, work)
    record = {
        "settings": settings,
        "archives": {one.url: one.sha256 for one in archives},
        "skipped": [{"source": one.source, "reason": one.reason} for one in skipped],
    }
    with write_atomically(work / _RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())


def _check_empty(root: Path) -> None:
    """Raise an error if the folder has content that no unfinished call wrote."""
    if not root.exists():
        return
    names = os.listdir(root)
    allowed = {_LOCK, _UNFINISHED}
    # In this order, since another process may be moving it.
    if (root / _UNFINISHED / _RECORD).is_file() or (root / _RECORD).is_file():
        allowed.update((*_SPLITS, _RECORD))
    others = sorted(set(names) - allowed)
    if others:
        raise DatasetError(
            f"{root}: the folder is not empty: {', '.join(map(shorten_path, others[:3]))}"
            f"{', ...' if len(others) > 3 else ''}; give a new one"
        )


def _local_files(
    archives: Sequence[PublishedArchive], archive: ArchiveFiles
) -> dict[PublishedArchive, Path]:
    """Return which of the given files is which archive."""
    given: Iterable[str | os.PathLike[str]] = ()
    if isinstance(archive, (str, os.PathLike)):
        given = (archive,)
    elif archive is not None:
        given = archive
    found: dict[PublishedArchive, Path] = {}
    for path in map(Path, given):
        problems = {one: one.problem_of(path) for one in archives}
        match = next((one for one, problem in problems.items() if problem is None), None)
        if match is None:
            described = "; ".join(
                f"as {one.url.rpartition('/')[2]}, {problem}" for one, problem in problems.items()
            )
            raise FileFormatError(f"{shorten_path(path)}: not the published archive: {described}")
        found[match] = path
    return found


def _described(settings: Mapping[str, Any]) -> str:
    name, *others = settings.items()
    details = ", ".join(f"{key} {value}" for key, value in others)
    return f"{name[1]} with {details}"


def _read_record(root: Path) -> dict[str, Any] | None:
    """Return the record of a complete folder; None if there is none."""
    try:
        content = (root / _RECORD).read_bytes()
    except (OSError, ValueError):
        # What else is wrong with the folder, `check_folder_writable` reports.
        return None
    with suppress(ValueError, KeyError, TypeError):
        record = json.loads(content)
        if isinstance(record["settings"], dict) and record["settings"]:
            return {
                "settings": record["settings"],
                "skipped": [
                    {"source": str(one["source"]), "reason": str(one["reason"])}
                    for one in record["skipped"]
                ],
            }
    raise DatasetError(f"{root / _RECORD}: damaged; remove the folder and create it again")
