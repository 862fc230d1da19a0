"""Each pair of backends, compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from double_precision import in_float64

from transferkit import ImageOptimizer
from transferkit.backends import Backend, Program
from transferkit.backends.base import GRADIENTS
from transferkit.demo import CAT
from transferkit.networks import Network, Node, Weights, build_network
from transferkit.optimization import objectives as o
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.training import Adam, NormalizedGradientDescent, Optimizer
from transferkit.weights import find_weights, load_weights

Pair = tuple[Backend, Backend]
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def mobilenet() -> tuple[Network, Weights]:
    network = build_network("mobilenet_v2")
    return network, random_weights_and_statistics(network, seed=1)


@pytest.fixture(scope="module")
def published() -> tuple[Network, Weights]:
    return load_weights(find_weights("mobilenet_v2"))


def _pixels(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _same_sides_of_kinks(
    programs: tuple[Program, Program], network: Network, pixels: Floats
) -> bool:
    """Return whether each unit is on the same side of its kinks on both backends.

    Of a million units, a few are often so close to a kink that rounding decides the side. The
    derivative differs between the sides, so the gradients differ although both are correct.
    """
    kinked = [node for node in network.nodes if node.operation in _SIDES_OF_KINKS]
    inputs = [node.inputs[0] for node in kinked]
    first, second = (program.run(pixels, inputs) for program in programs)
    return all(
        np.array_equal(_sides(node, first[name]), _sides(node, second[name]))
        for node, name in zip(kinked, inputs, strict=True)
    )


def _sides(node: Node, x: Floats) -> npt.NDArray[Any]:
    return _SIDES_OF_KINKS[node.operation](x, node.attributes)


def _winners(x: Floats, attributes: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return, for each position in a pooling window, the windows with their maximum there."""
    table = ReferenceTable(np.float32)
    largest = table.max_pool2d(x, **attributes)
    _, h, w, _ = largest.shape
    padded = table.pad(x, padding=attributes["padding"], value=-np.inf)
    (rows, columns), (down, right) = attributes["size"], attributes["stride"]
    return np.stack(
        [
            padded[:, row::down, column::right][:, :h, :w] == largest
            for row in range(rows)
            for column in range(columns)
        ]
    )


_SIDES_OF_KINKS: Mapping[str, Callable[[Floats, Mapping[str, Any]], npt.NDArray[Any]]] = {
    "relu": lambda x, _: x > 0,
    "clip": lambda x, attributes: np.digitize(x, [attributes["low"], attributes["high"]]),
    "hard_sigmoid": lambda x, _: np.digitize(x, [-3, 3]),
    "hard_swish": lambda x, _: np.digitize(x, [-3, 3]),
    "max_pool2d": _winners,
}


def _both_have_gradients(pair: Pair) -> Pair:
    for backend in pair:
        if GRADIENTS not in backend.capabilities:
            pytest.skip(f"{backend.name} has no gradients")
    return pair


def _loss_gradient(backend: Backend, network: Network, weights: Weights) -> Any:
    table = backend.table
    load = Program(backend, network, weights).load(["logits"])

    def loss(x: Any) -> Any:
        return table.mean(table.log_softmax(load(x)["logits"]), axes=(0, 1))

    return backend.compile(backend.value_and_grad(loss))


