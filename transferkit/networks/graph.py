"""A network as data: an immutable list of named nodes over the table of primitives.

A `Network` holds no arrays and depends on no framework. The operations of its nodes are the
primitives of `transferkit.backends.base.Table`; its weights are a separate mapping from
parameter name to NumPy array. Networks are built with a `NetworkBuilder`, which keeps the code
of an architecture close to the table in its paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import NetworkError, UnknownNameError, shorten

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
"""The operation of a node whose output is computed by a framework's model, not by the table."""

CHANNEL_ORDERS = ("rgb", "bgr")
"""The channel orders that weights may expect."""

Attribute: TypeAlias = (
    int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[tuple[int, int], ...]
)
"""The types of a node's attributes: plain data, so that a network can be written as JSON."""

Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""The padding of a convolution or a pool: ``((top, bottom), (left, right))``.

The number of rows added above and below the feature map, and of columns added to its left and
right: zeros for a convolution, values that are never the maximum for a max pool. The two sides
of an axis may differ, as in Keras's networks.
"""

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""Parameter name to array, in the shapes of torchvision's state dictionaries."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a network.

    Parameters
    ----------
    name
        The name of the node and of its output, unique within the network.
    operation
        The name of a primitive of `transferkit.backends.base.Table`.
    inputs
        The names of the input nodes (or `INPUT`), in the order of the primitive's arguments.
    attributes
        The primitive's keyword arguments.
    parameters
        The names of the weights, which follow the inputs in the primitive's arguments.
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
    """A network: the nodes that compute its outputs from pixels, and the names of the outputs.

    Parameters
    ----------
    name
        The name of the network: ``"mobilenet_v2"``.
    nodes
        The nodes in topological order: each comes after its inputs.
    parameters
        The name of each weight to its shape. Convolution kernels are (out, in / groups,
        height, width), matrices (out, in).
    aliases
        Further names of nodes. Every network has ``logits`` and ``embedding``, the input of
        its last linear layer, each as a node or an alias.
    input_size
        The side in pixels of the square image that the network was designed for.
    hints
        Names of layers that do not exist, each with the reason and the remedy, for the error
        message of `resolve`.

    Raises
    ------
    NetworkError
        If an input of a node does not precede it, a weight has no shape, a name is used
        twice, or the target of an alias does not exist.

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
    hints: Mapping[str, str] = field(default_factory=dict, compare=False)
    _by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hints", MappingProxyType(dict(self.hints)))
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})
        known = {INPUT}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise NetworkError(
                        f"the input {shorten(name)} of layer {shorten(node.name)} does not precede "
                        "it"
                    )
            for name in node.parameters:
                if name not in self.parameters:
                    raise NetworkError(
                        f"the weight {shorten(name)} of layer {shorten(node.name)} has no shape"
                    )
            if node.name in known:
                raise NetworkError(f"two layers are named {shorten(node.name)}")
            known.add(node.name)
        for alias, target in self.aliases.items():
            if target not in known:
                raise NetworkError(
                    f"the target {shorten(target)} of alias {shorten(alias)} does not exist"
                )
            if alias in known:
                raise NetworkError(f"alias {shorten(alias)} is the name of a layer")

    def __reduce__(self) -> tuple[object, ...]:
        return (
            Network,
            (
                self.name,
                self.nodes,
                dict(self.parameters),
                dict(self.aliases),
                self.input_size,
                dict(self.hints),
            ),
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all outputs: of nodes, each followed by its aliases."""
        aliases: dict[str, list[str]] = {}
        for alias, target in self.aliases.items():
            aliases.setdefault(target, []).append(alias)
        return tuple(
            name for node in self.nodes for name in (node.name, *aliases.get(node.name, ()))
        )

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters: all weights except the statistics of batch norm."""
        statistics = self.statistics
        return sum(
            math.prod(shape) for name, shape in self.parameters.items() if name not in statistics
        )

    @property
    def statistics(self) -> frozenset[str]:
        """The names of the means and variances of batch norms, which are not trained."""
        return frozenset(
            name
            for node in self.nodes
            if node.operation == "batch_norm"
            for name in node.parameters[2:]
        )

    def resolve(self, layer: str) -> str:
        """Return the name of the node that ``layer``, a node's name or an alias, refers to.

        Raises
        ------
        UnknownNameError
            If the layer is unknown; the message has close matches.
        """
        name = self.aliases.get(layer, layer)
        if name not in self._by_name:
            hint = self.hints.get(layer, "")
            raise UnknownNameError("layer", layer, self.layers, of=self.name, hint=hint)
        return name

    def node(self, layer: str) -> Node:
        """Return the node that ``layer``, a node's name or an alias, refers to."""
        return self._by_name[self.resolve(layer)]


class NetworkBuilder:
    """A builder of networks: each method adds a node and returns its name.

    Parameters
    ----------
    name
        The name of the network.
    input_size
        The side in pixels of the square image that the network is designed for.

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
        """Add a node; ``parameters`` is the name of each of its weights to the shape."""
        known = {INPUT, *(node.name for node in self._nodes)}
        for required in inputs:
            if required not in known:
                raise UnknownNameError("layer", required, known, of=self._name)
        if name in known or name in self._aliases:
            raise NetworkError(f"{self._name} has a layer named {shorten(name)} already")
        parameters = parameters or {}
        self._parameters.update(parameters)
        self._nodes.append(Node(name, operation, inputs, attributes, tuple(parameters)))
        return name

    def alias(self, alias: str, target: str) -> None:
        """Add ``alias`` as a further name of the node ``target``."""
        self._aliases[alias] = target

    def normalize(
        self, mean: tuple[float, ...], std: tuple[float, ...], channel_order: str = "rgb"
    ) -> str:
        """Add the first nodes of a network: the normalization that its weights expect.

        ``mean`` and ``std`` are of red, green and blue, for pixels in [0, 1]. If
        ``channel_order`` is ``"bgr"``, a second node, ``reverse_channels``, follows.

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
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """Add a convolution with a square kernel; ``padding`` is of all sides, or a `Padding`."""
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        shape = (out_channels, in_channels // groups, size, size)
        parameters: dict[str, tuple[int, ...]] = {f"{name}.weight": shape}
        if bias:
            parameters[f"{name}.bias"] = (out_channels,)
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
        """Add a batch normalization with fixed statistics."""
        suffixes = ("weight", "bias", "running_mean", "running_var")
        parameters = {f"{name}.{suffix}": (channels,) for suffix in suffixes}
        return self.add_node(name, "batch_norm", x, parameters=parameters, epsilon=epsilon)

    def linear(self, name: str, x: str, in_features: int, out_features: int) -> str:
        """Add a fully connected layer with a bias."""
        parameters = {
            f"{name}.weight": (out_features, in_features),
            f"{name}.bias": (out_features,),
        }
        return self.add_node(name, "linear", x, parameters=parameters)

    def build(self) -> Network:
        """Return the network built so far."""
        return Network(
            self._name, tuple(self._nodes), self._parameters, self._aliases, self._input_size
        )
