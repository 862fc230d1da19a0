"""Passes: pure functions that transform a network.

A pass changes neither its arguments nor the values of the layers that it keeps; property tests
check both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from transferkit.errors import ParameterError
from transferkit.networks.graph import Attribute, Network, Node, Weights

__all__ = [
    "SCALED_LOGITS",
    "TEMPERATURE",
    "UNKNOWN_SCORE",
    "add_probabilities",
    "add_unknown_score",
    "divide_logits",
    "fold_batch_norm",
    "keep_needed",
    "replace_head",
]

SCALED_LOGITS = "scaled_logits"
"""The name of the layer that `divide_logits` adds."""

TEMPERATURE = "head.temperature"
"""The name of the weight (1,) by which `divide_logits` divides the logits."""

UNKNOWN_SCORE = "unknown_score"
"""The name of the layer that `add_unknown_score` adds."""


def keep_needed(network: Network, layers: Iterable[str]) -> Network:
    """Remove all nodes that are not needed to compute ``layers``.

    Parameters
    ----------
    network
        The network to prune.
    layers
        Names or aliases of nodes.

    Returns
    -------
    Network
        Computes the same values for every layer that is left.

    Raises
    ------
    UnknownNameError
        If a layer is unknown.
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
    """Fold each batch norm into the convolution before it.

    ``scale * (conv(x) - mean) / sqrt(variance + epsilon) + shift`` is a convolution whose
    kernel is scaled per output channel and whose bias is adapted (Jacob et al., 2018,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 14).

    Parameters
    ----------
    network, weights
        The network and its weights; neither is changed.
    keep
        The names of nodes whose outputs are needed. A convolution among them is not folded,
        nor is one whose output is used by another node besides its batch norm.

    Returns
    -------
    network, weights
        They compute the same values, up to rounding, for every layer that is left. Folded
        weights are computed in float64.
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
            # Read-only, so that backends can use the array without a copy.
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
    network: Network,
    num_classes: int,
    *,
    embedding_size: int,
    name: str,
    layer: str = "embedding",
    flatten: bool = False,
) -> Network:
    """Replace all layers after ``layer`` by a new linear classifier.

    The classifier takes the embedding normalized to length 1: its length depends on the amount
    of detail in an image more than on the class, and with few images per class normalized
    embeddings are classified more accurately.

    Parameters
    ----------
    network
        The network whose classifier to replace.
    num_classes
        The number of outputs of the new classifier.
    embedding_size
        The number of values of ``layer`` for one image.
    name
        The name of the new network.
    layer
        The layer whose output is the embedding.
    flatten
        Whether that output is a feature map, which is flattened in row-major order.

    Returns
    -------
    Network
        Ends with ``unit_embedding``, ``logits`` (weights ``head.weight`` (classes, d) and
        ``head.bias`` (classes,)) and ``probabilities``, their softmax.

    Raises
    ------
    ParameterError
        If a layer or a weight before the embedding has one of these names.
    """
    body = keep_needed(network, [layer])
    shapes = {
        "head.weight": (num_classes, embedding_size),
        "head.bias": (num_classes,),
    }
    embedding = network.resolve(layer)
    head: list[Node] = []
    if flatten:
        head.append(Node("flat_embedding", "flatten", (embedding,)))
        embedding = "flat_embedding"
    head.append(Node("unit_embedding", "l2_normalize", (embedding,)))
    head.append(Node("logits", "linear", ("unit_embedding",), {}, tuple(shapes)))
    added = {"probabilities", *(node.name for node in head)}
    if taken := added & {node.name for node in body.nodes}:
        raise ParameterError(
            f"layer {layer!r} of {network.name} cannot be the embedding, since the new classifier "
            f"has layers with the same names: {', '.join(sorted(taken))}; choose another layer"
        )
    if taken := shapes.keys() & body.parameters.keys():
        raise ParameterError(f"{network.name} has weights named {', '.join(sorted(taken))} already")
    aliases = {alias: target for alias, target in body.aliases.items() if alias not in added}
    if "embedding" not in {*aliases, *(node.name for node in body.nodes)}:
        aliases["embedding"] = embedding
    return add_probabilities(
        Network(
            name,
            (*body.nodes, *head),
            {**body.parameters, **shapes},
            aliases,
            network.input_size,
        )
    )


def add_probabilities(network: Network) -> Network:
    """Append a node: ``probabilities``, the softmax of the logits."""
    node = Node("probabilities", "softmax", (network.resolve("logits"),))
    return Network(
        network.name,
        (*network.nodes, node),
        network.parameters,
        network.aliases,
        network.input_size,
    )


def divide_logits(network: Network) -> Network:
    """Divide the logits by a temperature before the softmax.

    Parameters
    ----------
    network
        A network with ``logits`` and ``probabilities``, their softmax.

    Returns
    -------
    Network
        With a node ``scaled_logits``, the logits divided by the weight ``head.temperature`` (1,),
        of which ``probabilities`` are the softmax. The logits are unchanged.

    Raises
    ------
    ParameterError
        If the network has such a layer already.
    """
    _check_free(network, {SCALED_LOGITS})
    probabilities = network.node("probabilities")
    scaled = Node(SCALED_LOGITS, "divide", probabilities.inputs, {}, (TEMPERATURE,))
    softmax = Node("probabilities", probabilities.operation, (SCALED_LOGITS,))
    nodes: list[Node] = []
    for node in network.nodes:
        nodes += [scaled, softmax] if node is probabilities else [node]
    parameters = {**network.parameters, TEMPERATURE: (1,)}
    return Network(network.name, tuple(nodes), parameters, network.aliases, network.input_size)


def add_unknown_score(network: Network, *, num_axes: int, num_classes: int, size: int) -> Network:
    """Add a layer with the squared distance of an embedding to the nearest of some classes.

    The distance is that of Mahalanobis, with one covariance for all classes: a multiple of the
    identity, except along some axes. With a projection ``a = x @ axes.T + offset`` it is linear
    in the embedding ``x``, except for a term that all classes share. So the score is::

        scale * (max over classes of (x @ weight.T + bias) + sum of a * a)

    where ``scale`` is negative.

    Parameters
    ----------
    network
        A network whose ``logits`` are a linear layer.
    num_axes
        The number of axes.
    num_classes
        The number of classes.
    size
        The number of values of the embedding, the input of ``logits``.

    Returns
    -------
    Network
        With the layer ``unknown_score`` (1,) and the weights ``unknown.axes`` (axes, size),
        ``unknown.offset`` (axes,), ``unknown.weight`` (classes, size), ``unknown.bias``
        (classes,), ``unknown.scale`` (1, 1) and ``unknown.shift`` (1,), which is added.

    Raises
    ------
    ParameterError
        If the network has layers with these names already.
    """
    (embedding,) = network.node("logits").inputs
    shapes = {
        "unknown.axes": (num_axes, size),
        "unknown.offset": (num_axes,),
        "unknown.weight": (num_classes, size),
        "unknown.bias": (num_classes,),
        "unknown.scale": (1, 1),
        "unknown.shift": (1,),
    }
    axes, offset, weight, bias, scale, shift = shapes
    over: dict[str, Attribute] = {"axes": (1,), "keepdims": True}
    nodes = (
        Node("unknown_axes", "linear", (embedding,), {}, (axes, offset)),
        Node("unknown_squares", "multiply", ("unknown_axes", "unknown_axes")),
        Node("unknown_shared", "sum", ("unknown_squares",), over),
        Node("unknown_classes", "linear", (embedding,), {}, (weight, bias)),
        Node("unknown_nearest", "max", ("unknown_classes",), over),
        Node("unknown_similarity", "add", ("unknown_nearest", "unknown_shared")),
        Node(UNKNOWN_SCORE, "linear", ("unknown_similarity",), {}, (scale, shift)),
    )
    _check_free(network, {node.name for node in nodes})
    return Network(
        network.name,
        (*network.nodes, *nodes),
        {**network.parameters, **shapes},
        network.aliases,
        network.input_size,
    )


def _check_free(network: Network, names: set[str]) -> None:
    """Check that a network has no layers with these names."""
    if taken := names.intersection(network.layers):
        raise ParameterError(
            f"{network.name} has layers named {', '.join(sorted(taken))} already; choose another "
            "layer as the embedding"
        )


def _with_nodes(network: Network, nodes: tuple[Node, ...]) -> Network:
    """Return ``network`` with these nodes only, and without unused weights and aliases."""
    names = {node.name for node in nodes}
    used = [name for node in nodes for name in node.parameters]
    return Network(
        network.name,
        nodes,
        {name: network.parameters[name] for name in used},
        {alias: target for alias, target in network.aliases.items() if target in names},
        network.input_size,
    )
