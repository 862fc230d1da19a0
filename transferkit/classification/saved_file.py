"""The file of a fitted classifier: one safetensors file, its metadata in the header.

Version 1 of the format. The tensors are the network's weights. The metadata, text to text:

- ``format``: ``transferkit.classification.classifier``; ``format_version``: ``1``;
- ``network``: the network as JSON; ``preprocessing`` and ``classes``: likewise;
- ``classes_dtype``: NumPy's name for the type of the classes, such as ``<U12``;
- ``strength``: the regularisation that was used, as JSON; ``parameters``: what the classifier
  was fitted with, as JSON, see `FitParameters`;
- ``sha256``: of all of the above and of the tensors' names and bytes.
"""

from __future__ import annotations

import dataclasses
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
from transferkit.weights.mapped import in_memory

__all__ = ["ClassifierFile", "FitParameters", "read_classifier", "write_classifier"]

_FORMAT = "transferkit.classification.classifier"
_VERSION = 1

# Far beyond what any network has for one picture, and far below what a machine cannot hold.
_MAX_OUTPUTS = 128_000_000
_MAX_CLASSES_BYTES = 64 << 20

# What parsing malformed metadata may raise.
_PARSING_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class FitParameters:
    """The parameters of a classifier that a later fit would need again.

    Attributes
    ----------
    network, weights
        Their names in the catalogues; None for a network of one's own, or its usual weights.
    C
        As it was given: None where it was to be chosen.
    seed
        Of the cross-validation.
    """

    network: str | None
    weights: str | None
    C: float | None
    seed: int


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
    parameters
        What the classifier was fitted with.
    """

    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    preprocessing: Preprocessing
    classes: npt.NDArray[Any]
    strength: float | None
    parameters: FitParameters


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
        "parameters": json.dumps(dataclasses.asdict(content.parameters)),
    }
    metadata["sha256"] = digest(content.weights, metadata)
    write_safetensors(path, content.weights, metadata)


def read_classifier(path: str | os.PathLike[str]) -> ClassifierFile:
    """Read what `write_classifier` wrote, and check that it fits together.

    The file is not needed afterwards, and may be written over.

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
        parameters = _parameters(json.loads(metadata["parameters"]))
    except _PARSING_ERRORS as error:
        raise FileFormatError(f"{where}: damaged: {error!r}") from error
    check_weights(where, tensors, network)
    _check_outputs(where, network, preprocessing, len(classes))
    return ClassifierFile(network, in_memory(tensors), preprocessing, classes, strength, parameters)


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
    classes = np.asarray(values, dtype=dtype)
    if dtype.kind == "f" and not np.isfinite(classes).all():
        raise ValueError("the classes are not all finite")
    return classes


def _strength(value: object) -> float | None:
    if value is None or (isinstance(value, (int, float)) and 0 < value < math.inf):
        return value
    raise ValueError(f"the strength is {value!r}")


def _parameters(values: Mapping[str, object]) -> FitParameters:
    network, weights, seed = values["network"], values["weights"], values["seed"]
    if (
        not (network is None or isinstance(network, str))
        or not (weights is None or isinstance(weights, str))
        or not isinstance(seed, int)
    ):
        raise ValueError(f"the parameters are {values!r}")
    return FitParameters(network, weights, _strength(values["C"]), seed)


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
    except _PARSING_ERRORS as error:
        raise FileFormatError(f"{where}: damaged: {error}") from error
    for layer, found in shapes.items():
        if math.prod(found) > _MAX_OUTPUTS:
            raise FileFormatError(f"{where}: damaged: layer {layer!r} has outputs of shape {found}")
    shape = shapes.get("probabilities")
    if shape != (classes,):
        raise FileFormatError(
            f"{where}: damaged: {classes} classes, but probabilities of shape {shape}"
        )
