"""Reading of Keras's weights files without Keras: legacy ``.h5``, ``.weights.h5``, ``.keras``.

All three are HDF5, the last one inside a zip archive. Only the features of HDF5 that Keras uses
are read: tensors in the file itself. Links to other files and tensors stored in other files are
rejected.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, shorten, shorten_path
from transferkit.weights.mapped import (
    FLOATS,
    ZIP_START,
    MappedFile,
    array_at,
    map_file,
    stored_member,
)

__all__ = ["HDF5_START", "KerasLayers", "is_keras_archive", "read_keras"]

HDF5_START = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""

KerasLayers: TypeAlias = dict[str, list[npt.NDArray[np.float32]]]
"""The name of each layer with weights to its arrays: kernel and bias, or gamma, beta, moving mean
and moving variance of a batch normalization."""

_WEIGHTS_MEMBER = "model.weights.h5"
_CONFIG_MEMBER = "config.json"
# No layer of these networks has more; a model inside a model has many.
_MAX_TENSORS = 8
# The names of the group of layers in Keras 3 and, before it, in TensorFlow's Keras 2.12.
_LAYER_GROUPS = ("layers", "_layer_checkpoint_dependencies")


def is_keras_archive(data: memoryview) -> bool:
    """Return whether the bytes are a ``.keras`` file: a zip archive with a model's weights."""
    if bytes(data[:4]) != ZIP_START:
        return False
    try:
        with zipfile.ZipFile(MappedFile(data)) as archive:
            return _WEIGHTS_MEMBER in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, struct.error):
        return False


def read_keras(path: str | os.PathLike[str]) -> KerasLayers:
    """Read the weights in a Keras file, layer by layer.

    Parameters
    ----------
    path
        A file that Keras's ``model.save_weights`` or ``model.save`` wrote, of any version that
        writes HDF5. No code in it is executed, and no layer is built from its configuration.

    Returns
    -------
    dict of str to list of array
        In the order of the file, with Keras's shapes. Arrays that are float32 in the file are
        mapped into memory and read-only; others are converted.

    Raises
    ------
    FileFormatError
        If the file does not exist, is damaged or truncated, refers to other files, or does not
        have Keras's structure.
    """
    where = shorten_path(path)
    data = map_file(path)
    names: list[tuple[str, str]] | None = None
    try:
        if bytes(data[:4]) == ZIP_START:
            with zipfile.ZipFile(MappedFile(data)) as archive:
                members = {entry.filename: entry for entry in archive.infolist()}
            if _WEIGHTS_MEMBER not in members or _CONFIG_MEMBER not in members:
                raise FileFormatError(
                    f"{where}: not a Keras file: a zip archive without {_WEIGHTS_MEMBER} and "
                    f"{_CONFIG_MEMBER}"
                )
            names = _configured(bytes(stored_member(data, members[_CONFIG_MEMBER])))
            data = stored_member(data, members[_WEIGHTS_MEMBER])
        with h5py.File(MappedFile(data), "r") as file:
            return {
                layer: [_array(tensor, data, budget) for tensor in tensors]
                for budget in [_Budget(len(data))]
                for layer, tensors in _layers(where, file, names)
                if tensors
            }
    except FileFormatError:
        raise
    except (
        # The errors that HDF5 and the zip module raise for invalid bytes.
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        OSError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        EOFError,
        MemoryError,
        struct.error,
    ) as error:
        raise FileFormatError(
            f"{where}: not a weights file of Keras, damaged or truncated ({error})"
        ) from error


