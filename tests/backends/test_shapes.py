"""Inferred shapes, compared with the shapes of computed activations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.shapes import ShapeTable, infer_shapes
from transferkit.errors import ShapeError
from transferkit.networks import INPUT, NetworkBuilder, build_network, random_weights
from transferkit.testing import ReferenceTable, reference_activations
from transferkit.testing.strategies import (
    PRIMITIVE_CALLS,
    PrimitiveCall,
    RandomNetwork,
    networks,
)


@pytest.mark.parametrize("operation", sorted(PRIMITIVE_CALLS))
def test_shapes_of_all_primitives_agree_with_the_reference(operation: str) -> None:
    @given(PRIMITIVE_CALLS[operation])
    def agrees_with_reference(call: PrimitiveCall) -> None:
        reference, shapes = ReferenceTable(), ShapeTable()
        expected = call.run(reference, *map(reference.asarray, call.arrays))
        assert call.run(shapes, *map(shapes.asarray, call.arrays)) == np.shape(expected)

    agrees_with_reference()


@given(networks(st.integers(8, 60)))
def test_shapes_of_random_networks_agree_with_the_reference(drawn: RandomNetwork) -> None:
    network = drawn.network
    pixels = np.zeros((2, drawn.height, drawn.width, 3))
    activations = reference_activations(network, drawn.weights, pixels, network.layers)
    shapes = infer_shapes(network, drawn.height, drawn.width)
    assert list(shapes) == list(network.layers)
    assert dict(shapes) == {layer: array.shape[1:] for layer, array in activations.items()}
    # With the batch axis, which infer_shapes leaves out.
    table = ShapeTable()
    pixels_shape = (2, drawn.height, drawn.width, 3)
    parameters = load_parameters(table, network, drawn.weights)
    outputs = run_network(table, network, parameters, pixels_shape, ["embedding"])
    assert outputs["embedding"] == activations["embedding"].shape


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 129)])
def test_shapes_of_mobilenet_agree_with_the_reference(height: int, width: int) -> None:
    network = build_network("mobilenet_v2")
    weights = random_weights(network, random_state=0)
    pixels = np.zeros((1, height, width, 3))
    activations = reference_activations(network, weights, pixels, network.layers)
    shapes = infer_shapes(network, height, width)
    assert dict(shapes) == {layer: array.shape[1:] for layer, array in activations.items()}


def test_shapes_of_mobilenet_equal_those_of_the_paper() -> None:
    network = build_network("mobilenet_v2")
    shapes = infer_shapes(network, network.input_size, network.input_size)
    # Table 2 of the paper; each of these layers is the last of a stage.
    table = {
        "features.0": (112, 112, 32),
        "features.1": (112, 112, 16),
        "features.3": (56, 56, 24),
        "features.6": (28, 28, 32),
        "features.10": (14, 14, 64),
        "features.13": (14, 14, 96),
        "features.16": (7, 7, 160),
        "features.17": (7, 7, 320),
        "features": (7, 7, 1280),
        "embedding": (1280,),
        "logits": (1000,),
    }
    assert {layer: shapes[layer] for layer in table} == table


def test_error_for_a_too_small_image_has_the_layer() -> None:
    builder = NetworkBuilder("narrow", input_size=32)
    x = builder.conv2d("stem", INPUT, 3, 4, size=3)
    x = builder.add_node("pool", "average_pool2d", x, size=(4, 4), stride=(4, 4))
    builder.add_node("embedding", "mean", x, axes=(1, 2))
    network = builder.build()
    assert infer_shapes(network, 6, 9)["pool"] == (1, 1, 4)
    with pytest.raises(
        ShapeError, match=r"narrow does not accept 5 x 9 images: layer 'pool'.*4 x 4"
    ):
        infer_shapes(network, 5, 9)
    with pytest.raises(ShapeError, match="layer 'stem'"):
        infer_shapes(network, 9, 2)


def test_error_for_mismatched_layers_has_the_layer() -> None:
    builder = NetworkBuilder("wrong", input_size=32)
    x = builder.conv2d("five", INPUT, 3, 5, size=1)
    y = builder.conv2d("seven", INPUT, 3, 7, size=1)
    builder.add_node("sum", "add", x, y)
    with pytest.raises(ShapeError, match="layer 'sum'"):
        infer_shapes(builder.build(), 8, 8)
    builder = NetworkBuilder("wrong", input_size=32)
    builder.conv2d("four", INPUT, 4, 5, size=1)
    with pytest.raises(ShapeError, match="layer 'four'"):
        infer_shapes(builder.build(), 8, 8)
