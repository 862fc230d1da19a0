"""The file of a fitted classifier: a safetensors file with metadata in its header.

This is version 2 of the format; a file without ``calibration`` is of version 1. The tensors are the
network's weights. The metadata is a mapping from text to text:

- ``format``: ``transferkit.classification.classifier``; ``format_version``: ``1`` or ``2``;
- ``network``, ``preprocessing`` and ``classes``: JSON;
- ``classes_dtype``: NumPy's name for the dtype of the classes, such as ``<U12``;
- ``C``: the inverse regularization strength that was used, as JSON;
- ``license``: the SPDX identifier of the license of published weights, as JSON;
- ``parameters``: the parameters of the fit, as JSON; see `FitParameters`;
- ``history``: of the last fine-tuning, as JSON; only if there was one;
- ``known_scores``: quantiles of the scores of known images, as JSON; only if there is a layer
  ``unknown_score``; files of earlier versions have neither;
- ``calibration``: the ranges of the activations, as JSON; only with the precision int8;
- ``sha256``: a digest of all of the above and of the names and bytes of the tensors.
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

from transferkit.backends import Calibration
from transferkit.backends.base import OPERATIONS
from transferkit.backends.shapes import infer_shapes
from transferkit.classification.unknown import KnownScores
from transferkit.errors import FileFormatError, shorten, shorten_path
from transferkit.images import Preprocessing
from transferkit.networks import Network, network_from_json, network_to_json
from transferkit.networks.passes import UNKNOWN_SCORE
from transferkit.weights.files import check_weights, digest, read_safetensors, write_safetensors
from transferkit.weights.mapped import in_memory

__all__ = ["ClassifierFile", "FitParameters", "read_classifier", "write_classifier"]

_FORMAT = "transferkit.classification.classifier"
_VERSION = 2
# Earlier versions of transferkit would run a network with a calibration in float32.
_VERSION_WITHOUT_CALIBRATION = 1

# Far more values than any layer has for one image, far fewer than memory can hold.
_MAX_OUTPUTS = 128_000_000
_MAX_CLASSES_BYTES = 64 << 20
_MAX_QUANTILES = 100_000

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
    """The parameters of a classifier that are needed to fit it again.

    Attributes
    ----------
    network, weights
        Their names in the catalogs, the latter None for the network's default weights. If
        ``network`` is None, the network and the weights in the file are used: those of a
        user-defined network, of a file, or random ones whose seed is unknown.
    C
        The parameter: None if it was chosen by cross-validation.
    random_state
        The seed; 0 if it was not an int.
    layer
        The layer that the classifier was trained on.
    class_weight
        ``"balanced"``, the label and the weight of each class, or None.
    initialization
        Of random weights.
    fine_tuning
        The settings of the fine-tuning as plain data; None for none.
    """

    network: str | None
    weights: str | None
    C: float | None
    random_state: int
    layer: str
    class_weight: str | list[list[Any]] | None
    initialization: str
    fine_tuning: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierFile:
    """The content of a classifier's file.

    Attributes
    ----------
    network
        From pixels to ``probabilities``.
    weights
        Its weights.
    preprocessing
        Its preprocessing.
    classes
        (c,) the class of each output.
    C
        The inverse regularization strength that was used; None for a pretrained classifier.
    license
        SPDX identifier of the license of published weights; None if unknown.
    parameters
        Those of the classifier when it was fitted.
    history
        Of the last fine-tuning, as plain data; None for none.
    known_scores
        Of images that the score of unknown images was not fitted to; None without that score.
    calibration
        The ranges of the activations for the precision int8; None for float32.
    """

    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    preprocessing: Preprocessing
    classes: npt.NDArray[Any]
    C: float | None
    license: str | None
    parameters: FitParameters
    history: dict[str, Any] | None = None
    known_scores: KnownScores | None = None
    calibration: Calibration | None = None


def write_classifier(path: str | os.PathLike[str], content: ClassifierFile) -> None:
    """Write ``content`` to ``path``, atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    metadata = {
        "format": _FORMAT,
        "format_version": str(
            _VERSION_WITHOUT_CALIBRATION if content.calibration is None else _VERSION
        ),
        "network": network_to_json(content.network),
        "preprocessing": json.dumps(content.preprocessing.to_dict()),
        "classes": json.dumps(content.classes.tolist()),
        "classes_dtype": content.classes.dtype.str,
        "C": json.dumps(content.C),
        "license": json.dumps(content.license),
        "parameters": json.dumps(dataclasses.asdict(content.parameters)),
    }
    if content.history is not None:
        metadata["history"] = json.dumps(content.history)
    if content.known_scores is not None:
        metadata["known_scores"] = json.dumps(content.known_scores.quantiles)
    if content.calibration is not None:
        metadata["calibration"] = json.dumps(content.calibration.to_dict())
    metadata["sha256"] = digest(content.weights, metadata)
    write_safetensors(path, content.weights, metadata)


