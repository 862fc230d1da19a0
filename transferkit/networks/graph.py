"""A network as data: an immutable list of named nodes over the table of primitives.

A `Network` holds no arrays and knows no framework. Its nodes name operations of
`transferkit.backends.base.Table`; its weights travel beside it as a mapping from
parameter name to NumPy array. A `NetworkBuilder` makes one, so that an architecture reads
like the table in its paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import UnknownNameError

__all__ = [
    "CHANNEL_ORDERS",
    "INPUT",
    "WRAPPED",
    "Attribute",
    "Network",
    "NetworkBuilder",
    "Node",
    "Padding",
    "Weights",
]

INPUT = "pixels"
"""The name of every network's input: N x H x W x 3, RGB, float32 in [0, 1]."""

WRAPPED = "wrapped"
"""The operation of a node whose output a framework's own model gives, not the table."""

CHANNEL_ORDERS = ("rgb", "bgr")
"""The orders in which weights may expect the colours."""

Attribute: TypeAlias = (
    int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[tuple[int, int], ...]
)
"""What an attribute of a node may be: plain data, so that a network can be written as JSON."""

Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""((top, bottom), (left, right)) in pixels."""

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""Parameter name to array, in the shapes that torchvision's state dictionaries have."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a network.

    Parameters
    ----------
    name
        Unique within the network; the name its output is asked for by.
    operation
        The name of a primitive of `transferkit.backends.base.Table`.
    inputs
        Names of the nodes (or `INPUT`) whose outputs it takes, in the primitive's order.
    attributes
        The primitive's keyword arguments.
    parameters
        Names of the weights that follow the inputs, in the primitive's order.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled, and joblib pickles estimators that hold networks.
        return (
            Node,
            (self.name, self.operation, self.inputs, dict(self.attributes), self.parameters),
        )


@dataclass(frozen=True, slots=True)
class Network:
    """A network: what is computed from pixels, node by node, and what each output is called.

    Parameters
    ----------
    name
        What the network is called: ``"mobilenet_v2"``.
    nodes
        In an order in which each node comes after its inputs.
    parameters
        Name of each weight to its shape. Convolution kernels are (out, in / groups, height,
        width), matrices (out, in).
    aliases
        Further names to the node they mean. Every network has ``embedding`` (the vector that
        its last layer, the linear one that gives the logits, takes) and ``logits``, as a node
        or an alias.
    input_size
        The side in pixels of the square picture that the network was designed for.

    Raises
    ------
    ValueError
        If a node takes an input that is not before it or a weight that has no shape, or a
        name occurs twice or means nothing.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> network = build_network("mobilenet_v2")
    >>> network.resolve("logits")
    'classifier.1'
    """

    name: str
    nodes: tuple[Node, ...]
    parameters: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, str]
    input_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        known = {INPUT}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"layer {node.name!r} takes {name!r}, which is not before it")
            for name in node.parameters:
                if name not in self.parameters:
                    raise ValueError(f"layer {node.name!r} needs {name!r}, which has no shape")
            if node.name in known:
                raise ValueError(f"two layers are called {node.name!r}")
            known.add(node.name)
        for alias, target in self.aliases.items():
            if target not in known or alias in known:
                raise ValueError(f"alias {alias!r} of {target!r} means nothing")

    def __reduce__(self) -> tuple[object, ...]:
        return (
            Network,
            (self.name, self.nodes, dict(self.parameters), dict(self.aliases), self.input_size),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Every name that an output can be asked for by, each alias after the node it means."""
        aliases: dict[str, list[str]] = {}
        for alias, target in self.aliases.items():
            aliases.setdefault(target, []).append(alias)
        return tuple(
            name for node in self.nodes for name in (node.name, *aliases.get(node.name, ()))
        )

    @property
    def number_of_parameters(self) -> int:
        """How many numbers the weights hold, the statistics of batch norm not counted."""
        return sum(
            math.prod(shape)
            for name, shape in self.parameters.items()
            if not name.endswith((".running_mean", ".running_var"))
        )

    def resolve(self, layer: str) -> str:
        """The name of the node that ``layer``, a node's name or an alias, means.

        Raises
        ------
        UnknownNameError
            If there is no such layer; close matches are named.
        """
        name = self.aliases.get(layer, layer)
        if not any(node.name == name for node in self.nodes):
            raise UnknownNameError("layer", layer, self.layers, of=self.name)
        return name

    def node(self, layer: str) -> Node:
        """The node that ``layer``, a node's name or an alias, means."""
        name = self.resolve(layer)
        return next(node for node in self.nodes if node.name == name)


