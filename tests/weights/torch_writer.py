"""Files in PyTorch's format, valid and invalid, written without PyTorch."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage"}


def literal(value: object) -> bytes:
    """Return the operations that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    key: str,
    shape: Sequence[int],
    strides: Sequence[int] | None = None,
    *,
    start: int = 0,
    length: int | None = None,
    storage: str = "FloatStorage",
) -> bytes:
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    length = int(np.prod(shape)) if length is None else length
    reference = b"(" + literal("storage") + f"ctorch\n{storage}\n".encode()
    reference += literal(key) + literal("cpu") + literal(length) + b"tQ"
    arguments = reference + literal(start) + literal(tuple(shape)) + literal(tuple(strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89" + hooks + b"tR"


def mapping(items: Mapping[str, bytes]) -> bytes:
    """Return an ordered dictionary, as ``state_dict`` does."""
    content = b"".join(literal(key) + value for key, value in items.items())
    return b"ccollections\nOrderedDict\n)R(" + content + b"u"


def zipped(
    content: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a file in the format since PyTorch 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def legacy(content: bytes, storages: Mapping[str, bytes], size: int = 4) -> bytes:
    """Return a file in the format before PyTorch 1.6, with ``size`` bytes per value."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    file = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, system))
    file += b"\x80\x02" + content + b"." + pickle.dumps(list(storages), 2)
    for data in storages.values():
        file += (len(data) // size).to_bytes(8, "little") + data
    return file
