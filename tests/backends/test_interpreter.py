"""The interpreter, compared with a network that is computed by hand.

All backends and the reference share the interpreter, so a comparison between them does not test
it.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.onnx.table import OnnxTable
from transferkit.backends.shapes import ShapeTable
from transferkit.errors import ShapeError
from transferkit.networks import INPUT, Network, NetworkBuilder, keep_needed
from transferkit.testing import ReferenceTable, reference_activations


def _network() -> Network:
    builder = NetworkBuilder("by hand", input_size=4)
    x = builder.conv2d("conv", INPUT, 3, 4, size=1, groups=1)
    x = builder.batch_norm("norm", x, 4, epsilon=0.5)
    y = builder.add_node("mean", "mean", x, axes=(1, 2), keepdims=True)
    z = builder.add_node("difference", "subtract", y, x)
    z = builder.add_node("square", "multiply", z, z)
    z = builder.add_node("joined", "concat", z, INPUT, x, axis=3)
    builder.alias("all", z)
    x = builder.add_node("embedding", "sum", z, axes=(1, 2))
    builder.linear("logits", x, 11, 2)
    return builder.build()


def _weights(network: Network) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        name: generator.uniform(0.5, 2.0, shape).astype(np.float32)
        for name, shape in network.parameters.items()
    }


def test_outputs_equal_a_computation_by_hand() -> None:
    network = _network()
    weights = _weights(network)
    pixels = np.random.default_rng(1).random((2, 4, 5, 3))
    outputs = reference_activations(network, weights, pixels, network.layers)

    conv = pixels @ weights["conv.weight"][:, :, 0, 0].T + weights["conv.bias"]
    centered = conv - weights["norm.running_mean"]
    scaled = centered / np.sqrt(weights["norm.running_var"].astype(np.float64) + 0.5)
    norm = scaled * weights["norm.weight"] + weights["norm.bias"]
    mean = norm.mean(axis=(1, 2), keepdims=True)
    joined = np.concatenate([(mean - norm) ** 2, pixels, norm], axis=3)
    embedding = joined.sum(axis=(1, 2))
    expected = {
        "conv": conv,
        "norm": norm,
        "mean": mean,
        "difference": mean - norm,
        "square": (mean - norm) ** 2,
        "joined": joined,
        "all": joined,
        "embedding": embedding,
        "logits": embedding @ weights["logits.weight"].T + weights["logits.bias"],
    }
    assert list(outputs) == list(expected)
    for layer, array in expected.items():
        np.testing.assert_allclose(outputs[layer], array, rtol=1e-9, err_msg=layer)


def test_only_requested_layers_are_returned() -> None:
    network = _network()
    table = ReferenceTable()
    parameters = load_parameters(table, network, _weights(network))
    outputs = run_network(table, network, parameters, np.zeros((1, 4, 4, 3)), ["norm", "logits"])
    assert set(outputs) == {"norm", "logits"}


def test_unneeded_weights_are_ignored() -> None:
    network = keep_needed(_network(), ["norm"])
    parameters = load_parameters(ReferenceTable(), network, _weights(_network()))
    assert set(parameters) == set(network.parameters)


def test_outputs_are_freed_after_their_last_use() -> None:
    builder = NetworkBuilder("chain", input_size=4)
    x = INPUT
    for index in range(6):
        x = builder.add_node(f"relu.{index}", "relu", x)
    network = builder.build()
    alive: list[int] = []
    outputs: list[weakref.ref[Any]] = []

    class CountingTable(ReferenceTable):
        def relu(self, x: Any) -> Any:
            gc.collect()
            alive.append(sum(reference() is not None for reference in outputs))
            y = super().relu(x)
            outputs.append(weakref.ref(y))
            return y

    run_network(CountingTable(), network, {}, np.zeros((1, 4, 4, 3)), ["relu.2", "relu.5"])
    # Each step needs the previous output; from the fourth on, relu.2 is kept as well.
    assert alive == [0, 1, 1, 1, 2, 2]


def test_shape_error_has_the_layer() -> None:
    network = _network()
    with pytest.raises(ShapeError, match=r"layer 'conv' \(conv2d\)"):
        run_network(ShapeTable(), network, network.parameters, (1, 4, 4, 5), ["logits"])


def test_only_writable_weights_are_copied() -> None:
    network = _network()
    weights = _weights(network)
    for name in ("conv.weight", "logits.weight"):
        weights[name].setflags(write=False)
    table = OnnxTable()
    for name, value in load_parameters(table, network, weights).items():
        shares = np.shares_memory(table.to_numpy(value), weights[name])
        assert shares == (name in ("conv.weight", "logits.weight")), name
