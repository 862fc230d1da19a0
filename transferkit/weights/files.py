"""Reading and writing of safetensors files; headers are checked, and writes are atomic."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from transferkit.errors import FileFormatError, shorten, shorten_path
from transferkit.networks.graph import Network
from transferkit.support.atomic_write import write_atomically
from transferkit.weights.mapped import array_at, map_file

__all__ = [
    "check_weights",
    "digest",
    "read_safetensors",
    "serialize",
    "without_prefixes",
    "write_safetensors",
]

_FLOATS = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}
_INTEGERS = frozenset({"BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
# Of DataParallel, of torch.compile, and of modules that contain the network.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_MAX_NAMES = 10
_MAX_CHARACTERS = 100
_T = TypeVar("_T")


def read_safetensors(
    path: str | os.PathLike[str],
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Parameters
    ----------
    path
        The file. No code in it is executed.

    Returns
    -------
    tensors
        Name to float32 array, read-only, so that backends can share the memory. Tensors that
        are float32 in the file are mapped into memory; others are converted; integer tensors,
        such as ``num_batches_tracked``, are left out.
    metadata
        The metadata in the file's header, str to str.

    Raises
    ------
    FileFormatError
        If the file does not exist, cannot be read, is not a safetensors file, is truncated, or
        has tensors of another type, such as complex numbers.
    """
    where = shorten_path(path)
    data = map_file(path)
    try:
        # The library checks that the header is complete and that the tensors fill the file.
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
        # But it copies each tensor, and NumPy lacks some of its dtypes, so they are read here.
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        tensors: dict[str, npt.NDArray[np.float32]] = {}
        for name in names:
            entry = header[name]
            if entry["dtype"] in _INTEGERS:
                continue
            if entry["dtype"] not in _FLOATS:
                raise FileFormatError(
                    f"{where}: tensor {shorten(name)} is {entry['dtype']}; expected "
                    f"{', '.join(_FLOATS)}"
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
            f"{where}: not a safetensors file, damaged or truncated ({error})"
        ) from error
    return tensors, metadata


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors and metadata to a file atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    data = serialize(tensors, metadata)
    with write_atomically(Path(path)) as file:
        file.write(data)


def serialize(weights: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file; the same contents always give the same bytes.

    Parameters
    ----------
    weights
        Name to array.
    metadata
        The metadata for the header.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.weights.files import serialize
    >>> data = serialize({"bias": np.zeros(2, np.float32)}, {"license": "CC0-1.0"})
    >>> data[8:48]
    b'{"__metadata__":{"license":"CC0-1.0"},"b'
    """
    contiguous = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    data: bytes = safetensors.numpy.save(contiguous, dict(metadata) or None)
    # The library writes the arrays in a fixed order, but the metadata in a random order. The
    # header is JSON, padded with spaces to a multiple of eight, after eight bytes with its length.
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def digest(tensors: Mapping[str, npt.NDArray[np.float32]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of the metadata and the tensors in hexadecimal, each sorted by name."""
    sha256 = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return sha256.hexdigest()


def check_weights(
    source: str, tensors: Mapping[str, npt.NDArray[np.float32]], network: Network
) -> None:
    """Check that ``tensors`` are exactly the weights of ``network``.

    Parameters
    ----------
    source
        Where the tensors come from, for the message.
    tensors
        Name to array.
    network
        The network whose parameters to compare with.

    Raises
    ------
    FileFormatError
        If they are not; counts the tensors that are missing, unexpected or of another shape,
        and names at most ten.
    """
    needed = network.parameters
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in needed]
    misshapen = [
        f"{name} has shape {tensors[name].shape}; expected {tuple(shape)}"
        for name, shape in needed.items()
        if name in tensors and tensors[name].shape != tuple(shape)
    ]
    if not missing and not unexpected and not misshapen:
        return
    prefixes = {name.partition(".")[0] for name in tensors}
    hint = ""
    if len(unexpected) == len(tensors) > 1 == len(prefixes):
        prefix = shorten(f"{prefixes.pop()}.")
        hint = f"; all names begin with {prefix}, which has to be removed"
    elif len(missing) + len(misshapen) > len(needed) / 4:
        hint = "; they may be of another network or variant"
    kinds = (
        [f"missing: {name}" for name in missing],
        [f"unexpected: {name[:_MAX_CHARACTERS]}" for name in unexpected],
        misshapen,
    )
    names = [line for line in chain.from_iterable(zip_longest(*kinds)) if line is not None]
    left_out = len(names) - _MAX_NAMES
    lines = [
        f"{source}: not the weights of {network.name}: {len(missing)} missing, "
        f"{len(unexpected)} unexpected, {len(misshapen)} of another shape" + hint,
        *names[:_MAX_NAMES],
        *([f"and {left_out} more"] if left_out > 0 else ()),
    ]
    raise FileFormatError("\n  ".join(lines))


def without_prefixes(tensors: Mapping[str, _T]) -> dict[str, _T]:
    """Remove the prefixes that all names have, which wrappers of a module add.

    Parameters
    ----------
    tensors
        Name to anything. The prefixes are ``module.``, ``_orig_mod.``, ``model.``, ``net.`` and
        ``backbone.``, in any combination. A prefix that only some names have is kept.

    Examples
    --------
    >>> from transferkit.weights.files import without_prefixes
    >>> without_prefixes({"module._orig_mod.fc.weight": 1, "module._orig_mod.fc.bias": 2})
    {'fc.weight': 1, 'fc.bias': 2}
    """
    result = dict(tensors)
    while result:
        prefix = next(iter(result)).partition(".")[0] + "."
        if prefix not in _PREFIXES or not all(name.startswith(prefix) for name in result):
            break
        result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return result
