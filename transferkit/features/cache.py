"""`FeatureCache`: a folder with features that were computed before."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transferkit.errors import FileFormatError, OutputError, ParameterError, shorten, shorten_path
from transferkit.store import list_shards
from transferkit.support.validation import check_integer

__all__ = ["FITS", "CacheParameter", "CachedFeatures", "FeatureCache", "as_cache"]

FITS = "fits"
"""The subfolder for the results of fits; that of a layer is named after a digest."""

_FOLDER = re.compile(r"[0-9a-f]{64}")
_DATA = re.compile(r"shard-\d{6,}-[0-9a-f]{16}\.parquet|[0-9a-f]{64}\.safetensors")
# The temporary names of a shard and of a fit.
_PART = re.compile(r"\.shard-\d{6,}\.[0-9a-f]{8}\.part|\.[0-9a-f]{20}\.[0-9a-f]{8}\.part")
_LOCK = re.compile(r"(queue|turn)\.lock")
# An older temporary file is that of a process that was killed. In seconds.
_MAX_AGE_OF_PARTS = 3600.0


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """The features of one layer in a cache.

    Attributes
    ----------
    network, layer
        The names with which they were first requested. Features of another network with the same
        layers and weights up to this layer are the same.
    backend, device
        What computed them.
    num_images
        The number of images; of one that several processes computed at the same time, each counts.
    num_bytes
        The size of the files.
    """

    network: str
    layer: str
    backend: str
    device: str
    num_images: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A folder with features that were computed before, so that no network computes them again.

    Features are found by the content of the image, whatever its name is, and by everything that
    determines their numbers: layers and weights up to the requested layer, preprocessing, backend,
    device, precision, and the versions of the libraries that take part. Several processes and
    threads can use one folder at the same time. A folder that cannot be used is no error: there is
    a warning, and the features are computed.

    Parameters
    ----------
    folder
        The folder; ``~`` is the home folder. It is created when it is first needed.
    max_bytes
        The maximum size of its files; None for no limit. The files whose features were not used
        for the longest time are removed first.

    Raises
    ------
    ParameterError
        If ``folder`` is not a path, or ``max_bytes`` is not an integer of at least 1.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from transferkit import FeatureCache, FeatureExtractor
    >>> image = np.zeros((64, 64, 3), np.uint8)
    >>> with TemporaryDirectory() as folder:
    ...     cache = FeatureCache(folder, max_bytes=5_000_000_000)
    ...     fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime", cache=cache)
    ...     first, second = fx.transform([image]), fx.transform([image])  # the network runs once
    ...     [(features.layer, features.num_images) for features in cache.features()]
    [('embedding', 1)]
    >>> bool((first == second).all())
    True
    """

    folder: str | os.PathLike[str]
    max_bytes: int | None = 10_000_000_000

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)) or not os.fspath(self.folder):
            raise ParameterError(
                f"the folder of the cache is {shorten(self.folder)}; expected a path, such as "
                "'~/.cache/features'"
            )
        if self.max_bytes is not None:
            check_integer("max_bytes", self.max_bytes, 1)

    @property
    def path(self) -> Path:
        """The folder, with ``~`` replaced.

        Raises
        ------
        ParameterError
            If it is in a home folder that does not exist.
        """
        try:
            return Path(self.folder).expanduser()
        except RuntimeError as error:
            raise ParameterError(
                f"the folder of the cache is {shorten_path(self.folder)}, in a home folder that "
                "does not exist; choose another one"
            ) from error

    def size(self) -> int:
        """Return the size of its files in bytes."""
        return sum(file.size for file in self._files())

    def features(self) -> list[CachedFeatures]:
        """Return what the cache has, one entry for each layer, sorted by network and layer.

        Damaged files are left out.

        Raises
        ------
        UnsupportedError
            If pyarrow is not installed.
        """
        found = []
        for folder in self._folders():
            names: dict[str, str] = {}
            num_images = num_bytes = 0
            for shard in list_shards(folder):
                try:
                    metadata, _ = shard.read_metadata()
                    num_bytes += shard.path.stat().st_size
                except (FileFormatError, OSError):
                    continue
                names = {key: str(metadata.get(key, "")) for key in _NAMES}
                num_images += int(metadata.get("num_images", 0))
            if num_images:
                found.append(CachedFeatures(**names, num_images=num_images, num_bytes=num_bytes))
        return sorted(found, key=lambda features: (features.network, features.layer))

    def clear(self) -> int:
        """Remove all features, and return the size of the removed files in bytes.

        Other files in the folder and its subfolders are kept.

        Raises
        ------
        OutputError
            If a file cannot be removed.
        """
        removed = 0
        for folder in (*self._folders(), self.path / FITS):
            try:
                removed += _empty(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                reason = error.strerror or error
                raise OutputError(f"{shorten_path(folder)}: cannot be removed: {reason}") from error
        return removed

    def limit_size(self) -> None:
        """Remove the files that were not used for the longest time, if they are too many.

        Files that cannot be removed, and those that another process removes, are no error.
        """
        files = sorted(self._files(), key=lambda file: file.used)
        now = time.time()
        excess = 0 if self.max_bytes is None else sum(f.size for f in files) - self.max_bytes
        for file in files:
            is_left_over = file.is_part and now - file.used > _MAX_AGE_OF_PARTS
            if is_left_over or (excess > 0 and not file.is_part):
                with suppress(OSError):
                    file.path.unlink()
                    excess -= file.size

    def _folders(self) -> list[Path]:
        """Return the folders of the layers."""
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return []
        return [self.path / name for name in names if _FOLDER.fullmatch(name)]

    def _files(self) -> Iterator[_File]:
        for folder in (*self._folders(), self.path / FITS):
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    is_part = _PART.fullmatch(entry.name) is not None
                    if is_part or _DATA.fullmatch(entry.name):
                        # Another process may have removed it.
                        with suppress(OSError):
                            status = entry.stat()
                            yield _File(Path(entry.path), status.st_size, status.st_mtime, is_part)


def _empty(folder: Path) -> int:
    """Remove the files of a cache from a subfolder, and the subfolder if nothing else is in it.

    Returns
    -------
    int
        The size of the removed files in bytes, without those for locks.
    """
    removed = 0
    with os.scandir(folder) as entries:
        for entry in list(entries):
            is_lock = _LOCK.fullmatch(entry.name) is not None
            is_content = bool(_DATA.fullmatch(entry.name) or _PART.fullmatch(entry.name))
            if not (is_lock or is_content) or entry.is_dir(follow_symlinks=False):
                continue
            # Another process may remove it at the same time.
            with suppress(FileNotFoundError):
                size = 0 if is_lock else entry.stat(follow_symlinks=False).st_size
                os.unlink(entry.path)
                removed += size
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    return removed


CacheParameter = str | os.PathLike[str] | FeatureCache | None
"""The types of the parameter ``cache``: a folder, a `FeatureCache`, or None."""

_NAMES = ("network", "layer", "backend", "device")


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a cache.

    Attributes
    ----------
    used
        When it was last used, in seconds since 1970: the time of its modification, which is set
        when it is used.
    is_part
        Whether it is a temporary file, which may still be written.
    """

    path: Path
    size: int
    used: float
    is_part: bool


def as_cache(cache: object) -> FeatureCache | None:
    """Return the parameter ``cache`` of an estimator as a cache.

    Raises
    ------
    ParameterError
        If it is of another type.

    Examples
    --------
    >>> from transferkit.features.cache import as_cache
    >>> as_cache("features").max_bytes
    10000000000
    """
    if cache is None or isinstance(cache, FeatureCache):
        return cache
    if isinstance(cache, (str, os.PathLike)):
        return FeatureCache(cache)
    raise ParameterError(
        f"cache is {shorten(cache)}; expected a folder, such as '~/.cache/features', a "
        "FeatureCache, or None"
    )
