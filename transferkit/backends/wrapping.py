"""What the wrapped models of all frameworks share: the names of layers, and where tensors are."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transferkit.errors import UnsupportedError, shorten
from transferkit.networks.graph import INPUT, WRAPPED, Network, NetworkBuilder
from transferkit.support.locks import ForkSafeLock

__all__ = [
    "LAYER",
    "LAYER_INPUT",
    "OUTPUT",
    "PRE_ACTIVATION",
    "TWO_LOGITS",
    "VECTOR",
    "ShapeCache",
    "TensorLocation",
    "assign_layer_names",
    "build_wrapped_network",
    "gray_weights",
    "is_vector_per_image",
    "named_outputs",
]

Shape = tuple[int, ...]

LAYER = "layer"
"""The kind of a location that is the output of a layer."""

LAYER_INPUT = "layer input"
"""The kind of a location that is the input of a layer, as one vector per image."""

PRE_ACTIVATION = "pre-activation"
"""The kind of a location that is the input of an activation: built into a layer, or the last."""

OUTPUT = "output"
"""The kind of a location that is an output of the model."""

VECTOR = "vector"
"""The form of a tensor that is reshaped to one vector per image, (n, d)."""

TWO_LOGITS = "two logits"
"""The form of the logit of a model with two classes: (0, logit), the logits of both, (n, 2)."""

# The weights of red, green and blue in a gray pixel (ITU-R BT.601), as in Pillow.
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)
# The names of the nodes before the wrapped model.
_RESERVED_NAMES = frozenset({INPUT, "normalize", "reverse_channels"})
_MAX_CACHED_SIZES = 64


class TensorLocation(NamedTuple):
    """The location of a tensor in a run of a model.

    Attributes
    ----------
    kind
        `LAYER`, `LAYER_INPUT`, `PRE_ACTIVATION` or `OUTPUT`.
    name
        The framework's name of the layer, or the name of the output.
    call
        The number of earlier calls of the layer in the same run.
    form
        What is done with the tensor: `VECTOR`, `TWO_LOGITS`, or nothing.
    """

    kind: str
    name: str
    call: int = 0
    form: str = ""


class ShapeCache:
    """The output shapes of all layers, for the 64 image sizes that were added last.

    It is safe in several threads.
    """

    def __init__(self) -> None:
        self._shapes: OrderedDict[tuple[int, int], Mapping[str, Shape]] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(
        self, size: tuple[int, int], compute: Callable[[], Mapping[str, Shape]]
    ) -> Mapping[str, Shape]:
        """Return the shapes for images of ``size``, from ``compute`` if they are not cached."""
        with self._lock:
            shapes = self._shapes.get(size)
        if shapes is None:
            # Without the lock, since it runs the model.
            shapes = compute()
            with self._lock:
                self._shapes[size] = shapes
                if len(self._shapes) > _MAX_CACHED_SIZES:
                    self._shapes.popitem(last=False)
        return shapes


def gray_weights(
    model: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    channel_order: str,
) -> tuple[float, ...]:
    """Return the weights of the input's channels in the pixels of a model of gray images.

    Parameters
    ----------
    model
        The name of the model.
    mean, std, channel_order
        The normalization that the model expects, as for `NetworkBuilder.normalize`.

    Raises
    ------
    UnsupportedError
        If the normalization differs between channels.
    """
    if len({*(mean or ())}) > 1 or len({*(std or ())}) > 1:
        raise UnsupportedError(
            f"model {model!r} takes gray images, but mean is {mean} and std is {std}; expected the "
            "mean and std of gray three times, such as "
            "Preprocessing(size=28, mean=(0.13,) * 3, std=(0.31,) * 3)"
        )
    return _GRAY_WEIGHTS if channel_order == "rgb" else _GRAY_WEIGHTS[::-1]


def named_outputs(output: object, is_activation: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the tensors that a model returned, by name.

    Parameters
    ----------
    output
        What the model returned. A tensor is named ``output``. The entries of a mapping are named
        by their keys, those of a named tuple by its fields, and those of another tuple or a list
        ``output.0``, ``output.1`` and so on.
    is_activation
        Returns whether an object is a floating-point tensor with one row per image; others are
        left out.

    Raises
    ------
    UnsupportedError
        If no such tensor was returned; the message describes what was.
    """
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        output = output._asdict()
    if isinstance(output, Mapping):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, (tuple, list)):
        named = {f"output.{index}": value for index, value in enumerate(output)}
    else:
        named = {"output": output}
    activations = {name: value for name, value in named.items() if is_activation(value)}
    if not activations:
        raise UnsupportedError(
            f"the model returned {_describe(output)}; expected a floating-point tensor with one "
            "row per image, or a dict, tuple or list with such a tensor"
        )
    return activations


