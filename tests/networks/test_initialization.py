"""Random weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transferkit.errors import UnknownNameError
from transferkit.networks import INPUT, NetworkBuilder, build_network, random_weights
from transferkit.networks.initialization import INITIALIZATIONS


def _network() -> NetworkBuilder:
    builder = NetworkBuilder("wide", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 100, size=5, padding=2)
    x = builder.conv2d("depthwise", x, 100, 200, size=9, padding=4, groups=100)
    x = builder.batch_norm("norm", x, 200, epsilon=1e-5)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 200, 50)
    return builder


# Fan-in and fan-out.
_FANS = {
    "conv.weight": (3 * 25, 100 * 25),
    "depthwise.weight": (81, 200 * 81),
    "logits.weight": (200, 50),
}


@pytest.mark.parametrize("initialization", sorted(INITIALIZATIONS))
def test_distribution_of_kernels_and_matrices(initialization: str) -> None:
    weights = random_weights(_network().build(), 0, initialization)
    for name, (fan_in, fan_out) in _FANS.items():
        array = weights[name]
        deviation, limit = {
            "he": (math.sqrt(2 / fan_in), math.inf),
            "glorot": (math.sqrt(2 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out))),
            "uniform": (0.05 / math.sqrt(3), 0.05),
            "gaussian": (0.01, math.inf),
        }[initialization]
        assert array.dtype == np.float32
        assert abs(array.mean()) < 4 * deviation / math.sqrt(array.size)
        assert array.std() == pytest.approx(deviation, rel=0.03)
        assert np.abs(array).max() <= limit * (1 + 1e-6)
        # One standard deviation covers 68 % of a normal and 58 % of a uniform distribution.
        within = float((np.abs(array) < deviation).mean())
        assert within == pytest.approx(0.683 if math.isinf(limit) else 0.577, abs=0.015)


@pytest.mark.parametrize("initialization", sorted(INITIALIZATIONS))
def test_biases_and_batch_norm_are_not_random(initialization: str) -> None:
    weights = random_weights(_network().build(), 0, initialization)
    assert (weights["norm.weight"] == 1).all()
    assert (weights["norm.running_var"] == 1).all()
    for name in ("conv.bias", "depthwise.bias", "norm.bias", "norm.running_mean", "logits.bias"):
        assert not weights[name].any()


def test_operations_and_positions_determine_weights_not_names() -> None:
    builder = NetworkBuilder("renamed", input_size=8)
    names = ("gamma", "beta", "mean", "var")
    x = builder.add_node(
        "norm", "batch_norm", INPUT, parameters=dict.fromkeys(names, (3,)), epsilon=0.001
    )
    x = builder.add_node("scale", "multiply", x, parameters={"layer_scale": (3,)})
    x = builder.add_node("shift", "add", x, parameters={"shift.weight": (3,)})
    weights = random_weights(builder.build(), 0)
    values = {name: array.tolist() for name, array in weights.items()}
    ones, zeros = [1.0] * 3, [0.0] * 3
    assert values == {
        "gamma": ones,
        "beta": zeros,
        "mean": zeros,
        "var": ones,
        "layer_scale": ones,
        "shift.weight": zeros,
    }
    # The mean and the variance are not trained.
    assert builder.build().statistics == {"mean", "var"}
    assert builder.build().num_parameters == 12


def test_weights_depend_on_the_seed_and_the_initialization() -> None:
    network = build_network("mobilenet_v3_small")
    drawn = {
        (kind, seed): random_weights(network, seed, kind)["features.0.0.weight"]
        for kind in INITIALIZATIONS
        for seed in (0, 1)
    }
    for (kind, seed), array in drawn.items():
        again = random_weights(network, seed, kind)["features.0.0.weight"]
        np.testing.assert_array_equal(array, again)
    assert len({array.tobytes() for array in drawn.values()}) == len(drawn)
    np.testing.assert_array_equal(
        random_weights(network, 0)["classifier.0.weight"],
        random_weights(network, 0, "he")["classifier.0.weight"],
    )


def test_unknown_initialization_is_rejected() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'glorot'"):
        random_weights(_network().build(), 0, "glorrot")
