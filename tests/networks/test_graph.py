"""Networks as data."""

from __future__ import annotations

import copy
import itertools
import pickle
import time

import pytest
from hypothesis import given

from transferkit.backends.base import OPERATIONS
from transferkit.errors import NetworkError, UnknownNameError
from transferkit.networks import (
    INPUT,
    Network,
    NetworkBuilder,
    build_network,
    find_network,
    network_from_json,
    network_to_json,
    random_weights,
)
from transferkit.networks.graph import Node
from transferkit.testing.strategies import RandomNetwork, networks


def _batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    suffixes = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{suffix}": (channels,) for suffix in suffixes}


def _mobilenet_state() -> dict[str, tuple[int, ...]]:
    """Return names and shapes of torchvision's state dictionary, without the batch counters."""
    # Input, hidden and output channels of features.1 to features.17.
    blocks = [
        (32, 32, 16),
        (16, 96, 24),
        (24, 144, 24),
        (24, 144, 32),
        (32, 192, 32),
        (32, 192, 32),
        (32, 192, 64),
        (64, 384, 64),
        (64, 384, 64),
        (64, 384, 64),
        (64, 384, 96),
        (96, 576, 96),
        (96, 576, 96),
        (96, 576, 160),
        (160, 960, 160),
        (160, 960, 160),
        (160, 960, 320),
    ]
    state = {"features.0.0.weight": (32, 3, 3, 3), **_batch_norm("features.0.1", 32)}
    for index, (inputs, hidden, outputs) in enumerate(blocks, start=1):
        prefix = f"features.{index}.conv"
        # Only the first block has no expansion.
        depthwise = 0 if index == 1 else 1
        if depthwise:
            state[f"{prefix}.0.0.weight"] = (hidden, inputs, 1, 1)
            state |= _batch_norm(f"{prefix}.0.1", hidden)
        state[f"{prefix}.{depthwise}.0.weight"] = (hidden, 1, 3, 3)
        state |= _batch_norm(f"{prefix}.{depthwise}.1", hidden)
        state[f"{prefix}.{depthwise + 1}.weight"] = (outputs, hidden, 1, 1)
        state |= _batch_norm(f"{prefix}.{depthwise + 2}", outputs)
    state |= {"features.18.0.weight": (1280, 320, 1, 1), **_batch_norm("features.18.1", 1280)}
    state |= {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}
    return state


def test_mobilenet_has_the_parameters_of_torchvision() -> None:
    network = build_network("mobilenet_v2")
    assert dict(network.parameters) == _mobilenet_state()
    # From torchvision's documentation.
    assert network.num_parameters == 3_504_872


def test_mobilenet_has_the_layers_of_torchvision() -> None:
    network = build_network("mobilenet_v2")
    layers = set(network.layers)
    modules = {f"features.{index}" for index in range(19)}
    modules |= {f"features.{index}.conv" for index in range(1, 18)}
    modules |= {"features", "classifier", "classifier.0", "classifier.1"}
    # All modules with parameters, and the activations after some of them.
    modules |= {name.rpartition(".")[0] for name in network.parameters}
    modules |= {"features.0.2", "features.1.conv.0.2", "features.2.conv.1.2", "features.18.2"}
    assert modules <= layers
    assert layers - modules >= {"normalize", "embedding", "logits"}
    # Blocks that keep the size and the number of channels are residual.
    residual = [node.name for node in network.nodes if node.operation == "add"]
    assert residual == [f"features.{index}" for index in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]


def test_layers_can_be_resolved() -> None:
    network = build_network("mobilenet_v2")
    assert len(set(network.layers)) == len(network.layers)
    for layer in network.layers:
        assert network.node(layer).name == network.resolve(layer)
    assert network.resolve("logits") == network.resolve("classifier") == "classifier.1"
    # An alias comes after its target.
    assert network.layers.index("logits") > network.layers.index("classifier.1")


@pytest.mark.parametrize("look_up", [Network.resolve, Network.node])
def test_unknown_layers_are_rejected_with_close_matches(look_up: object) -> None:
    network = build_network("mobilenet_v2")
    with pytest.raises(UnknownNameError, match=r"mobilenet_v2 has no layer.*features\.18"):
        look_up(network, "feature.18")  # type: ignore[operator]
    # The input is not a layer.
    with pytest.raises(UnknownNameError):
        look_up(network, INPUT)  # type: ignore[operator]