def read_classifier(path: str | os.PathLike[str]) -> ClassifierFile:
    """Read a file that `write_classifier` wrote, and check that it is consistent.

    The file may be deleted or replaced afterwards.

    Raises
    ------
    FileFormatError
        If the file is inconsistent, of another kind, damaged, or from a newer version.
    """
    tensors, metadata = read_safetensors(path)
    where = shorten_path(path)
    if metadata.get("format") != _FORMAT:
        raise FileFormatError(f"{where}: not a classifier saved by transferkit")
    try:
        version = int(metadata["format_version"])
    except (KeyError, ValueError):
        raise FileFormatError(f"{where}: damaged: its format version is missing") from None
    if version > _VERSION:
        raise FileFormatError(
            f"{where}: written by a newer transferkit (format version {version}; this one reads up "
            f"to {_VERSION}); run pip install --upgrade transferkit"
        )
    if version < 1:
        raise FileFormatError(f"{where}: damaged: invalid format version {version}")
    expected_digest = metadata.pop("sha256", None)
    if digest(tensors, metadata) != expected_digest:
        raise FileFormatError(f"{where}: damaged: its SHA-256 does not match its content")
    # The file is as it was written, but not necessarily by transferkit.
    try:
        network = network_from_json(metadata["network"])
        preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
        classes = _classes(json.loads(metadata["classes"]), metadata["classes_dtype"])
        C = _parse_C(json.loads(metadata["C"]))
        license_ = _parse_license(json.loads(metadata["license"]))
        parameters = _parameters(json.loads(metadata["parameters"]))
        history = json.loads(metadata["history"]) if "history" in metadata else None
        known_scores = (
            _parse_known_scores(json.loads(metadata["known_scores"]))
            if "known_scores" in metadata
            else None
        )
        calibration = (
            Calibration.from_dict(json.loads(metadata["calibration"]))
            if "calibration" in metadata
            else None
        )
    except _PARSING_ERRORS as error:
        raise FileFormatError(f"{where}: damaged: {error!r}") from error
    check_weights(where, tensors, network)
    _check_outputs(where, network, preprocessing, len(classes), scored=known_scores is not None)
    return ClassifierFile(
        network,
        in_memory(tensors),
        preprocessing,
        classes,
        C,
        license_,
        parameters,
        history,
        known_scores,
        calibration,
    )


def _classes(values: object, name: str) -> npt.NDArray[Any]:
    dtype = np.dtype(name)
    kinds = {"O": (str,), "U": (str,), "b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
    expected = kinds.get(dtype.kind, ())
    if (
        not isinstance(values, list)
        or not all(isinstance(value, expected) for value in values)
        or len(set(values)) != len(values)
    ):
        raise ValueError("the classes are not a list of distinct strings or numbers")
    # The dtype of strings determines how much memory is allocated.
    if dtype.itemsize * len(values) > _MAX_CLASSES_BYTES:
        raise ValueError(f"the classes have dtype {name}")
    classes = np.asarray(values, dtype=dtype)
    if dtype.kind == "f" and not np.isfinite(classes).all():
        raise ValueError("the classes are not all finite")
    return classes


def _parse_C(value: object) -> float | None:  # noqa: N802
    if value is None or (isinstance(value, (int, float)) and 0 < value < math.inf):
        return value
    raise ValueError(f"C is {shorten(value)}")


def _parse_license(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"the license is {shorten(value)}")


def _parse_known_scores(values: object) -> KnownScores:
    if (
        isinstance(values, list)
        and 1 < len(values) <= _MAX_QUANTILES
        and all(isinstance(value, float) and math.isfinite(value) for value in values)
        and values == sorted(values)
    ):
        return KnownScores(tuple(values))
    raise ValueError(f"the known scores are {shorten(values)}")


def _parameters(values: Mapping[str, object]) -> FitParameters:
    network, weights = values["network"], values["weights"]
    random_state = values["random_state"]
    # Older files do not have these; their defaults were used then.
    layer = values.get("layer", "embedding")
    class_weight, initialization = values.get("class_weight"), values.get("initialization", "he")
    fine_tuning = values.get("fine_tuning")
    if (
        not isinstance(network, str | None)
        or not isinstance(weights, str | None)
        or not isinstance(random_state, int)
        or not isinstance(layer, str)
        or not isinstance(class_weight, str | list | None)
        or not isinstance(initialization, str)
        or not isinstance(fine_tuning, dict | None)
    ):
        raise ValueError(f"the parameters are {shorten(values)}")
    if isinstance(class_weight, list):
        # A label and a weight each; anything else raises an error here.
        class_weight = [[label, float(weight)] for label, weight in class_weight]
    return FitParameters(
        network,
        weights,
        _parse_C(values["C"]),
        random_state,
        layer,
        class_weight,
        initialization,
        fine_tuning,
    )


def _check_outputs(
    where: str, network: Network, preprocessing: Preprocessing, classes: int, *, scored: bool
) -> None:
    """Raise an error unless the network runs and has the right outputs.

    They are a probability for each class and, if ``scored``, a score of unknown images.
    """
    side = preprocessing.size or network.input_size
    unknown = {node.operation for node in network.nodes} - OPERATIONS
    if unknown:
        raise FileFormatError(f"{where}: damaged: unknown operations {', '.join(sorted(unknown))}")
    try:
        shapes = infer_shapes(network, side, side)
    except _PARSING_ERRORS as error:
        raise FileFormatError(f"{where}: damaged: {error}") from error
    for layer, shape in shapes.items():
        if math.prod(shape) > _MAX_OUTPUTS:
            raise FileFormatError(f"{where}: damaged: layer {layer!r} has outputs of shape {shape}")
    probabilities = shapes.get("probabilities")
    if probabilities != (classes,):
        raise FileFormatError(
            f"{where}: damaged: {classes} classes, but probabilities have shape {probabilities}"
        )
    score = shapes.get(UNKNOWN_SCORE)
    if scored and score != (1,):
        raise FileFormatError(f"{where}: damaged: {UNKNOWN_SCORE} has shape {score}")