def _layers(
    where: str, file: h5py.File, names: list[tuple[str, str]] | None
) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    """Yield each layer's name and tensors, from either of the two structures that Keras writes."""
    root = _group(file, "model_weights") if "model_weights" in file else file
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        for name in _texts(root, "layer_names"):
            layer = _group(root, name)
            tensors = [_dataset(layer, tensor) for tensor in _texts(layer, "weight_names")]
            if len(tensors) > _MAX_TENSORS:
                raise _nested(where, name)
            yield name, tensors
        return
    groups = [name for name in _LAYER_GROUPS if name in file]
    if not groups:
        raise FileFormatError(f"{where}: not a Keras file: HDF5, but without Keras's structure")
    layers = _group(file, groups[0])
    known = dict(names or ())
    for key in sorted(layers, key=_natural):
        layer = _group(layers, key)
        if any(name in layer and len(_group(layer, name)) for name in _LAYER_GROUPS):
            raise _nested(where, known.get(key, key))
        if "vars" not in layer:
            continue
        variables = _group(layer, "vars")
        tensors = [_dataset(variables, name) for name in sorted(variables, key=_natural)]
        yield str(variables.attrs.get("name", known.get(key, key))), tensors


def _nested(where: str, name: str) -> FileFormatError:
    return FileFormatError(
        f"{where}: contains a model as one of its layers, {shorten(name)}, as in "
        "Sequential([base, ...]); load it with keras.models.load_model(path) and pass the object "
        "as the network"
    )


def _configured(text: bytes) -> list[tuple[str, str]]:
    """Return for each layer the name of its group (its class and position) and its own name."""
    counts: dict[str, int] = {}
    found = []
    for layer in json.loads(text)["config"]["layers"]:
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        number = counts[kind] = counts.get(kind, -1) + 1
        found.append((f"{kind}_{number}" if number else kind, str(layer["config"]["name"])))
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts ``conv2d_2`` before ``conv2d_10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _texts(group: h5py.Group, attribute: str) -> Iterator[str]:
    """Yield a list of names; Keras splits a long list into several numbered attributes."""
    if attribute in group.attrs:
        parts: Iterable[Any] = [group.attrs[attribute]]
    else:
        keys = (f"{attribute}{number}" for number in range(len(group.attrs)))
        parts = [group.attrs[key] for key in keys if key in group.attrs]
    for part in parts:
        for text in np.asarray(part).ravel().tolist():
            yield text.decode() if isinstance(text, bytes) else str(text)


def _member(group: h5py.Group, path: str) -> Any:
    """Return the object at a path in this file, of which each part must be a hard link."""
    found: Any = group
    for name in path.strip("/").split("/"):
        if not isinstance(found, h5py.Group):
            raise ValueError(f"{shorten(found.name)} is not a group")
        link = found.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{shorten(path)} is a link, which may refer to another file")
        found = found[name]
    return found


def _group(group: h5py.Group, path: str) -> h5py.Group:
    found = _member(group, path)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{shorten(path)} is not a group")
    return found


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    found = _member(group, path)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{shorten(path)} is not a tensor")
    if found.external or found.is_virtual:
        raise ValueError(f"{shorten(path)} is stored in another file")
    return found


class _Budget:
    """A limit for the bytes of all tensors: a small compressed file could fill the memory."""

    # Trained floating-point weights are hardly compressible.
    _RATIO = 4

    def __init__(self, file_size: int) -> None:
        self._left = self._RATIO * file_size

    def spend(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise ValueError("the tensors are far larger than the file")


def _array(tensor: h5py.Dataset, data: memoryview, budget: _Budget) -> npt.NDArray[np.float32]:
    """Return the values of a tensor: mapped if they are contiguous in the file, else a copy."""
    size = math.prod(tensor.shape) * tensor.dtype.itemsize
    budget.spend(size)
    kind = tensor.dtype.name
    if str(tensor.attrs.get("dtype")) == "bfloat16" and tensor.dtype.itemsize == 2:
        kind = "bfloat16"
    if kind not in FLOATS or tensor.dtype.byteorder == ">":
        raise ValueError(f"{tensor.name} is {tensor.dtype}; expected {', '.join(FLOATS)}")
    offset = tensor.id.get_offset()
    if offset is not None and tensor.file.userblock_size == 0:
        return array_at(data, kind, tensor.shape, offset)
    # Chunked, compressed, or never written, which HDF5 reads as zeros.
    if not tensor.id.get_storage_size() and size:
        raise ValueError(f"{tensor.name} has no values")
    content: npt.NDArray[Any] = tensor[()]
    return array_at(memoryview(content.tobytes()), kind, tensor.shape)