class NetworkBuilder:
    """Makes a `Network` node by node; each method returns the new node's name.

    Parameters
    ----------
    name
        What the network is called.
    input_size
        The side in pixels of the square picture it is designed for.

    Examples
    --------
    >>> from transferkit.networks.graph import INPUT, NetworkBuilder
    >>> builder = NetworkBuilder("tiny", input_size=32)
    >>> x = builder.conv2d("conv", INPUT, 3, 8, size=3, stride=2, padding=1)
    >>> x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    >>> x = builder.linear("logits", x, 8, 10)
    >>> network = builder.build()
    >>> network.parameters["conv.weight"]
    (8, 3, 3, 3)
    """

    def __init__(self, name: str, input_size: int) -> None:
        self._name = name
        self._input_size = input_size
        self._nodes: list[Node] = []
        self._parameters: dict[str, tuple[int, ...]] = {}
        self._aliases: dict[str, str] = {}

    def add_node(
        self,
        name: str,
        operation: str,
        *inputs: str,
        parameters: Mapping[str, tuple[int, ...]] | None = None,
        **attributes: Attribute,
    ) -> str:
        """Add a node; ``parameters`` maps the names of its weights to their shapes."""
        known = {INPUT, *(node.name for node in self._nodes)}
        for required in inputs:
            if required not in known:
                raise UnknownNameError("layer", required, known, of=self._name)
        if name in known or name in self._aliases:
            raise ValueError(f"{self._name} has a layer named {name!r} already")
        parameters = parameters or {}
        self._parameters.update(parameters)
        self._nodes.append(Node(name, operation, inputs, attributes, tuple(parameters)))
        return name

    def alias(self, alias: str, target: str) -> None:
        """Let ``alias`` mean the node ``target``."""
        self._aliases[alias] = target

    def normalize(
        self, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str = "rgb"
    ) -> str:
        """The first nodes of a network: pixels as its weights were trained on them.

        ``mean`` and ``std`` are those of red, green and blue, for pixels in [0, 1]. Where
        ``channel_order`` is ``"bgr"`` a second node, ``reverse_channels``, follows.

        Raises
        ------
        UnknownNameError
            If ``channel_order`` is neither ``"rgb"`` nor ``"bgr"``.
        """
        if channel_order not in CHANNEL_ORDERS:
            raise UnknownNameError("channel order", channel_order, CHANNEL_ORDERS)
        x = self.add_node("normalize", "normalize", INPUT, mean=mean, std=std)
        if channel_order == "bgr":
            x = self.add_node("reverse_channels", "reverse_channels", x)
        return x

    def conv2d(
        self,
        name: str,
        x: str,
        channels_in: int,
        channels_out: int,
        *,
        size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """A square convolution with ``padding`` zeros on every side, or as many as each has."""
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        shape = (channels_out, channels_in // groups, size, size)
        parameters: dict[str, tuple[int, ...]] = {f"{name}.weight": shape}
        if bias:
            parameters[f"{name}.bias"] = (channels_out,)
        return self.add_node(
            name,
            "conv2d",
            x,
            parameters=parameters,
            stride=(stride, stride),
            padding=padding,
            groups=groups,
        )

    def batch_norm(self, name: str, x: str, channels: int, *, epsilon: float) -> str:
        """Batch normalisation with fixed statistics."""
        suffixes = ("weight", "bias", "running_mean", "running_var")
        parameters = {f"{name}.{suffix}": (channels,) for suffix in suffixes}
        return self.add_node(name, "batch_norm", x, parameters=parameters, epsilon=epsilon)

    def linear(self, name: str, x: str, features_in: int, features_out: int) -> str:
        """A fully connected layer with a bias."""
        parameters = {
            f"{name}.weight": (features_out, features_in),
            f"{name}.bias": (features_out,),
        }
        return self.add_node(name, "linear", x, parameters=parameters)

    def build(self) -> Network:
        """The network made so far."""
        return Network(
            self._name, tuple(self._nodes), self._parameters, self._aliases, self._input_size
        )
