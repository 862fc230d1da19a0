"""Small valid weights files of each format, and damaged copies of them."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from torch_writer import legacy, mapping, tensor, zipped

from transferkit import Classifier
from transferkit.weights.files import read_safetensors, serialize
from transferkit.weights.keras_file import read_keras
from transferkit.weights.torch_file import read_torch

_NUMBERS = np.arange(24, dtype=np.float32)
_STATE = mapping({"weight": tensor("0", (4, 6)), "bias": tensor("1", (3,))})
_DATA = {"0": _NUMBERS.tobytes(), "1": _NUMBERS[:3].tobytes()}


def _hdf5(*, keras3: bool) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        if not keras3:
            root.attrs["layer_names"] = np.array([b"conv", b"dense"])
        for name in ("conv", "dense"):
            group = root.create_group(f"layers/{name}/vars" if keras3 else name)
            group.attrs["name"] = name
            group.attrs["weight_names"] = np.array([b"0", b"1"])
            group["0"], group["1"] = _NUMBERS.reshape(4, 6), _NUMBERS[:3]
    return file.getvalue()


def _keras() -> bytes:
    layers = [{"class_name": "Layer", "config": {"name": name}} for name in ("conv", "dense")]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("model.weights.h5", _hdf5(keras3=True))
    return file.getvalue()


def _safetensors() -> bytes:
    return serialize({"weight": _NUMBERS.reshape(4, 6), "bias": _NUMBERS[:3]}, {"a": "b"})


def _classifier() -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    clf = Classifier("mobilenet_v3_small", weights="random", backend="onnxruntime", C=1.0)
    with tempfile.TemporaryDirectory() as folder:
        clf.fit(images, ["a", "a", "b", "b"]).save(Path(folder) / "saved")
        return (Path(folder) / "saved").read_bytes()


def _load_classifier(path: Path) -> object:
    return Classifier.load(path, backend="onnxruntime")


FORMATS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object]]] = {
    "pth": (lambda: zipped(_STATE, _DATA), read_torch),
    "legacy pth": (lambda: legacy(_STATE, _DATA), read_torch),
    "safetensors": (_safetensors, read_safetensors),
    "classifier": (_classifier, _load_classifier),
    "h5": (lambda: _hdf5(keras3=False), read_keras),
    "weights.h5": (lambda: _hdf5(keras3=True), read_keras),
    "keras": (_keras, read_keras),
}
"""The name of a format to a function that writes a file, and one that reads it."""

HDF5_FORMATS = ("h5", "weights.h5", "keras")


def damaged(content: bytes, seed: int) -> bytes:
    """Return a damaged copy; half of the damage is in the first 4,000 bytes."""
    rng = np.random.default_rng(seed)
    size = len(content) if rng.random() < 0.5 else min(len(content), 4000)
    place = int(rng.integers(size))
    match int(rng.integers(6)):
        case 0:
            return content[:place]
        case 1:  # a length or an offset that is far too large
            extreme = int(rng.choice([2**31 - 1, 2**32 - 1, 2**60, 2**63 - 1])).to_bytes(
                8, "little"
            )
            return content[:place] + extreme + content[place + 8 :]
        case 2:
            return content[:place] + content[place + int(rng.integers(1, 40)) :]
        case 3:
            return content[: place + int(rng.integers(1, 40))] + content[place:]
        case _:
            changed = bytearray(content)
            for index in {place, *rng.integers(size, size=rng.integers(3)).tolist()}:
                changed[index] ^= 1 << int(rng.integers(8))
            return bytes(changed)
