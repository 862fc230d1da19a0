"""From the layers of Keras's networks to transferkit's parameters.

A network here has torchvision's names, in the variant that Keras's weights are for too. So for
each family there is a rule that tells what ``keras.applications`` calls the layers of a
network, and one for all families that turns arrays into torchvision's order of axes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.networks.graph import Network, Node
from transferkit.weights.keras_file import KerasLayers

__all__ = ["keras_layer_names", "rename_keras"]

# What versions of Keras have called the last layer, which one file calls so, another so.
_CLASSIFIERS = frozenset({"predictions", "probs", "logits", "fc1000", "conv_preds"})
# The names that Keras gives the groups of layers in a file that does not say what they are called.
_GROUP = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(\d+))?")


def rename_keras(layers: KerasLayers, network: Network) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of Keras's layers under the names and in the shapes of a network's parameters.

    Parameters
    ----------
    layers
        From `read_keras`. Where they are called after their class and place (``conv2d_3``), as
        in a ``.weights.h5`` of an early Keras 3, it is the place that counts.
    network
        Of `transferkit.networks.NETWORKS`, in Keras's variant.

    Returns
    -------
    dict of str to array
        Views. What the network has no place for keeps Keras's name, so that
        `transferkit.weights.files.check_weights` can list it.

    Raises
    ------
    FileFormatError
        If the network is of a family that Keras has not.
    """
    nodes = {name.lower(): node for name, node in _named_nodes(network)}
    last = next(reversed(nodes.values()))
    by_place = bool(layers) and all(_GROUP.fullmatch(name) for name in layers)
    if by_place:
        nodes = _by_place(nodes)
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer, values in layers.items():
        # As Keras itself has renamed its layers from one version to the next.
        name = layer.lower().replace("/", "_").replace("batchnorm", "bn")
        node = nodes.get(name, last if name in _CLASSIFIERS else None)
        parameters = node.parameters if node is not None else ()
        for index, value in enumerate(values):
            if node is None or index >= len(parameters):
                arrays[f"{layer}/{index}"] = value
            else:
                arrays[parameters[index]] = _turned(value, node)
    return arrays


def keras_layer_names(network: Network) -> dict[str, str]:
    """What ``keras.applications`` calls the layers with weights of a network.

    Parameters
    ----------
    network
        Of `transferkit.networks.NETWORKS`, in Keras's variant.

    Returns
    -------
    dict of str to str
        Keras's name, of Keras 3, to the node's, in the order of Keras's layers.

    Raises
    ------
    FileFormatError
        If the network is of a family that Keras has not.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> from transferkit.weights.keras_names import keras_layer_names
    >>> names = keras_layer_names(build_network("resnet50", variant="keras"))
    >>> names["conv2_block1_0_bn"]
    'layer1.0.downsample.1'
    """
    return {name: node.name for name, node in _named_nodes(network)}


def _named_nodes(network: Network) -> list[tuple[str, Node]]:
    rule = next((rule for start, rule in _RULES if network.name.startswith(start)), None)
    if rule is None:
        known = ", ".join(f"{start}..." for start, _ in _RULES)
        raise FileFormatError(
            f"Keras publishes no network {network.name!r}; files of Keras are read for: {known}"
        )
    return list(rule(network))


