"""Passes: pure functions from a network to another that computes the same.

Each leaves its arguments as they were, and the values of the layers that it promises to
keep; the property tests hold them to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from transferkit.networks.graph import Network, Node, Weights

__all__ = ["add_probabilities", "fold_batch_norm", "keep_needed", "replace_head"]


def keep_needed(network: Network, layers: Iterable[str]) -> Network:
    """Only the nodes that the outputs of ``layers`` are computed from.

    Parameters
    ----------
    network
        What to prune.
    layers
        Nodes' names or aliases.

    Returns
    -------
    Network
        Computes the same values for every layer that it still has.

    Raises
    ------
    UnknownNameError
        If there is no such layer.
    """
    needed = {network.resolve(layer) for layer in layers}
    nodes: list[Node] = []
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(node.inputs)
            nodes.append(node)
    return _with_nodes(network, tuple(reversed(nodes)))


def fold_batch_norm(
    network: Network, weights: Weights, keep: Collection[str]
) -> tuple[Network, Weights]:
    """Each batch norm multiplied into the convolution that feeds it.

    ``scale * (conv(x) - mean) / sqrt(variance + epsilon) + shift`` is a convolution itself:
    its kernel is scaled per output channel and its bias follows (Jacob et al., 2018,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 14).

    Parameters
    ----------
    network, weights
        What to fold; neither is changed.
    keep
        Names of nodes whose outputs are wanted: a convolution among them stays as it is, and
        so does one that feeds anything besides its batch norm.

    Returns
    -------
    network, weights
        Compute the same values, to rounding, for every layer that is left. The arithmetic of
        the folding is done in float64.
    """
    uses = Counter(name for node in network.nodes for name in node.inputs)
    by_name = {node.name: node for node in network.nodes}
    folded: dict[str, Node] = {}
    dropped: set[str] = set()
    new_weights = dict(weights)
    new_shapes = dict(network.parameters)
    for node in network.nodes:
        convolution = by_name.get(node.inputs[0]) if node.operation == "batch_norm" else None
        if (
            convolution is None
            or convolution.operation != "conv2d"
            or uses[convolution.name] > 1
            or convolution.name in keep
        ):
            continue
        scale, shift, mean, variance = (
            weights[name].astype(np.float64) for name in node.parameters
        )
        factor = scale / np.sqrt(variance + float(node.attributes["epsilon"]))  # type: ignore[arg-type]
        kernel_name, *bias_names = convolution.parameters
        kernel = weights[kernel_name].astype(np.float64) * factor[:, None, None, None]
        bias = sum((weights[name].astype(np.float64) for name in bias_names), -mean)
        names = (f"{node.name}.folded_weight", f"{node.name}.folded_bias")
        for name, array in zip(names, (kernel, bias * factor + shift), strict=True):
            new_weights[name] = array.astype(np.float32)
            # Nobody else has it, so that a backend need not copy it.
            new_weights[name].setflags(write=False)
            new_shapes[name] = array.shape
        folded[node.name] = Node(
            node.name, "conv2d", convolution.inputs, convolution.attributes, names
        )
        dropped.add(convolution.name)
    nodes = tuple(folded.get(node.name, node) for node in network.nodes if node.name not in dropped)
    network = Network(network.name, network.nodes, new_shapes, network.aliases, network.input_size)
    network = _with_nodes(network, nodes)
    return network, {name: new_weights[name] for name in network.parameters}


def replace_head(
    network: Network, number_of_classes: int, *, embedding_size: int, name: str
) -> Network:
    """The network up to ``embedding``, and a new linear classifier on its direction.

    The embedding is scaled to length 1 first: how long it is tells how much there is to see
    in a picture rather than what, and few pictures a class are told apart better without.

    Parameters
    ----------
    network
        Whose classifier to replace.
    number_of_classes
        How many outputs the new one has.
    embedding_size
        How many numbers ``embedding`` has.
    name
        What the new network is called.

    Returns
    -------
    Network
        With ``unit_embedding``, ``logits`` (weights ``head.weight`` (classes, d) and
        ``head.bias`` (classes,)) and ``probabilities``, their softmax.

    Raises
    ------
    ValueError
        If what comes before the embedding has layers or weights of these names.
    """
    body = keep_needed(network, ["embedding"])
    shapes = {
        "head.weight": (number_of_classes, embedding_size),
        "head.bias": (number_of_classes,),
    }
    if taken := shapes.keys() & body.parameters.keys():
        raise ValueError(f"{network.name} has weights named {', '.join(sorted(taken))} already")
    head = (
        Node("unit_embedding", "l2_normalize", (network.resolve("embedding"),)),
        Node("logits", "linear", ("unit_embedding",), {}, tuple(shapes)),
    )
    return add_probabilities(
        Network(
            name,
            body.nodes + head,
            {**body.parameters, **shapes},
            body.aliases,
            network.input_size,
        )
    )


def add_probabilities(network: Network) -> Network:
    """The network with one more node: ``probabilities``, the softmax of its logits."""
    node = Node("probabilities", "softmax", (network.resolve("logits"),))
    return Network(
        network.name,
        (*network.nodes, node),
        network.parameters,
        network.aliases,
        network.input_size,
    )


def _with_nodes(network: Network, nodes: tuple[Node, ...]) -> Network:
    """``network`` with these nodes, and only the weights and aliases that still mean something."""
    names = {node.name for node in nodes}
    used = [name for node in nodes for name in node.parameters]
    return Network(
        network.name,
        nodes,
        {name: network.parameters[name] for name in used},
        {alias: target for alias, target in network.aliases.items() if target in names},
        network.input_size,
    )
