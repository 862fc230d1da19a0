"""Mapping of the layers of Keras's networks to transferkit's parameters.

Networks here have torchvision's layer names, also in the variant for Keras's weights. So each
family has a rule with the names of its layers in ``keras.applications``. A rule for all families
transposes arrays to torchvision's axis order.
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

# The names of the last layer in the files of different versions of Keras.
_CLASSIFIERS = frozenset({"predictions", "probs", "logits", "fc1000", "conv_preds"})
# The names of groups in a file that does not contain the names of the layers.
_GROUP = re.compile(r"(conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(\d+))?")


def rename_keras(layers: KerasLayers, network: Network) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays of Keras's layers under the names of a network's parameters.

    Parameters
    ----------
    layers
        From `read_keras`. If all names consist of class and position (``conv2d_3``), as in
        ``.weights.h5`` files of early versions of Keras 3, layers are matched by position.
    network
        A network of `transferkit.networks.NETWORKS` in Keras's variant.

    Returns
    -------
    dict of str to array
        Views in the shapes of the parameters. Arrays that the network has no parameter for
        keep Keras's name, so that `transferkit.weights.files.check_weights` can list them.

    Raises
    ------
    FileFormatError
        If Keras does not have the network's family.
    """
    nodes = {name.lower(): node for name, node in _named_nodes(network)}
    last = next(reversed(nodes.values()))
    if layers and all(_GROUP.fullmatch(name) for name in layers):
        nodes = _by_position(nodes)
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer, values in layers.items():
        # Keras has renamed its layers between versions.
        name = layer.lower().replace("/", "_").replace("batchnorm", "bn")
        node = nodes.get(name, last if name in _CLASSIFIERS else None)
        parameters = node.parameters if node is not None else ()
        for index, value in enumerate(values):
            if node is None or index >= len(parameters):
                arrays[f"{layer}/{index}"] = value
            else:
                arrays[parameters[index]] = _transposed(value, node)
    return arrays


def keras_layer_names(network: Network) -> dict[str, str]:
    """Return the names that a network's layers with weights have in ``keras.applications``.

    Parameters
    ----------
    network
        A network of `transferkit.networks.NETWORKS` in Keras's variant.

    Returns
    -------
    dict of str to str
        The name in Keras 3 to the name of the node, in the order of Keras's layers.

    Raises
    ------
    FileFormatError
        If Keras does not have the network's family.

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
            f"Keras does not publish {network.name!r}; expected a network named {known}"
        )
    return list(rule(network))


def _by_position(nodes: dict[str, Node]) -> dict[str, Node]:
    """Return the nodes under the names of their groups: class, and position within the class."""
    found: dict[str, Node] = {}
    counts: dict[str, int] = {}
    for name, node in nodes.items():
        if node.operation == "batch_norm":
            kind = "batch_normalization"
        elif node.operation == "linear":
            # Some are 1 x 1 convolutions of the single remaining pixel in Keras.
            kind = "conv2d" if name in {"conv_preds", "conv_2", "logits"} else "dense"
        else:
            kind = "depthwise_conv2d" if _is_depthwise(node) else "conv2d"
        number = counts[kind] = counts.get(kind, -1) + 1
        found[f"{kind}_{number}" if number else kind] = node
    return found


def _is_depthwise(node: Node) -> bool:
    return node.attributes.get("groups", 1) != 1


def _transposed(array: npt.NDArray[np.float32], node: Node) -> npt.NDArray[np.float32]:
    """Return a Keras array in torchvision's axis order: outputs, inputs, rows, columns."""
    if array.ndim == 4 and node.operation == "conv2d":
        # (h, w, in, out), or (h, w, in, 1) for a depthwise kernel.
        return array.transpose(2, 3, 0, 1) if _is_depthwise(node) else array.transpose(3, 2, 0, 1)
    if array.ndim == 4 and node.operation == "linear" and array.shape[:2] == (1, 1):
        return array.transpose(3, 2, 0, 1)[:, :, 0, 0]
    return array.transpose(1, 0) if array.ndim == 2 else array


# --------------------------------------------------------------------- the rules of the families


def _with_weights(network: Network) -> Iterator[Node]:
    return (node for node in network.nodes if node.parameters)


def _vgg(network: Network) -> Iterator[tuple[str, Node]]:
    """Yield ``block1_conv1``, with the numbers of stage and convolution; then ``fc1``, ``fc2``."""
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
    """Return ``conv2_block1_0_bn``: stage from 2, block from 1, convolution (0: shortcut)."""
    rows: list[tuple[tuple[float, ...], str, Node]] = []
    for node in _with_weights(network):
        kind = "bn" if node.operation == "batch_norm" else "conv"
        found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:downsample\.\d|(?:conv|bn)(\d))", node.name)
        if found is not None:
            stage, block, place = (int(number or 0) for number in found.groups())
            # In Keras the shortcut comes before the last convolution of its block.
            order = (stage, block, place or 2.5)
            rows.append((order, f"conv{stage + 1}_block{block + 1}_{place}_{kind}", node))
        elif node.name == "fc":
            rows.append(((math.inf,), "predictions", node))
        else:
            rows.append(((0,), f"conv1_{kind}", node))
    return ((name, node) for _, name, node in sorted(rows, key=lambda row: row[0]))


def _mobilenet_v1(network: Network) -> Iterator[tuple[str, Node]]:
    """Return the names unchanged; the network uses Keras's."""
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
    """Yield ``block_1_depthwise_BN``: the block, without a number for the first, and the part."""
    nodes = list(_with_weights(network))
    yield from zip(first, nodes, strict=False)
    block_number = part = ""
    for node in nodes[len(first) : -len(last)]:
        number = node.name.split(".")[1]
        if number != block_number:
            block_number, part = number, ""
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
"""The beginning of a network's name, and the rule of its family."""
