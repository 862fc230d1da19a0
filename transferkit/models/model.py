"""A network with its weights, its preprocessing and the labels of its classes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import (
    Backend,
    Calibration,
    Program,
    WrappedModel,
    backend_of,
    get_backend,
)
from transferkit.backends.base import INT8
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
    shorten,
    shorten_path,
)
from transferkit.images import Preprocessing
from transferkit.images.published_preprocessing import published_preprocessing
from transferkit.networks import INPUT, Network, random_weights
from transferkit.networks.initialization import INITIALIZATIONS
from transferkit.support.numerics import as_array
from transferkit.support.random_state import RandomState
from transferkit.weights import find_weights, imagenet_classes, load_weights
from transferkit.weights.files import check_weights
from transferkit.weights.own_file import RANDOM, is_weights_file, load_weights_file

__all__ = ["AnyWeights", "Model", "attach_metadata", "find_architecture", "load_model"]

AnyWeights: TypeAlias = str | os.PathLike[str] | Mapping[str, npt.NDArray[np.float32]] | None
"""The types of the parameter ``weights``: a name, a file, arrays, or None."""


_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".h5", ".keras")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """A network with its weights, its preprocessing and the labels of its classes.

    Attributes
    ----------
    network
        The network, as data.
    weights
        Parameter name to float32 array; empty for a framework's own model.
    preprocessing
        How images are resized, cropped and normalized for it.
    labels
        The label of each logit; None if unknown.
    wrapped
        The framework's own model that computes the `WRAPPED` nodes of the network, if any.
    license
        SPDX identifier of the license of published weights; None if unknown.
    calibration
        The ranges of activations with which it is run in 8-bit integers; None: in float32.
    """

    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    preprocessing: Preprocessing
    labels: tuple[Hashable, ...] | None = None
    wrapped: WrappedModel | None = None
    license: str | None = None
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        # Without the weights, which would take seconds to format.
        labels = "no" if self.labels is None else len(self.labels)
        precision = "" if self.calibration is None else f", {INT8}"
        return (
            f"<Model {self.network.name}: {len(self.weights)} weights, {labels} labels{precision}>"
        )

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that it is run on by default."""
        return self.preprocessing.size or self.network.input_size

    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of each layer's output for one image, (h, w, c) or (d,)."""
        return infer_shapes(self.network, self.image_size, self.image_size, self.wrapped)

    def program(self, backend: Backend) -> Program:
        """Return a program that runs the model on ``backend``."""
        return Program(backend, self.network, self.weights, self.wrapped, self.calibration)


def load_model(
    network: str | Network | Model | object,
    weights: AnyWeights = None,
    preprocessing: Preprocessing | None = None,
    backend: str | Backend | None = None,
    device: str | None = None,
    *,
    initialization: str = "he",
    random_state: RandomState = None,
    progress: bool | None = None,
) -> Model:
    """Load the model that the parameters of an estimator describe.

    Parameters
    ----------
    network
        A name in the catalog, a network, a model, or an object of a framework: a
        ``torch.nn.Module`` or a ``keras.Model``.
    weights
        For a network of the catalog: the name of published weights (None: the network's
        first), the path of a file, or ``"random"``. For a `Network`: a mapping from parameter
        name to array, or ``"random"``.
    preprocessing
        How images are read; None: as the published weights expect. Their mean, standard
        deviation and channel order need not be repeated. Required for a `Network`, and for a
        ``torch.nn.Module`` unless it is a model of timm or from `to_native`.
    backend, device
        What runs an object of a framework; None: the backend that it belongs to.
    initialization, random_state
        Of random weights, as for `transferkit.networks.random_weights`.
    progress
        Whether a download shows a progress bar; None: on a terminal or in a notebook.

    Raises
    ------
    UnknownNameError
        If the network, the weights or the initialization are unknown.
    FileFormatError
        If the weights do not fit the network.
    DownloadError
        If the weights have to be downloaded, and cannot be.
    ArgumentTypeError
        If the network and the weights cannot be combined.
    UnsupportedError
        If an object of a framework cannot be run, or not by this backend.
    ParameterError
        If ``preprocessing`` is missing, or normalizes differently from what the published
        weights, or the first nodes of the network, expect; if a model has another number of
        labels than logits; if a parameter has another type, or ``network`` is a file.
    """
    if initialization not in INITIALIZATIONS:
        raise UnknownNameError("initialization", initialization, INITIALIZATIONS)
    if not isinstance(preprocessing, Preprocessing | None):
        raise ParameterError(
            f"preprocessing is {shorten(preprocessing)}; expected a Preprocessing or None"
        )
    if not isinstance(weights, str | os.PathLike | Mapping | None) or weights == "":
        raise ParameterError(
            f"weights is {shorten(weights)}; expected a name, the path of a file, a mapping from "
            "parameter name to array, or None"
        )
    _check_not_a_file(network)
    if isinstance(network, str):
        return _load_catalogued(
            network, weights, preprocessing, initialization, random_state, progress
        )
    if isinstance(network, Model):
        if weights is not None:
            raise ArgumentTypeError("a Model has its own weights; omit weights")
        _check_model(network)
        expected = network.preprocessing
        return dataclasses.replace(
            network,
            preprocessing=_normalize_as(expected, preprocessing, "the model"),
            # Whoever loads the model chooses the precision.
            calibration=None,
        )
    if not isinstance(network, Network):
        return _wrap(network, weights, preprocessing, backend, device)
    if preprocessing is None:
        raise ParameterError(
            f"preprocessing is None, but a Network ({network.name}) does not state how its images "
            f"are read; pass preprocessing=Preprocessing(size={network.input_size}), or a Model, "
            "such as a classifier's model_, which has its own"
        )
    if isinstance(weights, str) and weights == RANDOM:
        weights = random_weights(network, random_state, initialization)
    if not isinstance(weights, Mapping):
        raise ArgumentTypeError(
            f"weights is {shorten(weights)}; a Network needs a mapping from parameter name to "
            f"array, or {RANDOM!r}"
        )
    arrays = {name: _float32(name, array) for name, array in weights.items()}
    check_weights("weights", arrays, network)
    expected = _normalization_of(network)
    return Model(network, arrays, _normalize_as(expected, preprocessing, f"network {network.name}"))