def _gradient(backend: Backend, function: Any, x: Floats) -> Floats:
    results: Mapping[str, Floats] = backend.compile(backend.value_and_grad(function))(x)
    return results["gradient"]


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 65, 39), (2, 224, 224)])
def test_all_layers_of_mobilenet_agree(
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
def test_gradients_of_mobilenet_agree(
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


# A network of each family and variant, with the size of the images: small, and neither square nor
# even where possible.
_FAMILIES = (
    ("vgg11", "torchvision", (1, 32, 47)),
    ("vgg11_bn", "torchvision", (1, 32, 47)),
    ("vgg16", "keras", (1, 224, 224)),
    ("resnet18", "torchvision", (1, 33, 47)),
    ("resnet50", "torchvision", (1, 33, 47)),
    ("resnet50", "keras", (1, 33, 40)),
    ("mobilenet_v1_025", "keras", (1, 33, 47)),
    ("mobilenet_v2", "keras", (1, 33, 47)),
    ("mobilenet_v3_small", "torchvision", (1, 33, 47)),
    ("mobilenet_v3_small", "keras", (1, 33, 47)),
    ("mobilenet_v3_large", "torchvision", (1, 33, 47)),
    ("mobilenet_v3_large", "keras", (1, 33, 47)),
)


class _Member(NamedTuple):
    network: Network
    weights: Weights
    shape: tuple[int, int, int]


@pytest.fixture(scope="module", params=_FAMILIES, ids=lambda row: f"{row[0]}-{row[1]}")
def member(request: pytest.FixtureRequest) -> _Member:
    name, variant, shape = request.param
    network = build_network(
        name, variant=variant, channel_order="bgr" if variant == "keras" else "rgb"
    )
    return _Member(network, random_weights_and_statistics(network, seed=1), shape)


def test_layers_of_family_agree(backend_pair: Pair, member: _Member) -> None:
    network, weights, shape = member
    pixels = _pixels(*shape)
    # All layers, and then only two, so that other nodes are removed and folded.
    few = ("embedding", "logits")
    # For large images, one run with few layers, to save time.
    is_large = shape[1:] == (224, 224)
    for layers in [("features", "flatten", *few)] if is_large else [network.layers, few]:
        first, second = (
            Program(backend, network, weights).run(pixels, layers) for backend in backend_pair
        )
        for layer in layers:
            assert_close(first[layer], second[layer], ACTIVATION_TOLERANCE, layer)


def test_gradients_of_family_agree(backend_pair: Pair, member: _Member) -> None:
    network, weights, shape = member
    first, second = _both_have_gradients(backend_pair)
    programs = (Program(first, network, weights), Program(second, network, weights))
    # In a large image of one color, units have fewer different values: fewer are close to a kink.
    random_shape = (1, 1, 1) if shape[1:] == (224, 224) else shape
    pixels = next(
        pixels
        for seed in range(60)
        if _same_sides_of_kinks(
            programs,
            network,
            pixels := np.broadcast_to(_pixels(*random_shape, seed=seed), (*shape, 3)).copy(),
        )
    )
    actual, expected = (
        _loss_gradient(backend, network, weights)(pixels)["gradient"] for backend in (first, second)
    )
    assert_close(actual, expected, GRADIENT_TOLERANCE, "gradient")


def test_all_layers_agree_on_photos(
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


def test_gradients_agree_on_photos(
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


_OBJECTIVES = [
    "zebra",
    o.Class("Siamese cat", "cross_entropy"),
    o.Channel("features.14", 7),
    o.Neuron("features.9", 3),
    o.Layer("features.10") - 0.1 * o.Class("tabby"),
    o.Direction("embedding", np.arange(1280) - 640),
]


def _first_steps(backend: Backend, size: int, **settings: Any) -> Floats:
    optimizer = ImageOptimizer("mobilenet_v2", backend=backend, random_state=0, progress=False)
    regularizers = [o.TotalVariation(1e-4), o.L2(1e-3), o.DistanceToStart(1e-3)]
    return optimizer.visualize(
        _OBJECTIVES, steps=10, size=size, regularizers=regularizers, frames=0, **settings
    ).history


@pytest.mark.parametrize(
    ("parametrization", "optimizer"), [("fourier", "adam"), ("pixels", "normalized_momentum")]
)
def test_first_steps_of_visualization_agree(
    backend_pair: Pair, parametrization: str, optimizer: str
) -> None:
    # In float32, rounding changes the derivatives of units close to a kink, and with the usual
    # learning rate the images differ after a few steps. In float64 they agree. The images are small
    # because convolutions of PyTorch in float64 are slow.
    first, second = (
        _first_steps(in_float64(backend), 32, parametrization=parametrization, optimizer=optimizer)
        for backend in _both_have_gradients(backend_pair)
    )
    np.testing.assert_allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize(
    ("parametrization", "optimizer"),
    [("fourier", Adam(0.002)), ("pixels", NormalizedGradientDescent(3e-4))],
    ids=["fourier", "pixels"],
)
def test_first_steps_from_a_photo_agree(
    backend_pair: Pair, parametrization: str, optimizer: Optimizer
) -> None:
    first, second = (
        _first_steps(backend, 64, start=CAT, parametrization=parametrization, optimizer=optimizer)
        for backend in _both_have_gradients(backend_pair)
    )
    assert not np.isclose(first[-1], first[0]).any()
    assert_close(first, second, 0.01, "history")


@pytest.mark.parametrize("operation", ["max_pool2d", "max", "clip", "relu", "absolute", "sign"])
def test_gradients_of_ties_and_bounds_agree(backend_pair: Pair, operation: str) -> None:
    # Ties and values exactly at a bound are common: in overexposed and black parts of photos, and
    # because 8-bit images have only 256 values. Backends have to choose the same derivative.
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

        gradients.append(_gradient(backend, loss, pixels))
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-6)