def test_unknown_networks_are_rejected_with_close_matches() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mobilenet_v2'"):
        build_network("mobilenetv2")
    assert find_network("mobilenet_v2").name == "mobilenet_v2"


@given(networks())
def test_a_network_can_be_copied_pickled_and_written_as_json(drawn: RandomNetwork) -> None:
    network = drawn.network
    copies = (
        pickle.loads(pickle.dumps(network)),
        copy.deepcopy(network),
        network_from_json(network_to_json(network)),
    )
    for other in copies:
        assert other == network
        assert other.layers == network.layers
        assert dict(other.parameters) == dict(network.parameters)
        assert list(other.parameters) == list(network.parameters)


@given(networks())
def test_networks_are_immutable(drawn: RandomNetwork) -> None:
    network = drawn.network
    with pytest.raises(AttributeError):
        network.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        network.parameters["x"] = ()  # type: ignore[index]
    with pytest.raises(TypeError):
        network.aliases["x"] = "y"  # type: ignore[index]
    with pytest.raises(TypeError):
        network.nodes[0].attributes["mean"] = 0  # type: ignore[index]
    assert {node.operation for node in network.nodes} <= OPERATIONS


def test_building_further_leaves_an_earlier_network_alone() -> None:
    builder = NetworkBuilder("tiny", input_size=8)
    builder.conv2d("conv", INPUT, 3, 4, size=3)
    early = builder.build()
    builder.add_node("embedding", "mean", "conv", axes=(1, 2))
    assert early.layers == ("conv",)
    assert builder.build().layers == ("conv", "embedding")


def test_builder_rejects_unknown_inputs_and_duplicate_names() -> None:
    builder = NetworkBuilder("tiny", input_size=8)
    builder.conv2d("conv", INPUT, 3, 4, size=3)
    with pytest.raises(UnknownNameError, match="did you mean 'conv'"):
        builder.add_node("relu", "relu", "conf")
    with pytest.raises(NetworkError, match="'conv' already"):
        builder.conv2d("conv", INPUT, 3, 4, size=3)
    with pytest.raises(NetworkError, match="'pixels' already"):
        builder.add_node(INPUT, "relu", "conv")


@pytest.mark.parametrize(
    ("nodes", "aliases", "message"),
    [
        ((Node("b", "relu", ("a",)),), {}, "input 'a' of layer 'b' does not precede it"),
        ((Node("a", "linear", ("pixels",), {}, ("w",)),), {}, "weight 'w' of layer 'a' has no"),
        ((Node("a", "relu", ("pixels",)),) * 2, {}, "two layers are named 'a'"),
        ((), {"logits": "a"}, "target 'a' of alias 'logits' does not exist"),
        ((Node("a", "relu", ("pixels",)),), {"a": "pixels"}, "alias 'a' is the name of a layer"),
    ],
)
def test_invalid_networks_are_rejected(
    nodes: tuple[Node, ...], aliases: dict[str, str], message: str
) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        Network("invalid", nodes, {}, aliases, 8)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', "null"])
def test_text_that_describes_no_network_is_rejected(text: str) -> None:
    with pytest.raises(NetworkError, match="not a valid description of a network"):
        network_from_json(text)


def test_random_weights_depend_on_the_seed_only() -> None:
    network = build_network("mobilenet_v2")
    first, second, other = (random_weights(network, seed) for seed in (3, 3, 4))
    assert {name: array.shape for name, array in first.items()} == dict(network.parameters)
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["classifier.1.weight"] != other["classifier.1.weight"]).any()
    assert {array.dtype.name for array in first.values()} == {"float32"}


def test_layers_of_a_large_network_are_resolved_quickly() -> None:
    names = [INPUT, *map(str, range(8_000))]
    nodes = tuple(Node(name, "relu", (before,)) for before, name in itertools.pairwise(names))
    network = Network("large", nodes, {}, {"last": names[-1]}, 8)
    start = time.perf_counter()
    assert [network.node(layer).name for layer in network.layers] == [*names[1:], names[-1]]
    assert time.perf_counter() - start < 1
    assert network == pickle.loads(pickle.dumps(network))