def find_architecture(
    network: object, weights: AnyWeights = None, preprocessing: Preprocessing | None = None
) -> Model | None:
    """Describe a model without loading its weights, to learn its layers and their shapes.

    Parameters
    ----------
    network, weights, preprocessing
        As for `load_model`.

    Returns
    -------
    Model or None
        A model without weights; None unless ``network`` is a name in the catalog with
        published or random weights.

    Raises
    ------
    UnknownNameError
        If the network or the weights are unknown.
    ParameterError
        If ``preprocessing`` normalizes differently from what the published weights expect.
    """
    _check_not_a_file(network)
    if not isinstance(network, str) or isinstance(weights, Mapping) or is_weights_file(weights):
        return None
    entry = find_weights(network, None if weights in (None, RANDOM) else str(weights))
    return Model(entry.build(), {}, _normalize_as(entry.preprocessing, preprocessing, str(entry)))


def _load_catalogued(
    network: str,
    weights: AnyWeights,
    preprocessing: Preprocessing | None,
    initialization: str,
    random_state: RandomState,
    progress: bool | None,
) -> Model:
    labels = tuple(image_class.name for image_class in imagenet_classes())
    if isinstance(weights, Mapping):
        raise ArgumentTypeError(
            f"weights are arrays; network {shorten(network)} takes the name of published weights "
            "or a file. To use arrays, pass the network itself: transferkit.networks.build_network"
        )
    if weights is not None and is_weights_file(weights):
        built, arrays, entry, is_published = load_weights_file(network, weights)
        expected = _normalize_as(entry.preprocessing, preprocessing, str(entry))
        if not is_published:
            return Model(built, arrays, expected)
        return Model(built, arrays, expected, labels, license=entry.license)
    if weights == RANDOM:
        entry = find_weights(network)
        built = entry.build()
        expected = _normalize_as(entry.preprocessing, preprocessing, str(entry))
        return Model(built, random_weights(built, random_state, initialization), expected)
    entry = find_weights(network, None if weights is None else str(weights))
    built, arrays = load_weights(entry, progress=progress)
    expected = _normalize_as(entry.preprocessing, preprocessing, str(entry))
    return Model(built, arrays, expected, labels, license=entry.license)


def _wrap(
    model: object,
    weights: object,
    preprocessing: Preprocessing | None,
    backend: str | Backend | None,
    device: str | None,
) -> Model:
    """Wrap an object of a framework for a backend that owns it."""
    chosen = None if backend is None else get_backend(backend, device=device)
    if chosen is None or not chosen.owns(model):
        try:
            owner = backend_of(model)
        except ArgumentTypeError:
            raise ArgumentTypeError(
                f"network is {_describe(model)}; expected a name, a Network, a Model (such as the "
                "model_ of a fitted Classifier), a torch.nn.Module or a keras.Model"
            ) from None
        if chosen is not None:
            raise UnsupportedError(
                f"backend {chosen.name!r} cannot run a {type(model).__name__}; {owner!r} can. "
                "Omit backend"
            )
        chosen = get_backend(owner, device=device)
    if weights is not None:
        raise ArgumentTypeError(f"a {type(model).__name__} has its own weights; omit weights")
    published = published_preprocessing(model)
    if published is not None:
        default = _normalization(Preprocessing())
        # A model of timm may have been trained with another normalization since; a module that
        # normalizes its input itself takes no other.
        if preprocessing is None or default in map(_normalization, (preprocessing, published)):
            owner = f"the {type(model).__name__}"
            preprocessing = _normalize_as(published, preprocessing, owner)
    if preprocessing is None:
        wrapped = chosen.wrap(model)
    else:
        wrapped = chosen.wrap(
            model,
            input_size=preprocessing.size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            channel_order=preprocessing.channel_order,
        )
    expected: Any = wrapped.network.node("normalize").attributes
    given = preprocessing or Preprocessing(wrapped.network.input_size)
    given = dataclasses.replace(given, mean=expected["mean"], std=expected["std"])
    side = given.size or wrapped.network.input_size
    return Model(wrapped.network, {}, given, _carried_labels(model, wrapped, side), wrapped)


