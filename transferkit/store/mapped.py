"""The arrays of layers, copied once from the shards to files that are mapped into memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, shorten_path
from transferkit.store.places import Place
from transferkit.store.shards import Shard, read_arrays
from transferkit.support.atomic_write import write_atomically

__all__ = ["map_layer"]


def map_layer(
    place: Place,
    shards: Sequence[Shard],
    layer: str,
    shape: tuple[int, ...],
    dtype: str,
    num_rows: int,
) -> npt.NDArray[Any]:
    """Return the array of a layer, mapped into memory.

    On first use it is copied from the shards into a file in the folder ``arrays`` of the store,
    or into a temporary folder if the store is on a server or cannot be written to.

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
    key = hashlib.sha256(layer.encode())
    for shard in shards:
        key.update(shard.name.encode())
    # The first part is the same for all versions of a layer, of which the last one is kept.
    prefix = hashlib.sha256(layer.encode()).hexdigest()[:16]
    name = f"{prefix}-{key.hexdigest()[:16]}.npy"
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
    for outdated in arrays.glob(f"{prefix}-*.npy"):
        with suppress(OSError):
            outdated.unlink()
    _copy(path, shards, layer, (num_rows, *shape), dtype)
    array = _open(path, (num_rows, *shape), dtype)
    return np.load(path) if array is None else array


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
