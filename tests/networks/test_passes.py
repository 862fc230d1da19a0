"""Passes change neither the values of layers nor their arguments."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.backends.shapes import infer_shapes
from transferkit.errors import UnknownNameError
from transferkit.networks import (
    INPUT,
    Network,
    NetworkBuilder,
    build_network,
    fold_batch_norm,
    keep_needed,
    replace_head,
)
from transferkit.networks.graph import Weights
from transferkit.testing import reference_activations
from transferkit.testing.conformance import assert_close
from transferkit.testing.strategies import RandomNetwork, networks, random_weights_and_statistics

# Folded kernels are rounded to float32; everything else is computed in float64.
_ROUNDING = 1e-5


def _pixels(drawn: RandomNetwork) -> np.ndarray:
    return np.random.default_rng(0).random((2, drawn.height, drawn.width, 3))


def _check_folding(network: Network, weights: Weights, keep: list[str], pixels: np.ndarray) -> None:
    weights_before = copy.deepcopy(dict(weights))
    network_before = copy.deepcopy(network)
    folded, folded_weights = fold_batch_norm(network, weights, keep=keep)
    # The arguments are unchanged.
    assert network == network_before
    assert list(weights) == list(weights_before)
    for name, array in weights.items():
        np.testing.assert_array_equal(array, weights_before[name])
    # The weights are exactly the parameters of the new network.
    shapes = {name: array.shape for name, array in folded_weights.items()}
    assert shapes == dict(folded.parameters)
    assert {array.dtype.name for array in folded_weights.values()} <= {"float32"}
    assert {name for node in folded.nodes for name in node.parameters} == set(shapes)
    # All layers that are left have the same values, and none of `keep` is missing.
    assert set(keep) <= set(folded.layers)
    assert set(folded.layers) <= set(network.layers)
    assert {"embedding", "logits"} <= set(folded.layers)
    expected = reference_activations(network, weights, pixels, folded.layers)
    found = reference_activations(folded, folded_weights, pixels, folded.layers)
    for layer, array in found.items():
        assert_close(array, expected[layer], _ROUNDING, layer)


@given(st.data(), networks())
def test_keep_needed_removes_only_unneeded_nodes(data: st.DataObject, drawn: RandomNetwork) -> None:
    network = drawn.network
    before = copy.deepcopy(network)
    layers = data.draw(st.lists(st.sampled_from(network.layers), min_size=1))
    kept = keep_needed(network, layers)
    assert network == before
    needed: set[str] = set()
    waiting = [network.resolve(layer) for layer in layers]
    while waiting:
        name = waiting.pop()
        if name != INPUT and name not in needed:
            needed.add(name)
            waiting.extend(network.node(name).inputs)
    assert [node for node in network.nodes if node.name in needed] == list(kept.nodes)
    assert set(kept.parameters) == {name for node in kept.nodes for name in node.parameters}
    pixels = _pixels(drawn)
    # The pruned network needs only its own parameters.
    weights = {name: drawn.weights[name] for name in kept.parameters}
    found = reference_activations(kept, weights, pixels, kept.layers)
    expected = reference_activations(network, drawn.weights, pixels, kept.layers)
    for layer, array in found.items():
        np.testing.assert_array_equal(array, expected[layer])


def test_keep_needed_rejects_unknown_layers() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'embedding'"):
        keep_needed(build_network("mobilenet_v2"), ["embeding"])


@given(st.data(), networks())
def test_fold_batch_norm_keeps_all_values(data: st.DataObject, drawn: RandomNetwork) -> None:
    names = [node.name for node in drawn.network.nodes]
    keep = data.draw(st.lists(st.sampled_from(names), unique=True))
    _check_folding(drawn.network, drawn.weights, keep, _pixels(drawn))


def test_fold_batch_norm_of_mobilenet() -> None:
    network = build_network("mobilenet_v2")
    weights = random_weights_and_statistics(network, seed=0)
    pixels = np.random.default_rng(0).random((1, 33, 47, 3))
    _check_folding(network, weights, [], pixels)
    folded, _ = fold_batch_norm(network, weights, keep=[])
    assert not any(node.operation == "batch_norm" for node in folded.nodes)
    assert len(folded.nodes) == len(network.nodes) - 52
    folded, _ = fold_batch_norm(network, weights, keep=["features.0.0", "features.2.conv.2"])
    left = [node.name for node in folded.nodes if node.operation == "batch_norm"]
    assert left == ["features.0.1", "features.2.conv.3"]


def _shared_convolution() -> Network:
    builder = NetworkBuilder("shared", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 3, size=3, padding=1)
    y = builder.batch_norm("first", x, 3, epsilon=1e-5)
    z = builder.batch_norm("second", x, 3, epsilon=1e-5)
    x = builder.add_node("sum", "add", y, z)
    # A batch norm after an addition, and one after a batch norm.
    x = builder.batch_norm("third", x, 3, epsilon=1e-3)
    x = builder.batch_norm("fourth", x, 3, epsilon=1e-3)
    builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", "embedding", 3, 2)
    return builder.build()


def test_batch_norms_that_cannot_be_folded_are_left() -> None:
    network = _shared_convolution()
    weights = random_weights_and_statistics(network, seed=0)
    _check_folding(network, weights, [], np.random.default_rng(0).random((1, 8, 8, 3)))
    folded, _ = fold_batch_norm(network, weights, keep=[])
    assert folded.nodes == network.nodes


@given(networks(), st.integers(2, 7))
def test_replace_head_classifies_the_normalized_embedding(
    drawn: RandomNetwork, classes: int
) -> None:
    network = drawn.network
    before = copy.deepcopy(network)
    size = infer_shapes(network, network.input_size, network.input_size)["embedding"][0]
    replaced = replace_head(network, classes, embedding_size=size, name="mine")
    assert network == before
    assert replaced.name == "mine"
    weights = random_weights_and_statistics(replaced, seed=0)
    body = {name: drawn.weights[name] for name in replaced.parameters if name in drawn.weights}
    weights |= body
    pixels = _pixels(drawn)
    expected = reference_activations(network, drawn.weights, pixels, ["embedding"])["embedding"]
    found = reference_activations(
        replaced, weights, pixels, ["embedding", "logits", "probabilities"]
    )
    np.testing.assert_array_equal(found["embedding"], expected)
    unit = expected / np.sqrt((expected**2).sum(axis=1, keepdims=True) + 1e-12)
    logits = unit @ weights["head.weight"].T.astype(np.float64) + weights["head.bias"]
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-9, atol=1e-12)
    odds = np.exp(logits)
    np.testing.assert_allclose(
        found["probabilities"], odds / odds.sum(axis=1, keepdims=True), rtol=1e-9
    )
    # Nothing is left of the old head.
    assert set(weights) - set(body) == {"head.weight", "head.bias"}
    assert replaced.parameters["head.weight"] == (classes, expected.shape[1])
