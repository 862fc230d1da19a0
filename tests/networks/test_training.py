"""Passes that prepare a network for training: where they add nodes, and the values they keep."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transferkit.backends.stateless import apply_network
from transferkit.errors import ParameterError, UnknownNameError
from transferkit.networks import (
    INPUT,
    Network,
    NetworkBuilder,
    build_network,
    keep_needed,
)
from transferkit.networks.training import (
    BATCH_NORM_TRAINING,
    CONV2D_BATCH_NORM,
    MASK,
    MASK_PER_IMAGE,
    add_dropout,
    add_stochastic_depth,
    find_cuts,
    fuse_batch_norm,
    replace_input,
    update_batch_norm,
)
from transferkit.testing import ReferenceTable, reference_activations
from transferkit.testing.strategies import RandomNetwork, networks, random_weights_and_statistics

Arrays = Mapping[str, npt.NDArray[Any]]

_ROUNDING = 1e-9


def _pixels(drawn: RandomNetwork) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).random((2, drawn.height, drawn.width, 3))


def _apply(
    network: Network,
    weights: Arrays,
    x: npt.NDArray[Any],
    layer: str = "logits",
    draws: Arrays | None = None,
    *,
    training: bool = True,
) -> tuple[npt.NDArray[Any], Arrays]:
    """Return the output of a layer and the updates, computed by the reference."""
    table = ReferenceTable()
    name = network.resolve(layer)
    outputs, updates = apply_network(
        table,
        network,
        {name: table.asarray(array) for name, array in weights.items()},
        table.asarray(x),
        [name],
        training=training,
        draws=draws or {},
    )
    return outputs[name], updates


def _residual_network() -> Network:
    """Return a network of two residual blocks, the second with a convolution in its shortcut."""
    builder = NetworkBuilder("residual", input_size=8)
    x = builder.normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    x = builder.conv2d("stem", x, 3, 4, size=3, padding=1)
    shortcut = builder.add_node("stem_relu", "relu", x)
    x = builder.conv2d("block1.conv", shortcut, 4, 4, size=3, padding=1, bias=False)
    x = builder.batch_norm("block1.norm", x, 4, epsilon=1e-5)
    x = builder.add_node("block1", "add", shortcut, x)
    y = builder.conv2d("block2.shortcut", x, 4, 6, size=1)
    x = builder.conv2d("block2.conv1", x, 4, 6, size=3, padding=1)
    x = builder.add_node("block2.relu", "relu", x)
    x = builder.conv2d("block2.conv2", x, 6, 6, size=3, padding=1)
    x = builder.add_node("block2", "add", x, y)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 6, 3)
    return builder.build()


# ---- cuts ------------------------------------------------------------------------------


def test_cuts_are_outside_of_residual_blocks() -> None:
    network = _residual_network()
    expected = ["normalize", "stem", "stem_relu", "block1", "block2", "embedding"]
    assert find_cuts(network, "logits") == expected
    assert find_cuts(network, "embedding") == expected[:-1]
    assert find_cuts(network, "block1") == expected[:3]
    # On the way to a layer in a block, the block has only this path.
    assert find_cuts(network, "block2.conv2") == [*expected[:4], "block2.conv1", "block2.relu"]
    assert find_cuts(network, "normalize") == []


def test_cuts_do_not_depend_on_layers_that_are_not_needed() -> None:
    builder = NetworkBuilder("auxiliary", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 4, size=3)
    y = builder.add_node("relu", "relu", x)
    builder.add_node("auxiliary", "sigmoid", x)
    builder.add_node("tanh", "tanh", y)
    assert find_cuts(builder.build(), "tanh") == ["conv", "relu"]


def test_layers_before_a_second_use_of_the_pixels_are_no_cuts() -> None:
    builder = NetworkBuilder("pixels again", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 3, size=1)
    x = builder.add_node("add", "add", x, INPUT)
    builder.add_node("relu", "relu", x)
    assert find_cuts(builder.build(), "relu") == ["add"]


def test_cuts_of_resnet_and_mobilenet() -> None:
    cuts = find_cuts(build_network("resnet18"), "logits")
    blocks = [f"layer{layer}.{block}.relu" for layer in (1, 2, 3, 4) for block in (0, 1)]
    inside = [name for name in cuts if name.startswith("layer")]
    # The addition and the ReLU after it.
    assert len(inside) == 2 * len(blocks)
    assert not any(".conv" in name or ".bn" in name or "downsample" in name for name in inside)
    cuts = find_cuts(build_network("mobilenet_v2"), "logits")
    # Blocks 3, 5, 6 and others have a shortcut; 1, 2, 4, 7, 11, 14 and 17 have none.
    with_layers = {name.split(".")[1] for name in cuts if ".conv." in name}
    assert with_layers == {"1", "2", "4", "7", "11", "14", "17"}
    assert {f"features.{index}" for index in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)} <= set(cuts)


def test_cuts_of_an_unknown_layer_are_rejected() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'embedding'"):
        find_cuts(_residual_network(), "embeding")


@given(networks())
def test_cuts_are_the_layers_whose_removal_separates_the_logits(drawn: RandomNetwork) -> None:
    network = keep_needed(drawn.network, ["logits"])
    logits = network.resolve("logits")

    def depends_on_pixels(name: str, without: str) -> bool:
        if name in (INPUT, without):
            return name == INPUT
        return any(depends_on_pixels(source, without) for source in network.node(name).inputs)

    expected = [
        node.name
        for node in network.nodes
        if node.name != logits and not depends_on_pixels(logits, node.name)
    ]
    assert find_cuts(drawn.network, "logits") == expected


@given(st.data(), networks())
def test_replaced_input_gives_the_same_logits(data: st.DataObject, drawn: RandomNetwork) -> None:
    network, before = drawn.network, copy.deepcopy(drawn.network)
    cut = data.draw(st.sampled_from(find_cuts(network, "logits")))
    rest = replace_input(network, cut, ["logits", "probabilities"])
    assert network == before
    assert cut not in rest.layers
    assert {"logits", "probabilities"} <= set(rest.layers)
    outputs = reference_activations(network, drawn.weights, _pixels(drawn), [cut, "logits"])
    weights = {name: drawn.weights[name] for name in rest.parameters}
    actual = reference_activations(rest, weights, outputs[cut], ["logits"])
    np.testing.assert_array_equal(actual["logits"], outputs["logits"])


def test_replaced_input_has_only_what_comes_after() -> None:
    rest = replace_input(_residual_network(), "block1", ["embedding"])
    names = ["block2.shortcut", "block2.conv1", "block2.relu", "block2.conv2", "block2"]
    assert [node.name for node in rest.nodes] == [*names, "embedding"]
    assert {name.split(".weight")[0].split(".bias")[0] for name in rest.parameters} == {
        "block2.shortcut",
        "block2.conv1",
        "block2.conv2",
    }
    assert rest.node("block2.conv1").inputs == rest.node("block2.shortcut").inputs == (INPUT,)
    # An alias of the layer is one as well.
    mobilenet = build_network("mobilenet_v2")
    rest = replace_input(mobilenet, "embedding", ["logits"])
    assert [node.name for node in rest.nodes][-1] == mobilenet.resolve("logits")


@pytest.mark.parametrize("layer", ["block1.conv", "block2.shortcut", "block2.relu"])
def test_input_inside_a_block_is_rejected(layer: str) -> None:
    with pytest.raises(ParameterError, match=f"by layer '{layer}', since layer 'block"):
        replace_input(_residual_network(), layer, ["logits"])


def test_input_before_a_second_use_of_the_pixels_is_rejected() -> None:
    builder = NetworkBuilder("pixels again", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 3, size=1)
    builder.add_node("add", "add", x, INPUT)
    with pytest.raises(ParameterError, match="'add' depends on what comes before it"):
        replace_input(builder.build(), "conv", ["add"])
    with pytest.raises(UnknownNameError, match="did you mean 'conv'"):
        replace_input(builder.build(), "con", ["add"])


# ---- stochastic depth ------------------------------------------------------------------


def test_stochastic_depth_is_in_the_residual_branch() -> None:
    network, names = add_stochastic_depth(_residual_network())
    assert names == ("block1.stochastic_depth", "block2.stochastic_depth")
    # The branch is the second input of the first addition and the first of the second.
    assert network.node("block1").inputs == ("stem_relu", names[0])
    assert network.node("block2").inputs == (names[1], "block2.shortcut")
    for name, branch in zip(names, ("block1.norm", "block2.conv2"), strict=True):
        assert network.node(name).operation == MASK_PER_IMAGE
        assert network.node(name).inputs == (branch,)


@pytest.mark.parametrize(
    ("name", "branch", "blocks"),
    [
        ("resnet18", "bn2", [f"layer{layer}.{block}" for layer in range(1, 5) for block in (0, 1)]),
        (
            "resnet50",
            "bn3",
            [
                f"layer{layer}.{block}"
                for layer, count in enumerate((3, 4, 6, 3), 1)
                for block in range(count)
            ],
        ),
        (
            "mobilenet_v2",
            "conv.3",
            [f"features.{index}" for index in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
        ),
    ],
)
def test_stochastic_depth_of_published_networks(name: str, branch: str, blocks: list[str]) -> None:
    network, names = add_stochastic_depth(build_network(name))
    assert [network.node(mask).inputs[0] for mask in names] == [f"{b}.{branch}" for b in blocks]


def test_images_skip_the_blocks_whose_mask_is_zero() -> None:
    plain = _residual_network()
    weights = random_weights_and_statistics(plain, seed=0)
    network, (first, second) = add_stochastic_depth(plain)
    pixels = np.random.default_rng(0).random((3, 8, 8, 3))
    # The first image skips the first block, the second one both, and the last one none.
    draws = {
        first: np.reshape([0.0, 0.0, 2.0], (3, 1, 1, 1)),
        second: np.reshape([1.0, 0.0, 4.0], (3, 1, 1, 1)),
    }
    outputs = reference_activations(plain, weights, pixels, ["stem_relu", "block1.norm"])
    y, _ = _apply(network, weights, pixels, "block1", draws)
    scale = np.reshape([0, 0, 2], (3, 1, 1, 1))
    np.testing.assert_allclose(y, outputs["stem_relu"] + scale * outputs["block1.norm"])
    z, _ = _apply(network, weights, pixels, "block2", draws)
    shortcut, _ = _apply(network, weights, pixels, "block2.shortcut", draws)
    branch, _ = _apply(network, weights, pixels, "block2.conv2", draws)
    np.testing.assert_allclose(z, shortcut + np.reshape([1, 0, 4], (3, 1, 1, 1)) * branch)
    # Outside of training, no image skips anything.
    expected = reference_activations(plain, weights, pixels, ["logits"])["logits"]
    actual, _ = _apply(network, weights, pixels, training=False)
    np.testing.assert_array_equal(actual, expected)


def test_stochastic_depth_without_residual_blocks_is_rejected() -> None:
    for name in ("vgg11", "mobilenet_v1_025"):
        variant = "keras" if name == "mobilenet_v1_025" else "torchvision"
        with pytest.raises(ParameterError, match=f"{name} has no residual blocks; leave it at 0"):
            add_stochastic_depth(build_network(name, variant=variant))


# ---- dropout ---------------------------------------------------------------------------


@given(networks(), st.integers(0, 1000))
def test_dropout_multiplies_the_input_of_the_logits(drawn: RandomNetwork, seed: int) -> None:
    before = copy.deepcopy(drawn.network)
    network, name = add_dropout(drawn.network)
    assert drawn.network == before
    assert network.node(name).operation == MASK
    assert network.node("logits").inputs == (name,)
    assert dict(network.parameters) == dict(drawn.network.parameters)
    pixels = _pixels(drawn)
    outputs = reference_activations(drawn.network, drawn.weights, pixels, ["embedding", "logits"])
    mask = np.random.default_rng(seed).choice([0, 1.25], outputs["embedding"].shape)
    weight, bias = (
        drawn.weights[one].astype(np.float64) for one in network.node("logits").parameters
    )
    logits, updates = _apply(network, drawn.weights, pixels, draws={name: mask})
    np.testing.assert_allclose(logits, (outputs["embedding"] * mask) @ weight.T + bias)
    assert not updates
    logits, _ = _apply(network, drawn.weights, pixels, training=False)
    np.testing.assert_array_equal(logits, outputs["logits"])


def test_dropout_before_an_unknown_layer_is_rejected() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'logits'"):
        add_dropout(_residual_network(), "logit")


# ---- batch norm ------------------------------------------------------------------------


@given(st.data(), networks())
def test_fused_batch_norm_keeps_all_values(data: st.DataObject, drawn: RandomNetwork) -> None:
    names = [node.name for node in drawn.network.nodes]
    keep = data.draw(st.lists(st.sampled_from(names), unique=True))
    before = copy.deepcopy(drawn.network)
    network = fuse_batch_norm(drawn.network, keep)
    assert drawn.network == before
    assert set(keep) <= set(network.layers)
    # The same parameters, which are trained as they are.
    assert dict(network.parameters) == dict(drawn.network.parameters)
    pixels = _pixels(drawn)
    for layer in (*keep, "logits"):
        for training in (False, True):
            actual, updates = _apply(network, drawn.weights, pixels, layer, training=training)
            expected = reference_activations(drawn.network, drawn.weights, pixels, [layer])[layer]
            np.testing.assert_allclose(actual, expected, rtol=_ROUNDING, atol=_ROUNDING)
            assert not updates


def test_all_batch_norms_of_mobilenet_are_fused() -> None:
    plain = build_network("mobilenet_v2")
    network = fuse_batch_norm(plain, [plain.resolve("logits")])
    operations = [node.operation for node in network.nodes]
    assert operations.count(CONV2D_BATCH_NORM) == 52
    assert "batch_norm" not in operations
    assert len(network.nodes) == len(plain.nodes) - 52
    left = fuse_batch_norm(plain, ["features.0.0"])
    assert [node.name for node in left.nodes if node.operation == "batch_norm"] == ["features.0.1"]


def test_batch_norms_after_a_shared_convolution_are_not_fused() -> None:
    builder = NetworkBuilder("shared", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 3, size=1)
    y = builder.batch_norm("norm", x, 3, epsilon=1e-5)
    x = builder.add_node("add", "add", x, y)
    builder.batch_norm("last", x, 3, epsilon=1e-5)
    network = builder.build()
    assert fuse_batch_norm(network, []) == network


@given(networks(), st.sampled_from([0.1, 0.25, 1.0]))
def test_updated_batch_norm_has_the_statistics_of_the_batch(
    drawn: RandomNetwork, momentum: float
) -> None:
    plain = drawn.network
    assume(plain.statistics)
    network = update_batch_norm(plain, momentum)
    norms = [node for node in network.nodes if node.operation == BATCH_NORM_TRAINING]
    assert {name for node in norms for name in node.parameters[2:]} == plain.statistics
    assert dict(network.parameters) == dict(plain.parameters)
    pixels = _pixels(drawn)
    first = norms[0]
    inputs = reference_activations(plain, drawn.weights, pixels, [first.inputs[0]])
    x = inputs[first.inputs[0]].reshape(-1, *plain.parameters[first.parameters[0]])
    assume(len(x) > 1)
    network = keep_needed(network, [first.name])
    y, updates = _apply(network, drawn.weights, pixels, first.name)
    scale, shift, mean, variance = (
        drawn.weights[name].astype(np.float64) for name in first.parameters
    )
    deviation = np.sqrt(x.var(axis=0) + first.attributes["epsilon"])
    expected = (x - x.mean(axis=0)) / deviation * scale + shift
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=_ROUNDING, atol=_ROUNDING)
    assert updates.keys() == set(first.parameters[2:])
    new_mean = (1 - momentum) * mean + momentum * x.mean(axis=0)
    new_variance = (1 - momentum) * variance + momentum * x.var(axis=0, ddof=1)
    np.testing.assert_allclose(updates[first.parameters[2]], new_mean, rtol=_ROUNDING)
    np.testing.assert_allclose(updates[first.parameters[3]], new_variance, rtol=_ROUNDING)
    # Outside of training, it is the batch norm as it was.
    actual, updates = _apply(update_batch_norm(plain), drawn.weights, pixels, training=False)
    expected = reference_activations(plain, drawn.weights, pixels, ["logits"])["logits"]
    np.testing.assert_array_equal(actual, expected)
    assert not updates
