"""The file of a fitted classifier: one safetensors file, its metadata in the header.

Version 1 of the format. The tensors are the network's weights. The metadata, text to text:

- ``format``: ``transferkit.classifier``; ``format_version``: ``1``;
- ``network``: the network as JSON; ``preprocessing`` and ``classes``: likewise;
- ``classes_dtype``: NumPy's name for the type of the classes, such as ``<U12``;
- ``strength``: the regularisation that was used, as JSON; ``body``: the name of the network
  in the catalogue that it was made from, as JSON;
- ``sha256``: of all of the above and of the tensors' names and bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import OPERATIONS
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import FileFormatError
from transferkit.images import Preprocessing
from transferkit.networks import Network, network_from_json, network_to_json
from transferkit.weights.files import check_weights, digest, read_safetensors, write_safetensors

__all__ = ["ClassifierFile", "read_classifier", "write_classifier"]

_FORMAT = "transferkit.classifier"
_VERSION = 1

# Far beyond what any network has for one picture, and far below what a machine cannot hold.
_MAX_OUTPUTS = 128_000_000
_MAX_CLASSES_BYTES = 64 << 20

# What reading metadata that lie may raise.
_LIES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierFile:
    """What the file of a classifier holds.

    Attributes
    ----------
    network
        From pixels to ``probabilities``.
    weights
        Its weights.
    preprocessing
        How it wants pictures.
    classes
        (c,) what its outputs stand for.
    strength
        The regularisation it was fitted with; None if it was not fitted here.
    body
        The network of the catalogue that it was made from; None if from another.
    """

    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    preprocessing: Preprocessing
    classes: npt.NDArray[Any]
    strength: float | None
    body: str | None


def write_classifier(path: str | os.PathLike[str], content: ClassifierFile) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written there.
    """
    metadata = {
        "format": _FORMAT,
        "format_version": str(_VERSION),
        "network": network_to_json(content.network),
        "preprocessing": json.dumps(content.preprocessing.to_dict()),
        "classes": json.dumps(content.classes.tolist()),
        "classes_dtype": content.classes.dtype.str,
        "strength": json.dumps(content.strength),
        "body": json.dumps(content.body),
    }
    metadata["sha256"] = digest(content.weights, metadata)
    write_safetensors(path, content.weights, metadata)


def read_classifier(path: str | os.PathLike[str]) -> ClassifierFile:
    """Read what `write_classifier` wrote, and check that it fits together.

    Raises
    ------
    FileFormatError
        If it does not, or the file is of another kind, damaged, or from a newer version.
    """
    tensors, metadata = read_safetensors(path)
    where = os.fspath(path)
    if metadata.get("format") != _FORMAT:
        raise FileFormatError(f"{where}: no classifier saved by transferkit")
    try:
        version = int(metadata["format_version"])
    except (KeyError, ValueError):
        raise FileFormatError(f"{where}: damaged: it does not say its version") from None
    if version > _VERSION:
        raise FileFormatError(
            f"{where}: written by a newer transferkit (version {version} of the format; this one "
            f"reads up to {_VERSION}); pip install --upgrade transferkit"
        )
    if version < 1:
        raise FileFormatError(f"{where}: damaged: there is no version {version} of the format")
    expected_digest = metadata.pop("sha256", None)
    if digest(tensors, metadata) != expected_digest:
        raise FileFormatError(f"{where}: damaged: what is in it is not what was saved")
    # From here on the file is as it was written, but not perforce by transferkit.
    try:
        network = network_from_json(metadata["network"])
        preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
        classes = _classes(json.loads(metadata["classes"]), metadata["classes_dtype"])
        strength = _strength(json.loads(metadata["strength"]))
        body = _body(json.loads(metadata["body"]))
    except _LIES as error:
        raise FileFormatError(f"{where}: damaged: {error!r}") from error
    check_weights(where, tensors, network)
    _check_outputs(where, network, preprocessing, len(classes))
    return ClassifierFile(network, tensors, preprocessing, classes, strength, body)


def _classes(values: object, name: str) -> npt.NDArray[Any]:
    dtype = np.dtype(name)
    kinds = {"O": (str,), "U": (str,), "b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
    expected = kinds.get(dtype.kind, ())
    if (
        not isinstance(values, list)
        or not all(isinstance(value, expected) for value in values)
        or len(set(values)) != len(values)
    ):
        raise ValueError("the classes are no list of different texts or numbers")
    # A type of texts says how long they may be, and memory is taken accordingly.
    if dtype.itemsize * len(values) > _MAX_CLASSES_BYTES:
        raise ValueError(f"the classes are said to be of type {name}")
    return np.asarray(values, dtype=dtype)


def _strength(value: object) -> float | None:
    if value is None or (isinstance(value, (int, float)) and 0 < value < math.inf):
        return value
    raise ValueError(f"the strength is {value!r}")


def _body(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"the network that it was made from is {value!r}")


def _check_outputs(
    where: str, network: Network, preprocessing: Preprocessing, classes: int
) -> None:
    """See that the network runs, and gives a probability for each class."""
    side = preprocessing.size or network.input_size
    unknown = {node.operation for node in network.nodes} - OPERATIONS
    if unknown:
        raise FileFormatError(f"{where}: damaged: unknown operations {', '.join(sorted(unknown))}")
    try:
        shapes = infer_shapes(network, side, side)
    except _LIES as error:
        raise FileFormatError(f"{where}: damaged: {error}") from error
    for layer, found in shapes.items():
        if math.prod(found) > _MAX_OUTPUTS:
            raise FileFormatError(f"{where}: damaged: layer {layer!r} has outputs of shape {found}")
    shape = shapes.get("probabilities")
    if shape != (classes,):
        raise FileFormatError(
            f"{where}: damaged: {classes} classes, but probabilities of shape {shape}"
        )
