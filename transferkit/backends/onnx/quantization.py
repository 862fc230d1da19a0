"""A network with 8-bit integers, recorded as an ONNX graph in ONNX Runtime's QDQ format.

Each quantized value is followed by `QuantizeLinear` and `DequantizeLinear`, as by
``onnxruntime.quantization.QDQQuantizer``. ONNX Runtime replaces an operator between them by one
over integers. Activations are unsigned, with a scale and a zero point for each layer. Weights are
signed and symmetric, with a scale for each output channel: of all formats, the fastest on CPUs with
VNNI. The instructions of other x86 CPUs add pairs of such products in 16 bits, which overflows. The
backend therefore asks ONNX Runtime for slower instructions there, so that results do not depend on
the CPU. Weights of 7 bits would not overflow, but are less accurate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.activation_ranges import is_clipped_at_zero
from transferkit.backends.calibration import Calibration
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.onnx.table import (
    OnnxTable,
    SymbolicTensor,
    dequantize,
    quantize_and_dequantize,
)
from transferkit.networks.graph import Network, Node, Weights
from transferkit.networks.passes import fold_batch_norm, keep_needed

__all__ = ["run_quantized"]

_MAX_ACTIVATION = 255
_MAX_WEIGHT = 127
# Half of the largest int32, so that the sum with the products does not overflow.
_MAX_BIAS = 2**30


def run_quantized(
    table: OnnxTable,
    network: Network,
    weights: Weights,
    calibration: Calibration,
    pixels: SymbolicTensor,
    layers: Sequence[str],
) -> tuple[dict[str, SymbolicTensor], dict[str, SymbolicTensor]]:
    """Record a network with 8-bit integers.

    The value of a layer does not depend on which others are requested. A convolution whose output
    is not quantized, because a batch norm or a ReLU follows it, is computed in float32 from
    quantized inputs if it is requested.

    Parameters
    ----------
    table
        The table that records.
    network, weights
        The network and its weights.
    calibration
        The ranges of the layers that are quantized.
    pixels
        The input, (n, h, w, 3).
    layers
        Names of nodes.

    Returns
    -------
    outputs : dict of str to SymbolicTensor
        The output of each layer, dequantized.
    parameters : dict of str to SymbolicTensor
        The constants of the graph that are weights, by name.
    """
    ranges = calibration.ranges
    folded, arrays = _prepare(network, weights, ranges, layers)
    parameters: dict[str, SymbolicTensor] = dict(load_parameters(table, folded, arrays))

    def compute(
        node: Node, inputs: list[SymbolicTensor], values: list[SymbolicTensor]
    ) -> SymbolicTensor:
        is_quantized = node.name in ranges
        if is_quantized and values and all(name in ranges for name in node.inputs):
            scale, _ = _scale_and_zero_point(*ranges[node.inputs[0]])
            values, constants = _quantize_weights(
                node.parameters, [arrays[name] for name in node.parameters], scale
            )
            parameters.update(constants)
        output = getattr(table, node.operation)(*inputs, *values, **node.attributes)
        if is_quantized:
            output = quantize_and_dequantize(output, *_scale_and_zero_point(*ranges[node.name]))
        return output  # type: ignore[no-any-return]

    outputs = run_network(table, folded, parameters, pixels, layers, compute=compute)
    return outputs, parameters


def _prepare(
    network: Network,
    weights: Weights,
    ranges: Mapping[str, tuple[float, float]],
    layers: Sequence[str],
) -> tuple[Network, Weights]:
    """Return the nodes that are needed, with batch norms and activations folded.

    What is folded depends on the ranges, and not on the layers. A requested node that is folded
    into another one is computed beside it.
    """
    folded, arrays = fold_batch_norm(network, weights, keep=ranges)
    by_name = {node.name: node for node in folded.nodes}
    nodes: list[Node] = []
    for node in network.nodes:
        if node.name not in by_name:
            nodes.append(node)
            continue
        new = by_name[node.name]
        before = by_name.get(new.inputs[0])
        # The range of its output clips the values.
        if (
            is_clipped_at_zero(new)
            and new.name in ranges
            and before is not None
            and before.name not in ranges
            and before.operation in ("conv2d", "linear", "add")
        ):
            new = Node(
                new.name, before.operation, before.inputs, before.attributes, before.parameters
            )
        nodes.append(new)
    joined = Network(
        network.name,
        tuple(nodes),
        {**network.parameters, **folded.parameters},
        network.aliases,
        network.input_size,
    )
    return keep_needed(joined, layers), {**weights, **arrays}


def _scale_and_zero_point(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return the scale and the zero point of activations in a range that includes 0."""
    # A layer may be zero everywhere.
    scale = np.float32((high - low) / _MAX_ACTIVATION) or np.float32(1)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _MAX_ACTIVATION))


def _quantize_weights(
    names: Sequence[str], arrays: Sequence[npt.NDArray[np.float32]], input_scale: np.float32
) -> tuple[list[SymbolicTensor], dict[str, SymbolicTensor]]:
    """Return a weight and possibly a bias, dequantized, and their constants by name.

    ``input_scale`` is the scale of the input; a bias has the scale of the products.
    """
    weight, *biases = arrays
    flat = weight.reshape(len(weight), -1)
    scale = np.abs(flat).max(axis=1) / _MAX_WEIGHT
    if biases:
        scale = np.maximum(scale, np.abs(biases[0]) / input_scale / _MAX_BIAS)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    integers = np.empty(flat.shape, np.int8)
    # By channel: temporary arrays of all weights would take much memory.
    for row, values, step in zip(integers, flat, scale, strict=True):
        row[:] = np.clip(np.rint(values / step), -_MAX_WEIGHT, _MAX_WEIGHT)
    quantized: list[tuple[npt.NDArray[Any], npt.NDArray[np.float32]]] = [
        (integers.reshape(weight.shape), scale)
    ]
    for bias in biases:
        bias_scale = scale * input_scale
        quantized.append((np.rint(bias / bias_scale).astype(np.int32), bias_scale))
    tensors, constants = [], {}
    for name, (values, step) in zip(names, quantized, strict=True):
        tensor = dequantize(values, step)
        tensors.append(tensor)
        for part, constant in zip((name, f"{name}.scale"), tensor.inputs, strict=False):
            # None would be an optional input of an operator that is left out.
            if constant is not None:
                constants[part] = constant
    return tensors, constants
