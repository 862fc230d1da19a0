"""Networks with 8-bit integers: close to float32, and the same in every way they can be run."""

from __future__ import annotations

import copy
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData
from samples import NETWORK, SIDE, WEIGHTS, residual_network

from transferkit.backends import Backend, Calibration, Program
from transferkit.backends.activation_ranges import calibrate, quantized_layers
from transferkit.backends.base import INT8
from transferkit.backends.onnx import backend as backend_module
from transferkit.backends.onnx.backend import OnnxRuntimeBackend
from transferkit.backends.onnx.integer_products import are_sums_exact
from transferkit.backends.onnx.quantization import run_quantized
from transferkit.backends.onnx.table import OnnxTable, placeholder, write_model
from transferkit.errors import DatasetError, NotFiniteError, UnsupportedError
from transferkit.networks import INPUT, Network, NetworkBuilder, Weights, fold_batch_norm
from transferkit.testing.strategies import random_weights_and_statistics

RESIDUAL = residual_network()
LAYERS = tuple(node.name for node in RESIDUAL.nodes)
RESIDUAL_WEIGHTS = random_weights_and_statistics(RESIDUAL, seed=1)
BACKEND = OnnxRuntimeBackend()


def _pixels(number: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return smooth images, which differ more from each other than noise does."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((number, 4, 4, 3), np.float32)
    return np.repeat(np.repeat(coarse, SIDE // 4, axis=1), SIDE // 4, axis=2)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, [_pixels(24, seed=1)])


@pytest.fixture(scope="module")
def program(calibration: Calibration) -> Program:
    return Program(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, calibration=calibration)


def _operators(
    network: Network, weights: Weights, calibration: Calibration, folder: Path
) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of the graph."""
    pixels = placeholder(4)
    outputs, parameters = run_quantized(
        OnnxTable(), network, weights, calibration, pixels, [network.resolve("embedding")]
    )
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    model = write_model({INPUT: pixels}, outputs, parameters)
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(node.op_type for node in nodes)


def test_operators_over_integers_are_used(calibration: Calibration, tmp_path: Path) -> None:
    operators = _operators(RESIDUAL, RESIDUAL_WEIGHTS, calibration, tmp_path)
    # wide, squeeze.conv, project, last; hidden; add; squeeze. The first three are in float32.
    assert operators["QLinearConv"] == 4
    assert operators["QGemm"] == 1
    assert operators["QLinearAdd"] == operators["QLinearMul"] == 1
    assert sum(operators[name] for name in ("Conv", "FusedConv")) == 3
    # The product is in the hard swish.
    assert operators["Mul"] == 1
    assert operators["Gemm"] == operators["Add"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_close_to_float32_and_not_the_same(seed: int) -> None:
    # The ranges of one image are its own extremes, so that nothing is clipped.
    pixels = _pixels(1, seed)
    calibration = calibrate(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, [pixels])
    program = Program(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, calibration=calibration)
    expected = Program(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS).run(pixels, LAYERS)
    outputs = program.run(pixels, LAYERS)
    for layer in LAYERS:
        error = outputs[layer] - expected[layer]
        assert np.linalg.norm(error) <= 0.03 * np.linalg.norm(expected[layer]), layer
    assert not np.array_equal(outputs["hidden.relu"], expected["hidden.relu"])
    # A scale and 256 values.
    assert len(np.unique(outputs["last.relu"])) <= 256
    np.testing.assert_array_equal(outputs["normalize"], expected["normalize"])


@settings(max_examples=20)
@given(st.sets(st.sampled_from(LAYERS), min_size=1))
def test_values_do_not_depend_on_the_requested_layers(program: Program, layers: set[str]) -> None:
    pixels = _pixels(2)
    together = program.run(pixels, LAYERS)
    for layer, output in program.run(pixels, sorted(layers)).items():
        np.testing.assert_array_equal(output, together[layer], err_msg=layer)


def test_values_do_not_depend_on_the_batch(program: Program) -> None:
    pixels = _pixels(5)
    together = program.run(pixels, ["embedding"])["embedding"]
    alone = [program.run(image[None], ["embedding"])["embedding"] for image in pixels]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_ranges_do_not_depend_on_the_batches(calibration: Calibration) -> None:
    pixels = _pixels(24, seed=1)
    again = calibrate(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, np.array_split(pixels, 24))
    assert again.num_images == calibration.num_images == 24
    assert again.ranges.keys() == calibration.ranges.keys()
    for name, limits in again.ranges.items():
        np.testing.assert_allclose(limits, calibration.ranges[name], rtol=1e-5, atol=1e-6)


def test_ranges_are_the_means_of_the_extremes_of_images(calibration: Calibration) -> None:
    float32 = Program(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS)
    outputs = float32.run(_pixels(24, seed=1), list(calibration.ranges))
    for name, limits in calibration.ranges.items():
        flat = outputs["add.relu" if name == "pool" else name].reshape(24, -1)
        expected = (min(flat.min(axis=1).mean(), 0), max(flat.max(axis=1).mean(), 0))
        np.testing.assert_allclose(limits, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_quantized_layers_are_those_between_integers() -> None:
    folded, _ = fold_batch_norm(RESIDUAL, RESIDUAL_WEIGHTS, keep=())
    assert quantized_layers(folded) == [
        "narrow.norm",
        "wide.norm",
        "wide.swish",
        "squeeze.mean",
        "squeeze.conv",
        "squeeze.sigmoid",
        "squeeze",
        "project.norm",
        "add.relu",
        "pool",
        "last.relu",
        "pooled",
        "hidden.relu",
    ]


def test_products_do_not_overflow_on_cpus_without_vnni() -> None:
    builder = NetworkBuilder("large", input_size=8)
    x = INPUT
    for index in range(4):
        x = builder.conv2d(f"conv{index}", x, 3 if index == 0 else 16, 16, size=1)
    builder.alias("embedding", builder.add_node("mean", "mean", x, axes=(1, 2)))
    builder.linear("logits", "mean", 16, 2)
    network = builder.build()
    # Equal weights: two neighboring products of the largest values are 64,770.
    weights = {
        name: np.full(shape, 1 / 16, np.float32) for name, shape in network.parameters.items()
    }
    pixels = np.ones((1, 8, 8, 3), np.float32)
    calibration = calibrate(BACKEND, network, weights, [pixels])
    expected = Program(BACKEND, network, weights).run(pixels, ["embedding"])["embedding"]
    found = Program(BACKEND, network, weights, calibration=calibration).run(pixels, ["embedding"])
    np.testing.assert_allclose(found["embedding"], expected, rtol=0.01)


def test_values_are_those_of_the_quantizer_of_onnx_runtime() -> None:
    builder = NetworkBuilder("chain", input_size=SIDE)
    x = builder.conv2d("conv0", INPUT, 3, 8, size=3, padding=1)
    x = builder.conv2d("conv1", x, 8, 8, size=3, padding=1)
    x = builder.conv2d("conv2", x, 8, 16, size=3, stride=2, padding=1)
    x = builder.add_node("relu2", "relu", x)
    x = builder.conv2d("conv3", x, 16, 24, size=3)
    builder.alias("embedding", builder.add_node("mean", "mean", x, axes=(1, 2)))
    builder.linear("logits", "mean", 24, 2)
    network = builder.build()
    weights = random_weights_and_statistics(network, seed=2)
    calibration = calibrate(BACKEND, network, weights, [_pixels(8, seed=3)])
    assert list(calibration.ranges) == ["conv1", "relu2", "conv3"]
    pixels = placeholder(4)
    values = Program(BACKEND, network, weights).load(["embedding"])(pixels)
    model = write_model({INPUT: pixels}, values)
    nodes = {node.op_type: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    names = (convolutions[1].output[0], nodes["Relu"].output[0], convolutions[3].output[0])
    ranges: Mapping[str, tuple[np.float32, np.float32]] = {
        name: (np.float32(low), np.float32(high))
        for name, (low, high) in zip(names, calibration.ranges.values(), strict=True)
    }
    # Of the convolution before the ReLU, whose output has the range of the ReLU.
    ranges = {**ranges, convolutions[2].output[0]: ranges[names[1]]}
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, dict(ranges)),
        nodes_to_quantize=[convolutions[2].name, nodes["Relu"].name, convolutions[3].name],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv", "Relu"],
        extra_options={},
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        quantizer.quantize_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = _pixels(8, seed=4)
    (expected,) = session.run(None, {INPUT: images})
    program = Program(BACKEND, network, weights, calibration=calibration)
    found = program.run(images, ["embedding"])["embedding"]
    scale = np.abs(expected).max()
    in_float32 = Program(BACKEND, network, weights).run(images, ["embedding"])["embedding"]
    assert np.abs(in_float32 - expected).max() > 2e-3 * scale
    np.testing.assert_allclose(found, expected, atol=5e-4 * scale)


def test_layers_of_zeros_and_channels_without_weights_are_zero() -> None:
    weights = {
        name: np.zeros_like(array) if name.startswith("wide.conv") else array
        for name, array in RESIDUAL_WEIGHTS.items()
    }
    weights["wide.norm.bias"] = np.zeros(24, np.float32)
    weights["wide.norm.running_mean"] = np.zeros(24, np.float32)
    calibration = calibrate(BACKEND, RESIDUAL, weights, [_pixels(4)])
    assert calibration.ranges["wide.norm"] == (0.0, 0.0)
    program = Program(BACKEND, RESIDUAL, weights, calibration=calibration)
    assert not program.run(_pixels(4), ["wide.norm"])["wide.norm"].any()


def test_a_large_bias_of_a_channel_with_small_weights_is_kept() -> None:
    weights = dict(RESIDUAL_WEIGHTS)
    kernel = weights["hidden.weight"].copy()
    kernel[0] *= 1e-12
    bias = weights["hidden.bias"].copy()
    bias[0] = 3.0
    weights |= {"hidden.weight": kernel, "hidden.bias": bias}
    calibration = calibrate(BACKEND, RESIDUAL, weights, [_pixels(12)])
    program = Program(BACKEND, RESIDUAL, weights, calibration=calibration)
    found = program.run(_pixels(2), ["embedding"])["embedding"][:, 0]
    np.testing.assert_allclose(found, 3.0, atol=calibration.ranges["hidden.relu"][1] / 255)


def test_plain_data_and_back(calibration: Calibration) -> None:
    again = Calibration.from_dict(calibration.to_dict())
    assert again == calibration
    assert again.digest() == calibration.digest()
    assert calibration.of_layers({"pool"}).digest() != calibration.digest()
    assert list(calibration.of_layers({"pool", "x"}).ranges) == ["pool"]


@pytest.mark.parametrize(
    "changed",
    [
        {"ranges": {"a": [0.0]}},
        {"ranges": {"a": [1.0, 2.0]}},
        {"ranges": {"a": [0.0, float("inf")]}},
        {"ranges": {"a": [float("nan"), 1.0]}},
        {"num_images": 0},
        {"num_images": "3"},
    ],
)
def test_invalid_plain_data_is_rejected(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^the (range|number)"):
        Calibration.from_dict({"ranges": {"a": [0.0, 1.0]}, "num_images": 3, **changed})


def test_networks_without_layers_to_quantize_are_rejected() -> None:
    with pytest.raises(UnsupportedError, match="tiny has no layers to compute in int8"):
        calibrate(BACKEND, NETWORK, WEIGHTS, [_pixels(2)])


def test_no_images_are_rejected() -> None:
    with pytest.raises(DatasetError, match="no images to calibrate on"):
        calibrate(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, [])


def test_values_that_are_not_finite_are_rejected() -> None:
    weights = {**RESIDUAL_WEIGHTS, "hidden.bias": np.full(16, np.nan, np.float32)}
    with pytest.raises(NotFiniteError, match=r"layer 'hidden\.relu'"):
        calibrate(BACKEND, RESIDUAL, weights, [_pixels(2)])


def test_other_backends_name_the_one_that_can(backend: Backend, calibration: Calibration) -> None:
    program = Program(backend, RESIDUAL, RESIDUAL_WEIGHTS, calibration=calibration)
    if INT8 in backend.capabilities:
        assert program.run(_pixels(1), ["embedding"])["embedding"].shape == (1, 16)
        return
    with pytest.raises(UnsupportedError, match=r"not support int8; choose .*onnxruntime"):
        program.run(_pixels(1), ["embedding"])


def test_the_slower_instructions_are_asked_for_only_where_sums_overflow() -> None:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        pytest.skip("the flags of the CPU are in a file of Linux")
    if platform.machine() != "x86_64":
        pytest.skip("only x86 CPUs have such sums")
    assert are_sums_exact() == bool(flags & {"avx512_vnni", "avx_vnni"})


def test_features_do_not_depend_on_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = calibrate(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, [_pixels(4)])
    found = []
    for is_exact in (are_sums_exact(), False):
        monkeypatch.setattr(backend_module, "are_sums_exact", lambda is_exact=is_exact: is_exact)
        program = Program(BACKEND, RESIDUAL, RESIDUAL_WEIGHTS, calibration=calibration)
        found.append(program.run(_pixels(8, seed=4), ["embedding"])["embedding"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
