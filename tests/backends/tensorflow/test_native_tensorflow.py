"""Conversion of networks to keras.Model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from samples import NETWORK, SIDE, WEIGHTS, tiny_extractor

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Program, get_backend
from transferkit.errors import UnsupportedError
from transferkit.networks import INPUT, Network, NetworkBuilder, Weights, build_network
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import RandomNetwork, networks, random_weights_and_statistics

Floats = npt.NDArray[np.float32]

BACKEND = get_backend("tensorflow")


def _pixels(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _native(network: Network = NETWORK, weights: Weights = WEIGHTS) -> Any:
    native = BACKEND.to_native(network, weights)
    assert isinstance(native, keras.Model)
    return native


def _logits(native: Any, pixels: Floats) -> Floats:
    return np.asarray(native(pixels, training=False))


def _expected(network: Network, weights: Weights, pixels: Floats) -> Floats:
    return Program(BACKEND, network, weights).run(pixels, ["logits"])["logits"]


def _check_saved(native: Any, pixels: Floats, path: Path) -> None:
    native.save(path)
    loaded = keras.models.load_model(path)
    assert_close(_logits(loaded, pixels), _logits(native, pixels), 1e-6, "after saving")


@settings(max_examples=20)
@given(networks())
def test_logits_equal_those_of_the_network(example: RandomNetwork) -> None:
    network, weights, height, width = example
    pixels = _pixels(2, height, width)
    native = _native(network, weights)
    expected = _expected(network, weights, pixels)
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")


@settings(max_examples=8)
@given(networks())
def test_saved_and_loaded_by_keras(
    tmp_path_factory: pytest.TempPathFactory, example: RandomNetwork
) -> None:
    network, weights, height, width = example
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    _check_saved(_native(network, weights), _pixels(2, height, width), path)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_catalogue_networks_take_any_size(name: str, tmp_path: Path) -> None:
    network = build_network(name)
    weights = random_weights_and_statistics(network, seed=1)
    native = _native(network, weights)
    assert native.input_shape == (None, None, None, 3)
    pixels = _pixels(2, 65, 47)
    expected = _expected(network, weights, pixels)
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")
    _check_saved(native, pixels, tmp_path / "model.keras")


def test_layers_have_the_names_of_the_weights() -> None:
    native = _native()
    assert isinstance(native.get_layer("conv1"), keras.layers.Conv2D)
    assert isinstance(native.get_layer("norm1"), keras.layers.BatchNormalization)
    assert isinstance(native.get_layer("logits"), keras.layers.Dense)
    kernel = native.get_layer("conv1").kernel
    np.testing.assert_array_equal(kernel, WEIGHTS["conv1.weight"].transpose(2, 3, 1, 0))


def test_training_changes_every_variable(tmp_path: Path) -> None:
    builder = NetworkBuilder("groups", input_size=SIDE)
    x = builder.add_node("normalize", "normalize", INPUT, mean=(0.5,) * 3, std=(0.2,) * 3)
    x = builder.conv2d("conv", x, 3, 8, size=3, stride=2, padding=1, bias=False)
    x = builder.batch_norm("norm", x, 8, epsilon=1e-3)
    x = builder.conv2d("depthwise", x, 8, 8, size=3, groups=8)
    x = builder.conv2d("grouped", x, 8, 4, size=3, groups=2)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 4, 3)
    network = builder.build()
    native = _native(network, random_weights_and_statistics(network, seed=0))
    before = [np.array(variable) for variable in native.variables]
    native.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels, labels = _pixels(12, SIDE, SIDE), np.arange(12) % 3
    history = native.fit(pixels, labels, epochs=8, batch_size=12, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for variable, was in zip(native.variables[: len(before)], before, strict=True):
        assert not np.array_equal(variable, was), variable.path
    _check_saved(native, pixels, tmp_path / "trained.keras")


@pytest.mark.parametrize("channels_first", [False, True])
def test_network_of_one_size(channels_first: bool, tmp_path: Path) -> None:
    builder = NetworkBuilder("one size", input_size=SIDE)
    x = builder.conv2d("conv", INPUT, 3, 4, size=3, stride=3)
    x = builder.add_node("pooled", "adaptive_average_pool2d", x, height=3, width=2)
    x = builder.add_node("cropped", "crop", x, top=1, left=0, height=2, width=2)
    x = builder.add_node("reversed", "reverse_channels", x)
    x = builder.add_node("embedding", "flatten", x, channels_first=channels_first)
    builder.linear("logits", x, 16, 3)
    network = builder.build()
    weights = random_weights_and_statistics(network, seed=2)
    native = _native(network, weights)
    assert native.input_shape == (None, SIDE, SIDE, 3)
    pixels = _pixels(2, SIDE, SIDE)
    expected = _expected(network, weights, pixels)
    assert_close(_logits(native, pixels), expected, ACTIVATION_TOLERANCE, "logits")
    _check_saved(native, pixels, tmp_path / "model.keras")


def test_shared_weights_are_rejected() -> None:
    builder = NetworkBuilder("shared", input_size=SIDE)
    x = builder.conv2d("conv", INPUT, 3, 3, size=3)
    x = builder.add_node(
        "again",
        "conv2d",
        x,
        parameters={"conv.weight": (3, 3, 3, 3)},
        stride=(1, 1),
        padding=((0, 0), (0, 0)),
        groups=1,
    )
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 3, 2)
    network = builder.build()
    with pytest.raises(UnsupportedError, match="'conv'"):
        _native(network, random_weights_and_statistics(network, seed=0))


def test_conversion_uses_no_random_numbers() -> None:
    state = random.getstate()
    _native()
    assert random.getstate() == state


def test_from_an_extractor() -> None:
    fx = tiny_extractor(backend="tensorflow")
    pixels = _pixels(2, SIDE, SIDE)
    expected = fx.extract(list(pixels), ["logits"])["logits"]
    assert_close(_logits(fx.to_native(), pixels), expected, ACTIVATION_TOLERANCE, "logits")


@pytest.mark.parametrize("std", [0.225, 1 / 255])
def test_native_model_is_accepted_without_preprocessing(std: float) -> None:
    builder = NetworkBuilder("normalized", input_size=SIDE)
    x = builder.normalize((0.485, 0.456, 0.406), (std,) * 3)
    x = builder.conv2d("conv", x, 3, 8, size=3)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 8, 3)
    network = builder.build()
    native = _native(network, random_weights_and_statistics(network, seed=0))
    pixels = _pixels(2, SIDE, SIDE)
    fx = FeatureExtractor(native, preprocessing=Preprocessing(SIDE))
    result = fx.extract(list(pixels), ["logits"])["logits"]
    assert_close(result, _logits(native, pixels), ACTIVATION_TOLERANCE, "logits")
    # The height and width of the native model are free: 224 without preprocessing.
    assert FeatureExtractor(native).model().preprocessing == Preprocessing(224)