def _by_place(nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes under the names of their groups: their class, and the place among its like."""
    found: dict[str, Node] = {}
    counts: dict[str, int] = {}
    for name, node in nodes.items():
        if node.operation == "batch_norm":
            kind = "batch_normalization"
        elif node.operation == "linear":
            # What Keras has as convolutions over the one pixel that is left.
            kind = "conv2d" if name in {"conv_preds", "conv_2", "logits"} else "dense"
        else:
            kind = "depthwise_conv2d" if _is_depthwise(node) else "conv2d"
        number = counts[kind] = counts.get(kind, -1) + 1
        found[f"{kind}_{number}" if number else kind] = node
    return found


def _is_depthwise(node: Node) -> bool:
    return node.attributes.get("groups", 1) != 1


def _turned(array: npt.NDArray[np.float32], node: Node) -> npt.NDArray[np.float32]:
    """An array of Keras with its axes in torchvision's order: outputs, inputs, rows, columns."""
    if array.ndim == 4 and node.operation == "conv2d":
        # (h, w, in, out), or of a depthwise kernel (h, w, in, 1).
        return array.transpose(2, 3, 0, 1) if _is_depthwise(node) else array.transpose(3, 2, 0, 1)
    if array.ndim == 4 and node.operation == "linear" and array.shape[:2] == (1, 1):
        return array.transpose(3, 2, 0, 1)[:, :, 0, 0]
    return array.transpose(1, 0) if array.ndim == 2 else array


# --------------------------------------------------------------------- the rules of the families


def _with_weights(network: Network) -> Iterator[Node]:
    return (node for node in network.nodes if node.parameters)


def _vgg(network: Network) -> Iterator[tuple[str, Node]]:
    """``block1_conv1``: the pool's number and the convolution's; then ``fc1``, ``fc2``."""
    linear = iter(("fc1", "fc2", "predictions"))
    block, place = 1, 0
    for node in network.nodes:
        if node.operation == "max_pool2d":
            block, place = block + 1, 0
        elif node.operation == "conv2d":
            place += 1
            yield f"block{block}_conv{place}", node
        elif node.operation == "linear":
            yield next(linear), node


def _resnet(network: Network) -> Iterator[tuple[str, Node]]:
    """``conv2_block1_0_bn``: stage from 2, block from 1, convolution, 0 being the shortcut's."""
    rows: list[tuple[tuple[float, ...], str, Node]] = []
    for node in _with_weights(network):
        kind = "bn" if node.operation == "batch_norm" else "conv"
        found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:downsample\.\d|(?:conv|bn)(\d))", node.name)
        if found is not None:
            stage, block, place = (int(number or 0) for number in found.groups())
            # Keras has the shortcut before the last convolution of its block.
            order = (stage, block, place or 2.5)
            rows.append((order, f"conv{stage + 1}_block{block + 1}_{place}_{kind}", node))
        elif node.name == "fc":
            rows.append(((math.inf,), "predictions", node))
        else:
            rows.append(((0,), f"conv1_{kind}", node))
    return ((name, node) for _, name, node in sorted(rows, key=lambda row: row[0]))


def _mobilenet_v1(network: Network) -> Iterator[tuple[str, Node]]:
    """The names are Keras's."""
    return ((node.name, node) for node in _with_weights(network))


def _mobilenet_v2(network: Network) -> Iterator[tuple[str, Node]]:
    return _inverted_residuals(
        network,
        first=("Conv1", "bn_Conv1"),
        block="block_{}",
        norm="_BN",
        last=("Conv_1", "Conv_1_bn", "predictions"),
    )


def _mobilenet_v3(network: Network) -> Iterator[tuple[str, Node]]:
    return _inverted_residuals(
        network,
        first=("conv", "conv_bn"),
        block="expanded_conv_{}",
        norm="_bn",
        last=("conv_1", "conv_1_bn", "conv_2", "logits"),
    )


def _inverted_residuals(
    network: Network, *, first: tuple[str, ...], block: str, norm: str, last: tuple[str, ...]
) -> Iterator[tuple[str, Node]]:
    """``block_1_depthwise_BN``: the block from 0, whose number is left out, and the part."""
    nodes = list(_with_weights(network))
    yield from zip(first, nodes, strict=False)
    seen = part = ""
    for node in nodes[len(first) : -len(last)]:
        number = node.name.split(".")[1]
        if number != seen:
            seen, part = number, ""
        if node.operation == "batch_norm":
            suffix = part + norm
        elif node.name.endswith((".fc1", ".fc2")):
            suffix = "squeeze_excite_conv" + ("" if node.name.endswith("1") else "_1")
        else:
            plain = "project" if part else "expand"
            suffix = part = "depthwise" if _is_depthwise(node) else plain
        prefix = block.format(int(number) - 1) if number != "1" else "expanded_conv"
        yield f"{prefix}_{suffix}", node
    yield from zip(last, nodes[-len(last) :], strict=True)


_RULES: tuple[tuple[str, Callable[[Network], Iterator[tuple[str, Node]]]], ...] = (
    ("vgg", _vgg),
    ("resnet", _resnet),
    ("mobilenet_v1", _mobilenet_v1),
    ("mobilenet_v2", _mobilenet_v2),
    ("mobilenet_v3", _mobilenet_v3),
)
"""What a network's name begins with, and the rule of its family."""