def _describe(output: object) -> str:
    """Return a short description of an unusable output for an error message."""
    name = type(output).__name__
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return f"a {name} of shape {tuple(output.shape)} and dtype {output.dtype}"
    if isinstance(output, Mapping):
        inner = ", ".join(
            f"{shorten(key)}: {type(value).__name__}" for key, value in output.items()
        )
        return f"a {name} ({inner})"
    if isinstance(output, (tuple, list)):
        return f"a {name} of {', '.join(type(value).__name__ for value in output) or 'nothing'}"
    return f"a {name}"


def is_vector_per_image(shape: Shape, channels: int = -1) -> bool:
    """Return whether a tensor is one vector per image, with its features in axis ``channels``.

    Feature maps of one pixel are included, since a convolution of them is a linear layer.
    """
    return len(shape) in (2, 4) and math.prod(shape[1:]) == shape[channels]


def assign_layer_names(
    calls: Sequence[tuple[str, int]],
    outputs: Sequence[str],
    *,
    embedding: TensorLocation | None,
    logits: TensorLocation | None,
) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """Return the names of the layers of a wrapped model, with their locations.

    A layer keeps the name that the framework gives it. Further calls of the same layer are named
    with the suffix ``_1``, ``_2`` and so on. A layer whose name has a reserved meaning, such as
    ``logits``, is named ``module.logits``. An output with the same name as a layer is named
    ``output.<name>``.

    Parameters
    ----------
    calls
        The framework's name of each layer that was called, and the number of its earlier calls,
        in the order of the calls.
    outputs
        The names of the model's outputs.
    embedding, logits
        Their locations, if they can be determined.

    Returns
    -------
    locations
        Name to location, in the order in which the model computes them.
    aliases
        Alias to name.
    """
    reserved = set(_RESERVED_NAMES)
    reserved |= {"embedding"} if embedding is not None else set()
    reserved |= {"logits"} if logits is not None else set()
    layers = {name for name, _ in calls}
    locations: dict[str, TensorLocation] = {}
    for name, call in calls:
        if embedding is not None and embedding == TensorLocation(LAYER_INPUT, name, call):
            locations["embedding"] = embedding
        suffix = call
        label = name if call == 0 else f"{name}_{suffix}"
        while label in locations or (call and label in layers):
            suffix += 1
            label = f"{name}_{suffix}"
        label = f"module.{label}" if label in reserved else label
        locations[label] = TensorLocation(LAYER, name, call)
    meanings = {"embedding": embedding, "logits": logits}
    for name, location in meanings.items():
        if location is not None and (location.kind != OUTPUT or location.form):
            locations.setdefault(name, location)
    aliases: dict[str, str] = {}
    for name in outputs:
        location = TensorLocation(OUTPUT, name)
        has_meaning = meanings.get(name) == location
        is_free = name not in locations and name not in reserved
        label = name if has_meaning or is_free else f"output.{name}"
        locations[label] = location
        for meaning, meant in meanings.items():
            if location == meant and label != meaning:
                aliases[meaning] = label
    return locations, aliases


def build_wrapped_network(
    name: str,
    input_size: int,
    layers: Iterable[str],
    aliases: Mapping[str, str],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channel_order: str,
    hints: Mapping[str, str] | None = None,
) -> Network:
    """Return a wrapped model as a network: normalization, then one wrapped node per layer.

    ``layers`` and ``aliases`` are from `assign_layer_names`; the other parameters are those of
    `Network` and `NetworkBuilder.normalize`.
    """
    builder = NetworkBuilder(name, input_size)
    x = builder.normalize(mean, std, channel_order)
    for layer in layers:
        builder.add_node(layer, WRAPPED, x)
    for alias, target in aliases.items():
        builder.alias(alias, target)
    return dataclasses.replace(builder.build(), hints=hints or {})
