"""What wrapped models have in common, whatever the framework: how their layers are called."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from transferkit.errors import UnsupportedError
from transferkit.networks.graph import INPUT, WRAPPED, Network, NetworkBuilder

__all__ = [
    "ShapeCache",
    "TensorLocation",
    "assign_layer_names",
    "build_wrapped_network",
    "find_producer",
    "named_outputs",
]

Step = TypeVar("Step", bound=Hashable)
Shape = tuple[int, ...]

LAYER = "layer"
"""The kind of place that is the output of a layer."""

LAYER_INPUT = "layer input"
"""The kind of place that is what a layer takes."""

PRE_ACTIVATION = "before activation"
"""The kind of place that is the output of a layer without the activation it ends in."""

OUTPUT = "output"
"""The kind of place that is an output of the model itself."""

# What the nodes before the model are called.
_RESERVED_NAMES = frozenset({INPUT, "normalize", "reverse_channels"})
_SIZES_KEPT = 64


class TensorLocation(NamedTuple):
    """Where in a running model a tensor is found.

    Attributes
    ----------
    kind
        `LAYER`, `LAYER_INPUT` (as one row for each picture), `PRE_ACTIVATION` or `OUTPUT`.
    name
        What the framework calls the layer, or the name of the output.
    call
        How many times the layer has run before.
    """

    kind: str
    name: str
    call: int = 0


class ShapeCache:
    """The shapes of all layers for the sizes of pictures that were asked for last."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[int, int], Mapping[str, Shape]] = OrderedDict()

    def get(
        self, size: tuple[int, int], find: Callable[[], Mapping[str, Shape]]
    ) -> Mapping[str, Shape]:
        """The shapes for pictures of ``size``; ``find`` is called where they are not known."""
        found = self._found.get(size)
        if found is None:
            found = self._found[size] = find()
            if len(self._found) > _SIZES_KEPT:
                self._found.popitem(last=False)
        return found


def named_outputs(output: object, is_activation: Callable[[Any], bool]) -> dict[str, Any]:
    """The tensors that a model gives, each with its name.

    Parameters
    ----------
    output
        What the model gave: a tensor is called ``output``; the entries of a mapping go by
        their keys, those of a tuple or list are ``output.0`` and so on.
    is_activation
        Whether something is a tensor of fractions with a row for each picture.

    Raises
    ------
    UnsupportedError
        If there is no such tensor; says what there is.
    """
    if isinstance(output, Mapping):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, (tuple, list)):
        named = {f"output.{index}": value for index, value in enumerate(output)}
    else:
        named = {"output": output}
    found = {name: value for name, value in named.items() if is_activation(value)}
    if not found:
        raise UnsupportedError(
            f"the model gives {_describe(output)}; expected a tensor of fractions with a row for "
            "each picture, or a dict, tuple or list that holds one"
        )
    return found


def _describe(output: object) -> str:
    """An output that cannot be used, in a few words."""
    name = type(output).__name__
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return f"a {name} of shape {tuple(output.shape)} and type {output.dtype}"
    if isinstance(output, Mapping):
        inner = ", ".join(f"{key!r}: {type(value).__name__}" for key, value in output.items())
        return f"a {name} ({inner})"
    if isinstance(output, (tuple, list)):
        return f"a {name} of {', '.join(type(value).__name__ for value in output) or 'nothing'}"
    return f"a {name}"


def is_vector_per_image(shape: Shape, channels: int = -1) -> bool:
    """Whether a tensor of this shape is one row for each picture, of which axis ``channels`` is.

    A convolution of such a feature map, of one pixel, is a linear layer.
    """
    return len(shape) in (2, 4) and math.prod(shape[1:]) == shape[channels]


def find_producer(
    result: Step | None,
    sources: Mapping[Step, TensorLocation],
    steps_before: Callable[[Step], Iterable[Step]],
) -> TensorLocation | None:
    """The one place among ``sources`` that ``result`` is computed from most directly.

    Parameters
    ----------
    result
        A step of a computation; None where the framework does not know it.
    sources
        Steps to the places they belong to. What is before a source is not looked at.
    steps_before
        The steps that a step takes its values from.

    Returns
    -------
    TensorLocation or None
        None if there is no source, or there are several.
    """
    found: set[TensorLocation] = set()
    seen: set[Step] = set()
    waiting = [] if result is None else [result]
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        if step in sources:
            found.add(sources[step])
        else:
            waiting.extend(steps_before(step))
    return found.pop() if len(found) == 1 else None


def assign_layer_names(
    calls: Sequence[tuple[str, int]],
    outputs: Sequence[str],
    *,
    embedding: TensorLocation | None,
    logits: TensorLocation | None,
) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """What the layers of a wrapped model are called.

    A layer has the name that the framework gives it, and where it runs again that name with
    ``_1``, ``_2`` and so on. Where a name has a meaning of its own, such as ``logits``, a
    layer of that name goes by ``module.logits``. An output whose name a layer has goes by
    ``output.<name>``.

    Parameters
    ----------
    calls
        The framework's name of each layer that ran, and how many times it had run before, in
        the order of computing.
    outputs
        The names of the model's own outputs.
    embedding, logits
        Where these are, where that can be told.

    Returns
    -------
    places, aliases
        Name to place, in the order of computing; alias to name.
    """
    taken = set(_RESERVED_NAMES)
    taken |= {"embedding"} if embedding is not None else set()
    taken |= {"logits"} if logits is not None else set()
    first_runs = {name for name, _ in calls}
    places: dict[str, TensorLocation] = {}
    for name, call in calls:
        if embedding is not None and embedding == TensorLocation(LAYER_INPUT, name, call):
            places["embedding"] = embedding
        number = call
        label = name if call == 0 else f"{name}_{number}"
        while label in places or (call and label in first_runs):
            number += 1
            label = f"{name}_{number}"
        places[f"module.{label}" if label in taken else label] = TensorLocation(LAYER, name, call)
    for name, place in (("embedding", embedding), ("logits", logits)):
        if place is not None and place.kind != OUTPUT:
            places.setdefault(name, place)
    aliases: dict[str, str] = {}
    for name in outputs:
        place = TensorLocation(OUTPUT, name)
        is_meant = (name, place) in {("embedding", embedding), ("logits", logits)}
        label = name if is_meant or (name not in places and name not in taken) else f"output.{name}"
        places[label] = place
        if place == logits and label != "logits":
            aliases["logits"] = label
    return places, aliases


def build_wrapped_network(
    name: str,
    input_size: int,
    places: Iterable[str],
    aliases: Mapping[str, str],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channel_order: str,
) -> Network:
    """A wrapped model as a network: pixels are normalised, and the model gives the rest."""
    builder = NetworkBuilder(name, input_size)
    x = builder.normalize(mean, std, channel_order)
    for place in places:
        builder.add_node(place, WRAPPED, x)
    for alias, target in aliases.items():
        builder.alias(alias, target)
    return builder.build()
