"""Tensors in safetensors files: read with what they claim checked, written all or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from transferkit.errors import FileFormatError
from transferkit.networks.graph import Network
from transferkit.support.atomic_write import write_atomically
from transferkit.weights.mapped import array_at, map_file

__all__ = ["check_weights", "digest", "read_safetensors", "serialize", "write_safetensors"]

_FLOATS = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}


def read_safetensors(
    path: str | os.PathLike[str],
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Parameters
    ----------
    path
        A file. Nothing in it is ever run.

    Returns
    -------
    tensors
        Name to float32 array, read-only: backends share the memory of such arrays. Numbers that
        are float32 in the file stay there, mapped into memory; others are converted.
    metadata
        Text to text, from the file's header.

    Raises
    ------
    FileFormatError
        If there is no such file, it cannot be read, is no safetensors file, is cut short, or
        holds numbers that are no floating-point ones.
    """
    where = os.fspath(path)
    data = map_file(path)
    try:
        # The library checks that the header is whole and that the tensors fill the file.
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
        # It would copy each tensor, though, and NumPy does not have all the types it knows.
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        tensors: dict[str, npt.NDArray[np.float32]] = {}
        for name in names:
            entry = header[name]
            if entry["dtype"] not in _FLOATS:
                raise FileFormatError(
                    f"{where}: tensor {name!r} is {entry['dtype']}; expected {', '.join(_FLOATS)}"
                )
            tensors[name] = array_at(
                data[start:], _FLOATS[entry["dtype"]], entry["shape"], entry["data_offsets"][0]
            )
            tensors[name].setflags(write=False)
    except FileFormatError:
        raise
    except OSError as error:
        raise FileFormatError(f"{where}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FileFormatError(
            f"{where}: no safetensors file, damaged or cut short ({error})"
        ) from error
    return tensors, metadata


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors and metadata to a file, which appears whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written there.
    """
    data = serialize(tensors, metadata)
    with write_atomically(Path(path)) as file:
        file.write(data)


def serialize(weights: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, the same for the same contents.

    Parameters
    ----------
    weights
        Name to array.
    metadata
        What is written into the header.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.weights.files import serialize
    >>> data = serialize({"bias": np.zeros(2, np.float32)}, {"licence": "CC0-1.0"})
    >>> data[8:48]
    b'{"__metadata__":{"licence":"CC0-1.0"},"b'
    """
    contiguous = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    data: bytes = safetensors.numpy.save(contiguous, dict(metadata) or None)
    # The library lays the arrays out in a fixed order, but writes the metadata in another one
    # each time. The header is JSON after eight bytes that tell its length, filled up with spaces
    # to a multiple of eight.
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def digest(tensors: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of the metadata and the tensors, each in the order of the names."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return found.hexdigest()


def check_weights(
    source: str, tensors: Mapping[str, npt.NDArray[np.float32]], network: Network
) -> None:
    """See that ``tensors`` are just the weights that ``network`` needs.

    Parameters
    ----------
    source
        Where they come from, for the message.
    tensors, network
        What is held against what.

    Raises
    ------
    FileFormatError
        Lists every tensor that is missing, unexpected or of another shape, one a line.
    """
    needed = network.parameters
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in needed]
    misshapen = [
        f"{name} has shape {tensors[name].shape}, not {tuple(shape)}"
        for name, shape in needed.items()
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    if not missing and not unexpected and not misshapen:
        return
    is_another = len(missing) + len(misshapen) > len(needed) / 2
    lines = [
        f"{source}: these are not the weights of {network.name}: {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(misshapen)} of another shape"
        + ("; they are of another network, or of another variant of it" if is_another else ""),
        *(f"missing: {name}" for name in missing),
        *(f"unexpected: {name}" for name in unexpected),
        *misshapen,
    ]
    raise FileFormatError("\n  ".join(lines))
