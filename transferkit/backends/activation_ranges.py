"""Which activations of a network are quantized to 8 bits, and the measurement of their ranges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import INT8, Backend
from transferkit.backends.calibration import Calibration
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import DatasetError, NotFiniteError, UnsupportedError
from transferkit.networks.graph import INPUT, WRAPPED, Network, Node, Weights
from transferkit.networks.passes import fold_batch_norm, keep_needed

__all__ = ["calibrate", "is_clipped_at_zero", "quantized_layers"]

# What is computed with 8-bit integers where the inputs are.
_QUANTIZED = frozenset({"conv2d", "linear", "add", "multiply"})
_BEFORE_ACTIVATION = frozenset({"conv2d", "linear", "add"})
# Their outputs consist of values of their input, and have its range.
_SAME_RANGE = frozenset({"max_pool2d", "flatten"})


def calibrate(
    backend: Backend,
    network: Network,
    weights: Weights,
    batches: Iterable[npt.NDArray[np.float32]],
) -> Calibration:
    """Measure the ranges of the activations that `quantized_layers` lists.

    The lowest value of a range is the mean over the images of the lowest value in an image, and
    likewise the highest (Krishnamoorthi, 2018, "Quantizing deep convolutional networks for
    efficient inference", section 3.1.2, without the decay).

    Parameters
    ----------
    backend
        What runs the network in float32.
    network, weights
        The network and its weights.
    batches
        Pixels (n, h, w, 3), RGB, float32 in [0, 1], in batches of any size.

    Raises
    ------
    DatasetError
        If there are no images.
    NotFiniteError
        If an activation is NaN or infinite.
    UnsupportedError
        If the network is a model object of a framework, or has no layer to quantize.
    """
    if any(node.operation == WRAPPED for node in network.nodes):
        raise UnsupportedError(
            f"{network.name} is a model object of a framework, which {INT8} does not support; "
            "expected a network of this library. Quantize it with its framework"
        )
    folded, folded_weights = fold_batch_norm(network, weights, keep=())
    layers = quantized_layers(folded)
    if not layers:
        raise UnsupportedError(
            f"{network.name} has no layers to compute in {INT8}, which are those from the third "
            "dense convolution on; choose precision='float32'"
        )
    measure = backend.compile(_extremes(backend, folded, folded_weights, layers))
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for pixels in batches:
        for name, values in measure(pixels).items():
            found.setdefault(name, []).append(values)
    if not found:
        raise DatasetError("there are no images to calibrate on")
    means = {
        name: float(np.concatenate(values).mean(dtype=np.float64)) for name, values in found.items()
    }
    ranges: dict[str, tuple[float, float]] = {}
    for node in folded.nodes:
        if node.name not in layers:
            continue
        low, high = -means[f"low {node.name}"], means[f"high {node.name}"]
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NotFiniteError(
                f"layer {node.name!r} has values that are NaN or infinite; check the weights of "
                "the network"
            )
        same = node.operation in _SAME_RANGE and node.inputs[0] in ranges
        ranges[node.name] = (
            ranges[node.inputs[0]] if same else (min(low, 0.0) + 0.0, max(high, 0.0))
        )
    number = sum(map(len, found[f"high {layers[0]}"]))
    return Calibration(ranges, number)


def quantized_layers(network: Network) -> list[str]:
    """Return the layers whose outputs are quantized to 8 bits, in the order of the network.

    These are the inputs and outputs of convolutions, linear layers, sums and products. Everything
    before the third dense convolution stays in float32: errors in the few channels there reach
    all others. So do the logits, and a sum or a convolution that is followed only by a ReLU, whose
    output is quantized instead.

    Parameters
    ----------
    network
        The whole network, with its batch norms folded.
    """
    uses = Counter(name for node in network.nodes for name in node.inputs)
    by_name = {node.name: node for node in network.nodes}
    activations = {
        node.inputs[0]: node.name
        for node in network.nodes
        if is_clipped_at_zero(node)
        and uses[node.inputs[0]] == 1
        and node.inputs[0] in by_name
        and by_name[node.inputs[0]].operation in _BEFORE_ACTIVATION
    }
    logits = network.aliases.get("logits", "logits")
    found: set[str] = set()
    num_dense = 0
    for node in network.nodes:
        num_dense += node.operation == "conv2d" and node.attributes.get("groups", 1) == 1
        if (
            num_dense > 2
            and node.operation in _QUANTIZED
            and node.name != logits
            and INPUT not in node.inputs
        ):
            found |= {*node.inputs, activations.get(node.name, node.name)}
    return [node.name for node in network.nodes if node.name in found]


def is_clipped_at_zero(node: Node) -> bool:
    """Return whether a node is an activation that quantization to a range from 0 on implies."""
    return node.operation == "relu" or (
        node.operation == "clip" and node.attributes.get("low") == 0
    )


def _extremes(backend: Backend, network: Network, weights: Weights, layers: list[str]) -> Any:
    """Return a function from pixels to the extremes of each layer in each image, (n,) each.

    The entries ``low ...`` are the negative of the lowest values.
    """
    table = backend.table
    pruned = keep_needed(network, layers)
    parameters = load_parameters(table, pruned, weights)
    side = network.input_size
    shapes = infer_shapes(network, side, side)

    def function(pixels: Any) -> dict[str, Any]:
        outputs = run_network(table, pruned, parameters, pixels, layers)
        extremes = {}
        for layer in layers:
            axes = tuple(range(1, 1 + len(shapes[layer])))
            negative = table.multiply(outputs[layer], table.asarray(-1.0))
            extremes[f"low {layer}"] = table.max(negative, axes=axes)
            extremes[f"high {layer}"] = table.max(outputs[layer], axes=axes)
        return extremes

    return function
