"""Any two backends against each other."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit import ImageOptimizer
from transferkit import objectives as o
from transferkit.backends import Backend, Program
from transferkit.backends.base import GRADIENTS
from transferkit.demo_data import CAT
from transferkit.networks import Network, Weights, build_network
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)
from transferkit.testing.strategies import random_statistics
from transferkit.training import Adam, GradientDescent, Optimizer
from transferkit.weights import find_weights, load_weights

Pair = tuple[Backend, Backend]
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def mobilenet() -> tuple[Network, Weights]:
    network = build_network("mobilenet_v2")
    return network, random_statistics(network, seed=1)


@pytest.fixture(scope="module")
def published() -> tuple[Network, Weights]:
    return load_weights(find_weights("mobilenet_v2"))


def _pixels(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _same_sides_of_kinks(
    programs: tuple[Program, Program], network: Network, pixels: Floats
) -> bool:
    """Whether each relu6 is on the same side of its kinks on both backends.

    Of a million units, a few are often within rounding of a kink, where the derivative jumps:
    neither backend is wrong there, and the gradients differ by those units' whole share.
    """
    clips = [node.name for node in network.nodes if node.operation == "clip"]
    first, second = (program.run(pixels, clips) for program in programs)
    return all(np.array_equal(_between(first[name]), _between(second[name])) for name in clips)


def _between(activations: Floats) -> npt.NDArray[np.bool_]:
    return (activations > 0) & (activations < 6)


def _both_have_gradients(pair: Pair) -> Pair:
    for backend in pair:
        if GRADIENTS not in backend.capabilities:
            pytest.skip(f"{backend.name} has no gradients")
    return pair


def _loss_gradient(backend: Backend, network: Network, weights: Weights) -> Any:
    table = backend.table
    load = backend.load(network, weights, ["logits"])

    def loss(x: Any) -> Any:
        return table.mean(table.log_softmax(load(x)["logits"]), axes=(0, 1))

    return backend.compile(backend.value_and_grad(loss))


def _gradients(backend: Backend, function: Any, x: Floats) -> Mapping[str, Floats]:
    found: Mapping[str, Floats] = backend.compile(backend.value_and_grad(function))(x)
    return found


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 65, 39), (2, 224, 224)])
def test_every_layer_of_mobilenet(
    backend_pair: Pair, mobilenet: tuple[Network, Weights], shape: tuple[int, ...]
) -> None:
    network, weights = mobilenet
    pixels = _pixels(*shape)
    first, second = (
        Program(backend, network, weights).run(pixels, network.layers) for backend in backend_pair
    )
    for layer in network.layers:
        assert_close(first[layer], second[layer], ACTIVATION_TOLERANCE, layer)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 65, 39), (1, 160, 128)])
def test_gradient_of_mobilenet(
    backend_pair: Pair, mobilenet: tuple[Network, Weights], shape: tuple[int, ...]
) -> None:
    network, weights = mobilenet
    gradients = []
    first, second = _both_have_gradients(backend_pair)
    programs = (Program(first, network, weights), Program(second, network, weights))
    pixels = next(
        pixels
        for seed in range(30)
        if _same_sides_of_kinks(programs, network, pixels := _pixels(*shape, seed=seed))
    )
    for backend in (first, second):
        gradients.append(_loss_gradient(backend, network, weights)(pixels)["gradient"])
    assert_close(gradients[0], gradients[1], GRADIENT_TOLERANCE, "gradient")


def test_real_photos(
    backend_pair: Pair, published: tuple[Network, Weights], photos: Floats
) -> None:
    network, weights = published
    programs = [Program(backend, network, weights) for backend in backend_pair]
    for start in range(0, len(photos), 5):
        batch = photos[start : start + 5]
        first, second = (program.run(batch, network.layers) for program in programs)
        for layer in network.layers:
            assert_close(first[layer], second[layer], ACTIVATION_TOLERANCE, layer)
        np.testing.assert_array_equal(first["logits"].argmax(1), second["logits"].argmax(1))


def test_gradient_of_real_photos(
    backend_pair: Pair, published: tuple[Network, Weights], photos: Floats
) -> None:
    network, weights = published
    first, second = _both_have_gradients(backend_pair)
    programs = (Program(first, network, weights), Program(second, network, weights))
    functions = [_loss_gradient(backend, network, weights) for backend in (first, second)]
    compared = 0
    for photo in photos[:20]:
        pixels = photo[None]
        if _same_sides_of_kinks(programs, network, pixels):
            compared += 1
            gradients = [function(pixels)["gradient"] for function in functions]
            assert_close(gradients[0], gradients[1], GRADIENT_TOLERANCE, "gradient")
    assert compared >= 3


def _in_float64(backend: Backend) -> Backend:
    """The same backend, computing in double precision."""
    framework = importlib.import_module(backend.name)
    doubled = copy.copy(backend)
    doubled.table = copy.copy(backend.table)
    doubled.table.dtype = framework.float64
    return doubled


_WANTED = [
    "zebra",
    o.Class("Siamese cat", "cross_entropy"),
    o.Channel("features.14", 7),
    o.Neuron("features.9", 3),
    o.Layer("features.10") - 0.1 * o.Class("tabby"),
    o.Direction("embedding", np.arange(1280) - 640),
]


def _first_steps(backend: Backend, **settings: Any) -> Floats:
    optimizer = ImageOptimizer("mobilenet_v2", backend=backend, seed=0, progress=False)
    regularizers = [o.TotalVariation(1e-4), o.L2(1e-3), o.DistanceToStart(1e-3)]
    return optimizer.visualize(
        _WANTED, steps=10, size=64, regularizers=regularizers, frames=0, **settings
    ).history


@pytest.mark.parametrize(
    ("parametrization", "optimizer"), [("fourier", "adam"), ("pixels", "momentum")]
)
def test_first_steps_of_ideal_images(
    backend_pair: Pair, parametrization: str, optimizer: str
) -> None:
    # In float32 a unit within rounding of its kink has another derivative, and a step at the
    # usual rate makes of that another picture within a few steps: in double precision the two
    # do the same.
    first, second = (
        _first_steps(_in_float64(backend), parametrization=parametrization, optimizer=optimizer)
        for backend in _both_have_gradients(backend_pair)
    )
    np.testing.assert_allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize(
    ("parametrization", "optimizer"),
    [("fourier", Adam(0.002)), ("pixels", GradientDescent(3e-4))],
    ids=["fourier", "pixels"],
)
def test_first_steps_from_a_photo(
    backend_pair: Pair, parametrization: str, optimizer: Optimizer
) -> None:
    first, second = (
        _first_steps(backend, start=CAT, parametrization=parametrization, optimizer=optimizer)
        for backend in _both_have_gradients(backend_pair)
    )
    assert not np.isclose(first[-1], first[0]).any()
    assert_close(first, second, 0.01, "history")


@pytest.mark.parametrize("operation", ["max_pool2d", "max", "clip", "relu", "absolute", "sign"])
def test_gradient_on_a_picture_of_few_colours(backend_pair: Pair, operation: str) -> None:
    # Overexposed and black parts of photos, and the 256 steps of a byte, make ties and values
    # exactly at a bound: no measure zero. Backends must choose the same derivative there.
    attributes: Mapping[str, Mapping[str, Any]] = {
        "max_pool2d": {"size": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))},
        "max": {"axes": (1, 2)},
        "clip": {"low": 0.0, "high": 1.0},
    }
    pixels = np.random.default_rng(0).integers(-1, 3, (2, 9, 8, 3)).astype(np.float32)
    settings = attributes.get(operation, {})
    length = (
        ReferenceTable().flatten(getattr(ReferenceTable(), operation)(pixels, **settings)).shape[1]
    )
    weights = np.random.default_rng(1).normal(size=(2, length))
    gradients = []
    for backend in _both_have_gradients(backend_pair):
        table = backend.table

        def loss(x: Any, table: Any = table) -> Any:
            y = table.flatten(getattr(table, operation)(x, **settings))
            return table.sum(table.multiply(y, table.asarray(weights)), axes=(0, 1))

        gradients.append(_gradients(backend, loss, pixels)["gradient"])
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-6)
