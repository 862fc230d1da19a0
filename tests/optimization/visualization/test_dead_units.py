"""Units that are dead on the initial image: behind an activation without a gradient there."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from samples import SIDE

from transferkit import ImageOptimizer, Preprocessing
from transferkit.backends import Backend
from transferkit.networks import INPUT, Network, NetworkBuilder
from transferkit.optimization import objectives as o
from transferkit.optimization.visualization import IdealImages
from transferkit.optimization.visualization.dead_units import relax_activations

ALIVE, DEAD, HOPELESS = 0, 1, 2


def network() -> Network:
    """Return a network whose last activation follows a convolution and a mean."""
    builder = NetworkBuilder("units", input_size=SIDE)
    x = builder.conv2d("conv", INPUT, 3, 3, size=1, stride=1)
    x = builder.add_node("relu", "relu", x)
    x = builder.add_node("pooled", "mean", x, axes=(1, 2))
    builder.alias("embedding", x)
    builder.linear("logits", x, 3, 2)
    return builder.build()


WEIGHTS = {
    "conv.weight": np.ones((3, 3, 1, 1), np.float32),
    # The sum of the channels is about 1.5 in the noise, and is at most 3.
    "conv.bias": np.array([0, -1.8, -100], np.float32),
    "logits.weight": np.ones((2, 3), np.float32),
    "logits.bias": np.zeros(2, np.float32),
}


def visualize(
    backend: Backend, objectives: list[o.Objective], regularizers: tuple[o.Regularizer, ...] = ()
) -> IdealImages:
    optimizer = ImageOptimizer(
        network(),
        weights=WEIGHTS,
        preprocessing=Preprocessing(network().input_size),
        backend=backend,
        progress=False,
    )
    return optimizer.visualize(
        objectives, steps=20, octaves=2, transforms=(), regularizers=regularizers
    )


@pytest.mark.parametrize("objective", [o.Channel("relu", DEAD), o.Channel("pooled", DEAD)], ids=str)
@pytest.mark.parametrize("regularizers", [(), (o.TotalVariation(1e-3),)], ids=["", "regularized"])
def test_a_unit_that_is_dead_on_noise_is_optimized(
    differentiable: Backend, objective: o.Objective, regularizers: tuple[o.Regularizer, ...]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = visualize(differentiable, [objective], regularizers)
    assert (result.images.sum(axis=-1) > 1.85).mean() > 0.3
    assert result.history[-1, 0] < -0.1


def test_a_unit_that_stays_dead_is_named(differentiable: Backend) -> None:
    with pytest.warns(UserWarning, match="'relu, 2' is 0 and has no gradient") as record:
        visualize(differentiable, [o.Channel("relu", ALIVE), o.Channel("relu", HOPELESS)])
    assert record[0].filename == __file__


def test_dead_units_do_not_change_other_images(differentiable: Backend) -> None:
    alone = visualize(differentiable, [o.Channel("relu", ALIVE)] * 2)
    together = visualize(differentiable, [o.Channel("relu", ALIVE), o.Channel("relu", DEAD)])
    # Two objectives are computed by slices of a batch, one by the whole batch.
    np.testing.assert_allclose(together.images[0], alone.images[0], atol=1e-5)


def test_only_the_last_activations_are_relaxed() -> None:
    builder = NetworkBuilder("deep", input_size=SIDE)
    x = builder.conv2d("conv1", INPUT, 3, 3, size=1, stride=1)
    x = first = builder.add_node("relu1", "relu", x)
    x = builder.conv2d("conv2", x, 3, 3, size=1, stride=1)
    x = builder.add_node("relu2", "relu", x)
    x = builder.add_node("sum", "add", x, first)
    builder.alias("embedding", builder.add_node("pooled", "mean", x, axes=(1, 2)))
    builder.linear("logits", "pooled", 3, 2)
    relaxed, names = relax_activations(builder.build(), ["conv2", "relu2", "embedding", "logits"])
    assert names == {"relu2": "conv2", "embedding": "pooled (relaxed)"}
    assert relaxed.node("pooled (relaxed)").inputs == ("sum (relaxed)",)
    assert relaxed.node("sum (relaxed)").inputs == ("conv2", "conv1")
