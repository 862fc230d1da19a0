"""The ONNX graphs that are written for primitives and networks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings

from transferkit.backends import Program
from transferkit.backends.base import OPERATIONS
from transferkit.backends.onnx.backend import OnnxRuntimeBackend
from transferkit.backends.onnx.table import (
    OnnxTable,
    placeholder,
    write_model,
    write_model_and_arrays,
)
from transferkit.errors import ArgumentTypeError
from transferkit.networks import Network, Weights, build_network
from transferkit.testing.strategies import (
    PRIMITIVE_CALLS,
    PrimitiveCall,
    RandomNetwork,
    networks,
    random_weights_and_statistics,
)


def _model(network: Network, weights: Weights, layers: Sequence[str]) -> onnx.ModelProto:
    pixels = placeholder(4)
    outputs = Program(OnnxRuntimeBackend(), network, weights).load(layers)(pixels)
    return write_model({"pixels": pixels}, outputs)


def _counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(scope="module")
def mobilenet() -> tuple[Network, Weights]:
    network = build_network("mobilenet_v2")
    return network, random_weights_and_statistics(network, seed=0)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_models_of_all_primitives_are_valid(operation: str) -> None:
    @settings(max_examples=10)
    @given(PRIMITIVE_CALLS[operation])
    def is_valid(call: PrimitiveCall) -> None:
        inputs = [placeholder(array.ndim) for array in call.arrays]
        names = {f"input_{index}": value for index, value in enumerate(inputs)}
        model = write_model(names, {"output": call.run(OnnxTable(), *inputs)})
        onnx.checker.check_model(model, full_check=True)

    is_valid()


@settings(max_examples=15)
@given(networks())
def test_models_of_random_networks_are_valid(drawn: RandomNetwork) -> None:
    model = _model(drawn.network, drawn.weights, drawn.network.layers)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == list(drawn.network.layers)


def test_model_of_mobilenet_is_valid(mobilenet: tuple[Network, Weights]) -> None:
    for layers in (["embedding", "logits"], mobilenet[0].layers):
        onnx.checker.check_model(_model(*mobilenet, layers), full_check=True)


def test_only_inputs_and_outputs_are_transposed(mobilenet: tuple[Network, Weights]) -> None:
    counts = _counts(_model(*mobilenet, ["embedding", "logits"]))
    assert counts["Transpose"] == 1
    # One more for each feature map among the outputs.
    counts = _counts(_model(*mobilenet, ["features.6", "features.18", "logits"]))
    assert counts["Transpose"] == 3


def test_batch_norm_is_folded_into_convolutions(mobilenet: tuple[Network, Weights]) -> None:
    counts = _counts(_model(*mobilenet, ["logits"]))
    assert counts["BatchNormalization"] == 0
    assert counts["Conv"] == 52


def test_equal_nodes_are_written_once() -> None:
    table = OnnxTable()
    x = placeholder(4)
    outputs = {
        str(index): table.flatten(
            table.max_pool2d(x, size=(2, 2), stride=(1, 1), padding=((0, 0), (0, 0)))
        )
        for index in range(3)
    }
    counts = _counts(write_model({"x": x}, outputs))
    assert counts["MaxPool"] == 1
    assert counts["Transpose"] == 2


def test_batch_size_and_image_size_are_dynamic(mobilenet: tuple[Network, Weights]) -> None:
    model = _model(*mobilenet, ["embedding"])
    (pixels,) = model.graph.input
    assert [dimension.HasField("dim_value") for dimension in pixels.type.tensor_type.shape.dim] == [
        False
    ] * 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for shape in [(1, 32, 32, 3), (3, 50, 41, 3)]:
        (embedding,) = session.run(None, {"pixels": np.zeros(shape, np.float32)})
        assert embedding.shape == (shape[0], 1280)


def test_a_symbolic_tensor_has_no_values() -> None:
    table = OnnxTable()
    with pytest.raises(ArgumentTypeError, match="until its graph is run"):
        table.to_numpy(table.relu(placeholder(2)))


def test_large_constants_can_be_left_out_of_the_model(mobilenet: tuple[Network, Weights]) -> None:
    pixels = placeholder(4)
    outputs = Program(OnnxRuntimeBackend(), *mobilenet).load(["logits"])(pixels)
    model, arrays = write_model_and_arrays({"pixels": pixels}, outputs)
    assert model.ByteSize() < 100_000
    whole = write_model({"pixels": pixels}, outputs)
    for tensor in whole.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        assert (tensor.name in arrays) == (array.nbytes > 1024)
        np.testing.assert_array_equal(arrays.get(tensor.name, array), array)


def test_large_constants_are_aligned() -> None:
    memory = np.zeros(4 * 512 + 1, np.uint8)
    array = memory[1:].view(np.float32)
    assert not array.flags.aligned
    x = placeholder(1)
    total = OnnxTable().add(x, OnnxTable().asarray(array))
    _, arrays = write_model_and_arrays({"x": x}, {"y": total})
    assert [array.flags.aligned for array in arrays.values()] == [True]


def test_names_in_a_graph_are_unique() -> None:
    table = OnnxTable()
    pixels = placeholder(4)
    scale = table.asarray([1.0, 2.0, 3.0])
    value = table.multiply(pixels, scale)
    outputs = dict.fromkeys(("scale", "Mul_0", "constant_0"), value)
    model = write_model({"pixels": pixels}, outputs, {"scale": scale})
    onnx.checker.check_model(model, full_check=True)
    (initializer,) = (
        tensor for tensor in model.graph.initializer if tensor.name.startswith("scale")
    )
    assert initializer.name != "scale"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists the threads of Linux")
def test_the_number_of_threads_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("mobilenet_v2")
    weights = random_weights_and_statistics(network, seed=0)
    for number in (1, 5):
        monkeypatch.setenv("OMP_NUM_THREADS", str(number))
        before = len(os.listdir("/proc/self/task"))
        program = Program(OnnxRuntimeBackend(), network, weights)
        program.run(np.zeros((1, 64, 64, 3), np.float32), ["embedding"])
        # One of them is this thread.
        assert len(os.listdir("/proc/self/task")) - before == number - 1
