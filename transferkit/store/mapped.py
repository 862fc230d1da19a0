"""The arrays of layers, copied once from the shards to files that are mapped into memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, shorten_path
from transferkit.store.places import Place
from transferkit.store.shards import Shard, has_valid_digest, read_arrays
from transferkit.support.atomic_write import write_atomically

__all__ = ["compare_copy", "map_layer", "remove_copies"]

# Seconds after which a copy that is not written to any more was left by a killed process.
_MAX_PAUSE = 3600.0


def map_layer(
    place: Place,
    shards: Sequence[Shard],
    layer: str,
    shape: tuple[int, ...],
    dtype: str,
    num_rows: int,
) -> npt.NDArray[Any]:
    """Return the array of a layer, mapped into memory.

    On first use it is copied from the shards into a file in the folder ``_arrays`` of the store,
    or into a temporary folder if the store is on a server or cannot be written to. The digests of
    shards in a folder are checked for this; from a server, only the layer is read.

    Parameters
    ----------
    place
        The folder of the store.
    shards
        Its shards, in the order of their rows.
    layer
        The name of the layer.
    shape
        The shape of its output for one image.
    dtype
        Of the array.
    num_rows
        The number of images in the shards that were not skipped.

    Returns
    -------
    array
        (num_rows, *shape), read-only.

    Raises
    ------
    FileFormatError
        If a shard is damaged.
    DownloadError
        If a shard cannot be read from a server.
    OutputError
        If there is no space for the file.
    """
    if num_rows == 0:
        return np.empty((0, *shape), dtype)
    name = _name_of_copy(shards, layer)
    arrays = place.arrays()
    if arrays is not None:
        array = _open(arrays / name, (num_rows, *shape), dtype)
        if array is not None:
            return array
    if arrays is None or not _is_writable(arrays):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            # Where files can be removed while they are mapped, it takes no space afterwards.
            path = Path(temporary, name)
            _copy(path, shards, layer, (num_rows, *shape), dtype)
            mapped = _open(path, (num_rows, *shape), dtype)
            return np.load(path) if mapped is None or os.name == "nt" else mapped
    path = arrays / name
    _remove_outdated(arrays, name)
    _copy(path, shards, layer, (num_rows, *shape), dtype)
    array = _open(path, (num_rows, *shape), dtype)
    return np.load(path) if array is None else array


def compare_copy(
    place: Place, shards: Sequence[Shard], layer: str, shape: tuple[int, ...], dtype: str
) -> str | None:
    """Compare the copy of a layer with the shards, and remove it if it differs.

    Parameters
    ----------
    place, shards, layer, shape, dtype
        As for `map_layer`; the shards are not damaged.

    Returns
    -------
    problem
        What is wrong; None if nothing is, or there is no copy.

    Raises
    ------
    FileFormatError
        If a shard cannot be read.
    """
    arrays = place.arrays()
    if arrays is None:
        return None
    path = arrays / _name_of_copy(shards, layer)
    if not path.exists() or _is_same(path, shards, layer, shape, dtype):
        return None
    problem = f"{arrays.name}/{path.name}: the copy of layer {layer!r} differs from the shards"
    try:
        path.unlink()
    except OSError:
        return f"{problem}; remove it"
    return f"{problem}; it was removed, and is made again when the layer is used"


def _is_same(
    path: Path, shards: Sequence[Shard], layer: str, shape: tuple[int, ...], dtype: str
) -> bool:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    if array.shape[1:] != shape or array.dtype != dtype:
        return False
    row = 0
    for shard in shards:
        for part in read_arrays(shard, layer):
            copied = array[row : row + len(part)]
            # Byte by byte, because NaN is not equal to itself.
            if len(copied) != len(part) or copied.tobytes() != part.tobytes():
                return False
            row += len(part)
    return row == len(array)


def remove_copies(place: Place) -> None:
    """Remove the copies of all layers in a folder, as far as this is possible."""
    arrays = place.arrays()
    for path in [] if arrays is None else list(arrays.glob("*.npy")):
        with suppress(OSError):
            path.unlink()


def _name_of_copy(shards: Sequence[Shard], layer: str) -> str:
    """Return the name of the copy of a layer, which depends on the content of the shards."""
    key = hashlib.sha256(layer.encode())
    for shard in shards:
        key.update(shard.name.encode())
    # The first part is the same for all versions of a layer, of which the last one is kept.
    prefix = hashlib.sha256(layer.encode()).hexdigest()[:16]
    return f"{prefix}-{key.hexdigest()[:16]}.npy"


def _remove_outdated(arrays: Path, name: str) -> None:
    """Remove other versions of a layer, and what killed processes have left."""
    prefix = name.partition("-")[0]
    # Another process may have written the same copy in the meantime.
    outdated = [path for path in arrays.glob(f"{prefix}-*.npy") if path.name != name]
    for path in outdated:
        with suppress(OSError):
            path.unlink()
    for path in list(arrays.glob(".*.part")):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _MAX_PAUSE:
                path.unlink()


def _open(path: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any] | None:
    """Return a file as an array, or None if it is not there or is damaged."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _is_writable(arrays: Path) -> bool:
    try:
        arrays.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(arrays, os.W_OK | os.X_OK)


def _copy(
    path: Path, shards: Sequence[Shard], layer: str, shape: tuple[int, ...], dtype: str
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    with write_atomically(path) as file:
        np.lib.format.write_array_header_2_0(file, {**header, "shape": shape})
        rows = 0
        for shard in shards:
            _check_digest(shard)
            for part in read_arrays(shard, layer):
                if part.dtype != dtype or part.shape[1] != int(np.prod(shape[1:])):
                    raise FileFormatError(
                        f"{shorten_path(shard.location)}: layer {layer!r} has {part.shape[1]:,} "
                        f"values of {part.dtype}, but the manifest states {shape[1:]} of {dtype}"
                    )
                file.write(part.data)
                rows += len(part)
        if rows != shape[0]:
            raise FileFormatError(
                f"{shorten_path(shards[0].place)}: {rows:,} rows in the shards, of which "
                f"{shape[0]:,} are listed; verify the store"
            )


def _check_digest(shard: Shard) -> None:
    """Check that a shard in a folder has the content that was written."""
    if shard.place.arrays() is None:
        # A layer is read from a server without the rest of the shard.
        return
    try:
        is_valid = has_valid_digest(shard)
    except OSError as error:
        reason = error.strerror or error
        raise FileFormatError(f"{shorten_path(shard.location)}: cannot be read: {reason}") from None
    if not is_valid:
        raise FileFormatError(
            f"{shorten_path(shard.location)}: damaged or truncated; run the extraction again, "
            "which repairs it"
        )