def _check_not_a_file(network: object) -> None:
    if isinstance(network, str | os.PathLike) and str(network).endswith(_FILE_SUFFIXES):
        raise ParameterError(
            f"network is the file {shorten_path(network)}; expected the name of a network, with "
            "the file as its weights. Of a saved classifier, pass Classifier.load(path).model_"
        )


def _describe(value: object) -> str:
    """Return what an object of a wrong type is, and how to use it if that can be told."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not an instance of it, {value.__name__}(...)"
    if isinstance(value, Mapping):
        return f"a mapping of type {type(value).__name__}, such as weights for a model"
    return f"of type {type(value).__name__}"


def attach_metadata(native: object, model: Model) -> None:
    """Store the preprocessing and the labels of a model in its object of a framework.

    `load_model` finds them there. The object normalizes its input, so its attribute
    ``preprocessing`` has none of that; its attribute ``labels`` is a tuple, or None.
    """
    default = Preprocessing()
    preprocessing = dataclasses.replace(
        model.preprocessing,
        mean=default.mean,
        std=default.std,
        channel_order=default.channel_order,
    )
    # Not by plain assignment: Keras tracks attributes that are set that way.
    object.__setattr__(native, "preprocessing", preprocessing)
    object.__setattr__(native, "labels", model.labels)


def _carried_labels(model: object, wrapped: WrappedModel, side: int) -> tuple[Hashable, ...] | None:
    """Return the labels in an object of a framework, if there is one for each logit."""
    labels = getattr(model, "labels", None)
    if not isinstance(labels, tuple) or not all(isinstance(label, Hashable) for label in labels):
        return None
    shapes = infer_shapes(wrapped.network, side, side, wrapped)
    return labels if shapes.get("logits") == (len(labels),) else None


def _float32(name: str, array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Convert an array of user-defined weights to float32."""
    converted = as_array(array)
    if converted.dtype.kind not in "fiu":
        raise ArgumentTypeError(
            f"weights[{shorten(name)}] has dtype {converted.dtype}; expected float32"
        )
    return converted.astype(np.float32, copy=False)


def _check_model(model: Model) -> None:
    """Check the weights, the preprocessing and the number of labels of a user's model."""
    if not isinstance(model.preprocessing, Preprocessing):
        raise ParameterError(
            f"the model's preprocessing is {shorten(model.preprocessing)}; expected a Preprocessing"
        )
    check_weights("the model's weights", model.weights, model.network)
    if model.labels is None or model.wrapped is not None:
        return
    shape = model.layers()[model.network.resolve("logits")]
    if shape != (len(model.labels),):
        raise ParameterError(
            f"the model has {len(model.labels)} labels, but logits of shape {shape}; give one "
            "label for each logit, or None"
        )


def _normalization_of(network: Network) -> Preprocessing:
    """Return a preprocessing with the normalization that the first nodes of a network apply."""
    first = [node.name for node in network.nodes if node.operation == "normalize"]
    if not first or network.node(first[0]).inputs != (INPUT,):
        return Preprocessing()
    attributes: Any = network.node(first[0]).attributes
    is_bgr = any(
        node.operation == "reverse_channels" and node.inputs == (first[0],)
        for node in network.nodes
    )
    return Preprocessing(
        mean=attributes["mean"],
        std=attributes["std"],
        channel_order="bgr" if is_bgr else "rgb",
    )


def _normalize_as(
    expected: Preprocessing, given: Preprocessing | None, owner: str
) -> Preprocessing:
    """Return the given preprocessing with the normalization that the network applies."""
    if given is None:
        return expected
    default = Preprocessing()
    if _normalization(given) not in (_normalization(expected), _normalization(default)):
        raise ParameterError(
            f"preprocessing has mean {given.mean}, std {given.std} and channel order "
            f"{given.channel_order!r}, but {owner} expects {expected.mean}, {expected.std} and "
            f"{expected.channel_order!r}; omit the three"
        )
    return dataclasses.replace(
        given, mean=expected.mean, std=expected.std, channel_order=expected.channel_order
    )


def _normalization(preprocessing: Preprocessing) -> tuple[object, ...]:
    """Return the part of a preprocessing that the network itself applies."""
    return preprocessing.mean, preprocessing.std, preprocessing.channel_order
