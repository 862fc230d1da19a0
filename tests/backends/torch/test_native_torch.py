"""Conversion of networks to torch.nn.Module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from samples import NETWORK, SIDE, WEIGHTS, noise, tiny_extractor
from torch import nn

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Program, get_backend
from transferkit.errors import UnsupportedError
from transferkit.models import Model
from transferkit.networks import INPUT, NetworkBuilder, Weights, build_network
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import RandomNetwork, networks, random_weights_and_statistics

Floats = npt.NDArray[np.float32]

BACKEND = get_backend("torch")


def _pixels(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _logits(native: Callable[..., object], pixels: Floats) -> Floats:
    with torch.no_grad():
        logits = native(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert isinstance(logits, torch.Tensor)
    return logits.numpy()


def _native(network: object = NETWORK, weights: Weights = WEIGHTS) -> nn.Module:
    native = BACKEND.to_native(network, weights)  # type: ignore[arg-type]
    assert isinstance(native, nn.Module)
    return native


@settings(max_examples=25)
@given(networks())
def test_logits_equal_those_of_the_network(example: RandomNetwork) -> None:
    network, weights, height, width = example
    pixels = _pixels(2, height, width)
    expected = Program(BACKEND, network, weights).run(pixels, ["logits"])["logits"]
    native = _native(network, weights).eval()
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_state_dict_has_the_names_of_the_weights(name: str) -> None:
    network = build_network(name)
    weights = random_weights_and_statistics(network, seed=1)
    native = _native(network, weights).eval()
    state = native.state_dict()
    names = {key for key in state if not key.endswith(".num_batches_tracked")}
    assert list(names ^ weights.keys()) == []
    for key, array in weights.items():
        np.testing.assert_array_equal(state[key].numpy(), array)
    pixels = _pixels(2, 65, 47)
    expected = Program(BACKEND, network, weights).run(pixels, ["logits"])["logits"]
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")


def test_statistics_are_buffers_whatever_their_names() -> None:
    builder = NetworkBuilder("renamed", input_size=SIDE)
    names = ("gamma", "beta", "mean", "var")
    x = builder.add_node(
        "norm", "batch_norm", INPUT, parameters=dict.fromkeys(names, (3,)), epsilon=0.001
    )
    builder.add_node("logits", "mean", x, axes=(1, 2))
    network = builder.build()
    native = _native(network, random_weights_and_statistics(network, seed=0))
    assert [name for name, _ in native.named_parameters()] == ["gamma", "beta"]
    assert [name for name, _ in native.named_buffers()] == ["mean", "var"]


def test_tensors_are_contiguous_whatever_the_arrays_are() -> None:
    # Weights from Keras are transposed views; safetensors cannot save tensors like these.
    weights = {name: np.asfortranarray(array) for name, array in WEIGHTS.items()}
    assert not all(array.flags.c_contiguous for array in weights.values())
    assert all(tensor.is_contiguous() for tensor in _native(NETWORK, weights).state_dict().values())


def test_state_dict_is_saved_and_loaded() -> None:
    native = _native().eval()
    file = io.BytesIO()
    torch.save(native.state_dict(), file)
    file.seek(0)
    other = _native(NETWORK, random_weights_and_statistics(NETWORK, seed=9)).eval()
    pixels = _pixels(2, SIDE, SIDE)
    assert not np.allclose(_logits(other, pixels), _logits(native, pixels))
    other.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(_logits(other, pixels), _logits(native, pixels))


def test_layers_are_those_of_pytorch() -> None:
    native = _native()
    convolution = native.get_submodule("conv1")
    assert isinstance(convolution, nn.Conv2d)
    assert (convolution.in_channels, convolution.stride, convolution.padding) == (3, (2, 2), (1, 1))
    assert isinstance(native.get_submodule("norm1"), nn.BatchNorm2d)
    assert isinstance(native.get_submodule("logits"), nn.Linear)


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11", "resnet18"])
def test_numbered_containers_can_be_sliced(name: str) -> None:
    network = build_network(name)
    native = _native(network, random_weights_and_statistics(network, seed=1))
    if name == "resnet18":
        assert isinstance(native.layer1, nn.Sequential)
        assert isinstance(native.layer2[0].downsample, nn.Sequential)
        return
    names = [key for key, _ in native.features.named_children()]
    assert isinstance(native.features[17 if name == "mobilenet_v2" else 5 :], nn.Sequential)
    assert [key for key, _ in native.features[5:].named_children()] == names[5:]
    for parameter in native.features[:-2].parameters():
        parameter.requires_grad_(False)
    assert len(list(native.features)) == len(names)
    assert isinstance(native.classifier[-1], nn.Linear)
    with pytest.raises(UnsupportedError, match="call the whole module"):
        native.features(torch.zeros(1, 3, 32, 32))


def test_module_can_be_passed_back_in() -> None:
    preprocessing = Preprocessing(
        SIDE, resize=20, interpolation="bicubic", mean=(0.4, 0.5, 0.6), channel_order="bgr"
    )
    builder = NetworkBuilder("normalized", input_size=SIDE)
    x = builder.normalize(preprocessing.mean, preprocessing.std, preprocessing.channel_order)
    x = builder.conv2d("conv", x, 3, 5, size=3)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("fc", x, 5, 3)
    builder.alias("logits", "fc")
    network = builder.build()
    weights = random_weights_and_statistics(network, seed=3)
    model = Model(network, weights, preprocessing, labels=("a", "b", "c"))
    fx = FeatureExtractor(model, backend="torch")
    again = FeatureExtractor(fx.to_native())
    images = noise(3)
    expected = fx.extract(images, ["embedding", "logits"])
    result = again.extract(images, ["embedding", "logits"])
    for layer in ("embedding", "logits"):
        assert_close(result[layer], expected[layer], ACTIVATION_TOLERANCE, layer)
    assert again.model().labels == ("a", "b", "c")
    assert again.model().preprocessing.resize == 20
    other = fx.to_native()
    other.add_module("fc", nn.Linear(5, 4))  # type: ignore[attr-defined]
    assert FeatureExtractor(other).model().labels is None


def test_training_changes_every_parameter_and_statistic() -> None:
    native = _native()
    assert native.training
    before = {name: tensor.clone() for name, tensor in native.state_dict().items()}
    optimizer = torch.optim.SGD(native.parameters(), lr=0.1)
    pixels = torch.from_numpy(_pixels(8, SIDE, SIDE)).permute(0, 3, 1, 2)
    labels = torch.arange(8) % 3
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(native(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for name, tensor in native.state_dict().items():
        assert not torch.equal(tensor, before[name]), name
    assert native.get_submodule("norm1").num_batches_tracked == 20
    # The source weights have not changed.
    np.testing.assert_array_equal(WEIGHTS["norm1.running_mean"], before["norm1.running_mean"])


def test_deep_copy_is_independent() -> None:
    native = _native().eval()
    other = copy.deepcopy(native)
    pixels = _pixels(1, SIDE, SIDE)
    before = _logits(native, pixels)
    with torch.no_grad():
        next(native.parameters()).zero_()
    np.testing.assert_array_equal(_logits(other, pixels), before)


def test_layers_can_be_replaced_and_hooked() -> None:
    native = _native().eval()
    native.add_module("logits", nn.Linear(6, 11))
    shapes = []
    native.get_submodule("conv2").register_forward_hook(lambda *call: shapes.append(call[2].shape))
    assert _logits(native, _pixels(2, SIDE, SIDE)).shape == (2, 11)
    assert shapes == [(2, 6, 3, 3)]


def test_double_precision() -> None:
    native = _native().eval().double()
    pixels = torch.from_numpy(_pixels(2, SIDE, SIDE)).permute(0, 3, 1, 2).double()
    logits = native(pixels)
    assert logits.dtype == torch.float64
    expected = _logits(_native().eval(), _pixels(2, SIDE, SIDE))
    assert_close(logits.detach().numpy(), expected, ACTIVATION_TOLERANCE, "logits")


def test_conversion_uses_no_random_numbers() -> None:
    state = torch.random.get_rng_state()
    _native()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shared_nested_and_free_parameters() -> None:
    builder = NetworkBuilder("odd", input_size=8)
    x = builder.conv2d("uneven", INPUT, 3, 3, size=3, padding=((2, 0), (0, 1)))
    x = builder.conv2d("block.conv", x, 3, 3, size=3, padding=((0, 2), (1, 0)))
    # Shared weights; a layer that contains an existing one; a scale outside any layer.
    builder.add_node(
        "again",
        "conv2d",
        x,
        parameters={"block.conv.weight": (3, 3, 3, 3)},
        stride=(2, 1),
        padding=((1, 1), (1, 1)),
        groups=1,
    )
    x = builder.batch_norm("block", "again", 3, epsilon=1e-3)
    x = builder.add_node("scaled", "multiply", x, parameters={"scale": (3,)})
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 3, 2)
    network = builder.build()
    weights = random_weights_and_statistics(network, seed=3)
    pixels = _pixels(2, 9, 8)
    native = _native(network, weights).eval()
    assert set(native.state_dict()) - {"block.num_batches_tracked"} == set(weights)
    expected = Program(BACKEND, network, weights).run(pixels, ["logits"])["logits"]
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")


def test_from_an_extractor() -> None:
    fx = tiny_extractor(backend="torch")
    native = fx.to_native()
    assert isinstance(native, nn.Module)
    native.get_parameter("conv1.weight").data.zero_()
    pixels = _pixels(2, SIDE, SIDE)
    expected = fx.extract(list(pixels), ["logits"])["logits"]
    assert_close(_logits(fx.to_native().eval(), pixels), expected, ACTIVATION_TOLERANCE, "logits")  # type: ignore[attr-defined]
