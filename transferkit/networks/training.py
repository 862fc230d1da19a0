"""Passes that prepare a network for training.

The nodes that they add have operations that only `transferkit.backends.stateless` computes, so
the networks are neither saved nor run otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from transferkit.errors import ParameterError
from transferkit.networks.graph import INPUT, Network, Node
from transferkit.networks.passes import keep_needed

__all__ = [
    "BATCH_NORM_TRAINING",
    "CONV2D_BATCH_NORM",
    "MASK",
    "MASK_PER_IMAGE",
    "add_dropout",
    "add_stochastic_depth",
    "find_cuts",
    "fuse_batch_norm",
    "replace_input",
    "update_batch_norm",
]

BATCH_NORM_TRAINING = "batch_norm_training"
"""The operation of a batch norm that normalizes by the batch in training."""

CONV2D_BATCH_NORM = "conv2d_batch_norm"
"""The operation of a convolution and the batch norm with fixed statistics after it."""

MASK = "mask"
"""The operation of a node that multiplies its input by a mask in training: dropout."""

MASK_PER_IMAGE = "mask_per_image"
"""The same with one number per image: stochastic depth."""

_MOMENTUM = 0.1


def update_batch_norm(network: Network, momentum: float = _MOMENTUM) -> Network:
    """Make all batch norms normalize by the batch and update their statistics in training.

    Parameters
    ----------
    network
        The network.
    momentum
        The weight of a batch in the running statistics, in (0, 1].
    """
    nodes = tuple(
        Node(
            node.name,
            BATCH_NORM_TRAINING,
            node.inputs,
            {**node.attributes, "momentum": momentum},
            node.parameters,
        )
        if node.operation == "batch_norm"
        else node
        for node in network.nodes
    )
    return _with_nodes(network, nodes)


def fuse_batch_norm(network: Network, keep: Collection[str]) -> Network:
    """Fuse each batch norm with fixed statistics with the convolution before it.

    The result is that of `transferkit.networks.passes.fold_batch_norm`, computed in each step
    from the parameters as they are, so that these are trained as in the network: two passes over
    the feature map less, forward and backward.

    Parameters
    ----------
    network
        The network.
    keep
        The names of nodes whose outputs are needed.
    """
    uses = Counter(name for node in network.nodes for name in node.inputs)
    by_name = {node.name: node for node in network.nodes}
    fused: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in network.nodes:
        convolution = by_name.get(node.inputs[0]) if node.operation == "batch_norm" else None
        if (
            convolution is None
            or convolution.operation != "conv2d"
            or uses[convolution.name] > 1
            or convolution.name in keep
        ):
            continue
        fused[node.name] = Node(
            node.name,
            CONV2D_BATCH_NORM,
            convolution.inputs,
            {**convolution.attributes, **node.attributes},
            (*convolution.parameters, *node.parameters),
        )
        dropped.add(convolution.name)
    nodes = tuple(fused.get(node.name, node) for node in network.nodes if node.name not in dropped)
    return _with_nodes(network, nodes)


def add_dropout(network: Network, layer: str = "logits") -> tuple[Network, str]:
    """Add dropout to the input of a layer.

    Parameters
    ----------
    network
        The network.
    layer
        The name or alias of a layer with one input.

    Returns
    -------
    network : Network
        The network with a node of operation `MASK`.
    name : str
        The name of that node, under which it takes its mask: an array of the shape of its input
        with 0 where a value is dropped, and 1 / (1 - rate) elsewhere.
    """
    target = network.node(layer)
    name = f"{target.name}.dropout"
    dropout = Node(name, MASK, target.inputs)
    nodes: list[Node] = []
    for node in network.nodes:
        if node is target:
            nodes += [
                dropout,
                Node(node.name, node.operation, (name,), node.attributes, node.parameters),
            ]
        else:
            nodes.append(node)
    return _with_nodes(network, tuple(nodes)), name


def add_stochastic_depth(network: Network) -> tuple[Network, tuple[str, ...]]:
    """Add stochastic depth to each residual branch.

    A branch is the input of an addition whose other input, the shortcut, has fewer layers (Huang
    et al., 2016, "Deep Networks with Stochastic Depth").

    Parameters
    ----------
    network
        The network.

    Returns
    -------
    network : Network
        The network with a node of operation `MASK_PER_IMAGE` after each residual branch.
    names : tuple of str
        The names of these nodes, from the first block to the last. Each takes its mask under its
        name, (n, 1, 1, 1): 0 for the images that skip the block, and 1 / probability of keeping
        it for the others.

    Raises
    ------
    ParameterError
        If the network has no residual blocks.
    """
    # The number of layers before each node along the longest path.
    depths = {INPUT: 0}
    for node in network.nodes:
        depths[node.name] = 1 + max((depths[name] for name in node.inputs), default=0)
    nodes: list[Node] = []
    names: list[str] = []
    for node in network.nodes:
        if node.operation != "add" or len(set(node.inputs)) != 2:
            nodes.append(node)
            continue
        branch = max(node.inputs, key=lambda name: depths[name])
        name = f"{node.name}.stochastic_depth"
        nodes.append(Node(name, MASK_PER_IMAGE, (branch,)))
        inputs = tuple(name if source == branch else source for source in node.inputs)
        nodes.append(Node(node.name, node.operation, inputs, node.attributes, node.parameters))
        names.append(name)
    if not names:
        raise ParameterError(
            f"stochastic_depth is given, but {network.name} has no residual blocks; leave it at 0"
        )
    return _with_nodes(network, tuple(nodes)), tuple(names)


def find_cuts(network: Network, layer: str) -> list[str]:
    """Return the layers on which everything that leads from the pixels to ``layer`` depends.

    Parameters
    ----------
    network
        The network.
    layer
        The name or alias of a layer.

    Returns
    -------
    list of str
        Names of nodes before ``layer``, from the first to the last: the activations of one of
        them are all that is needed to compute ``layer``.
    """
    target = network.resolve(layer)
    needed = keep_needed(network, [target])
    last_use = {name: index for index, node in enumerate(needed.nodes) for name in node.inputs}
    cuts: list[str] = []
    reach = last_use.get(INPUT, -1)
    for index, node in enumerate(needed.nodes[:-1]):
        # Nothing before this node is used after it.
        if reach <= index:
            cuts.append(node.name)
        reach = max(reach, last_use[node.name])
    return cuts


def replace_input(network: Network, layer: str, layers: Sequence[str]) -> Network:
    """Return the part of a network after a layer, whose output becomes the input.

    Parameters
    ----------
    network
        The network.
    layer
        One of `find_cuts`.
    layers
        Names or aliases of the layers that are needed.

    Returns
    -------
    Network
        From the output of ``layer``, in place of pixels, to ``layers``.

    Raises
    ------
    UnknownNameError
        If a layer is unknown.
    ParameterError
        If ``layers`` depend on more than the output of ``layer``.
    """
    start = network.resolve(layer)
    names = [node.name for node in network.nodes]
    later = set(names[names.index(start) + 1 :])
    nodes: list[Node] = []
    for node in keep_needed(network, layers).nodes:
        if node.name not in later:
            continue
        if not later.issuperset(set(node.inputs) - {start}):
            raise ParameterError(
                f"the input of {network.name} cannot be replaced by layer {layer!r}, since layer "
                f"{node.name!r} depends on what comes before it; choose a layer outside of branches"
            )
        inputs = tuple(INPUT if name == start else name for name in node.inputs)
        nodes.append(Node(node.name, node.operation, inputs, node.attributes, node.parameters))
    return _with_nodes(network, tuple(nodes))


def _with_nodes(network: Network, nodes: tuple[Node, ...]) -> Network:
    """Return ``network`` with these nodes, and only the parameters and aliases that they have."""
    names = {node.name for node in nodes}
    parameters: Mapping[str, tuple[int, ...]] = {
        name: network.parameters[name] for node in nodes for name in node.parameters
    }
    aliases = {alias: target for alias, target in network.aliases.items() if target in names}
    return Network(network.name, nodes, parameters, aliases, network.input_size)
