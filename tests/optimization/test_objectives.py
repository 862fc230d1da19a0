from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import NETWORK, SIDE, WEIGHTS

from transferkit.backends import Backend, Program
from transferkit.backends.base import Table
from transferkit.errors import ArgumentTypeError, ShapeError, UnknownNameError
from transferkit.models.class_names import ClassNames
from transferkit.optimization import objectives as o
from transferkit.optimization.objectives.base import bind_checked
from transferkit.testing import ReferenceTable, finite_differences, reference_activations
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)

CLASSES = ClassNames(("cat", "dog", "bird"), 3)
GENERATOR = np.random.default_rng(7)
PIXELS = GENERATOR.uniform(0.1, 0.9, (3, SIDE, SIDE, 3)).astype(np.float32)
START = GENERATOR.uniform(0.1, 0.9, PIXELS.shape).astype(np.float32)


def spread(table: Table[Any], activations: Mapping[str, Any]) -> Any:
    x = activations["conv2"]
    return table.sqrt(table.sum(table.multiply(x, x), axes=(1, 2, 3)))


OBJECTIVES: Mapping[str, o.Objective] = {
    "logit": o.Class("dog"),
    "probability": o.Class("dog", "probability"),
    "cross-entropy": o.Class(2, "cross_entropy"),
    "distinct": o.Class("bird", "distinct"),
    "channel": o.Channel("conv2", 3),
    "channel of a vector": o.Channel("embedding", 2),
    "neuron at the center": o.Neuron("conv2", 1),
    "neuron": o.Neuron("conv2", 1, row=0, column=2),
    "layer": o.Layer("conv2"),
    "layer of a vector": o.Layer("logits"),
    "direction": o.Direction("conv2", GENERATOR.normal(size=6)),
    "direction of a vector": o.Direction("embedding", GENERATOR.normal(size=6)),
    "custom": o.Custom(spread, ["conv2"]),
    "combined": o.Class("cat")
    - 0.5 * o.Class("dog")
    + o.Layer("conv2") / 4
    - o.Channel("conv1", 0),
    "negated": -(o.Class("cat") - o.Class("bird")),
}
REGULARIZERS: Mapping[str, o.Regularizer] = {
    "total variation": o.TotalVariation(0.5),
    "total variation squared": o.TotalVariation(0.5, power=2),
    "total variation to 1.5": o.TotalVariation(0.5, power=1.5),
    "isotropic": o.TotalVariation(0.5, isotropic=True),
    "isotropic squared": o.TotalVariation(0.5, power=2, isotropic=True),
    "isotropic to 2.5": o.TotalVariation(0.5, power=2.5, isotropic=True),
    "l2": o.L2(0.5),
    "distance to the start": o.DistanceToStart(0.5),
}


def assert_matches(
    backend: Backend,
    function: Callable[[Any], Any],
    reference: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> None:
    """Compare values and directional derivatives with the reference in float64."""
    result = backend.compile(backend.value_and_grad(function))(PIXELS)
    expected = reference(PIXELS.astype(np.float64))
    assert expected.shape == (len(PIXELS),)
    assert_close(result["value"], expected, ACTIVATION_TOLERANCE, "value")
    generator = np.random.default_rng(0)
    directions = generator.choice([-1.0, 1.0], (4, *PIXELS.shape))
    # All but one change the first image only, whose gradient must not involve the others.
    directions[1:, 1:] = 0
    derivatives = np.einsum("nhwc,dnhwc->d", result["gradient"].astype(np.float64), directions)
    differences = finite_differences(lambda x: reference(x).sum(), PIXELS, directions)
    assert_close(derivatives, differences, GRADIENT_TOLERANCE, "derivative")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_and_gradient_match_the_reference(differentiable: Backend, name: str) -> None:
    objective = OBJECTIVES[name]
    program = Program(differentiable, NETWORK, WEIGHTS)
    evaluate = objective.bind(o.Subject.of(program, objective.layers, CLASSES, SIDE, SIDE))
    load = program.load(objective.layers)
    assert_matches(
        differentiable,
        lambda x: evaluate(differentiable.table, load(x)),
        lambda x: evaluate(
            ReferenceTable(), reference_activations(NETWORK, WEIGHTS, x, objective.layers)
        ),
    )


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizer_and_gradient_match_the_reference(differentiable: Backend, name: str) -> None:
    regularizer = REGULARIZERS[name]
    table = differentiable.table
    assert_matches(
        differentiable,
        lambda x: regularizer.evaluate(table, x, table.asarray(START)),
        lambda x: regularizer.evaluate(ReferenceTable(), x, START.astype(np.float64)),
    )


def values(objective: o.Objective) -> npt.NDArray[np.float64]:
    """Compute an objective with the reference."""
    shapes = {"logits": (3,), "embedding": (6,), "conv2": (3, 3, 6), "conv1": (8, 8, 4)}
    evaluate = bind_checked(objective, o.Subject(shapes, CLASSES))
    activations = reference_activations(NETWORK, WEIGHTS, PIXELS, list(shapes))
    return np.asarray(evaluate(ReferenceTable(), activations))


def test_objectives_match_their_definitions() -> None:
    activations = reference_activations(NETWORK, WEIGHTS, PIXELS, ["logits", "conv2", "embedding"])
    logits, conv2 = activations["logits"], activations["conv2"]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    close = np.testing.assert_allclose
    close(values(OBJECTIVES["logit"]), logits[:, 1])
    close(values(OBJECTIVES["probability"]), probabilities[:, 1])
    close(values(OBJECTIVES["cross-entropy"]), np.log(probabilities[:, 2]))
    close(values(OBJECTIVES["distinct"]), logits[:, 2] + 300 * np.log(probabilities[:, 2]))
    close(values(OBJECTIVES["channel"]), conv2[..., 3].mean(axis=(1, 2)))
    close(values(OBJECTIVES["channel of a vector"]), activations["embedding"][:, 2])
    close(values(OBJECTIVES["neuron at the center"]), conv2[:, 1, 1, 1])
    close(values(OBJECTIVES["neuron"]), conv2[:, 0, 2, 1])
    close(values(OBJECTIVES["layer"]), (conv2**2).mean(axis=(1, 2, 3)))
    vector = np.arange(1.0, 7.0)
    projection = conv2.mean(axis=(1, 2)) @ vector / np.linalg.norm(vector)
    close(values(o.Direction("conv2", vector)), projection)
    close(values(o.Direction("conv2", 9 * vector)), projection)


def test_objectives_can_be_added_and_scaled() -> None:
    cat, dog, layer = o.Class("cat"), o.Class("dog"), o.Layer("conv2")
    close = np.testing.assert_allclose
    close(values(cat + dog), values(cat) + values(dog))
    close(values(cat - dog), values(cat) - values(dog))
    close(values(3 * cat), 3 * values(cat))
    close(values(cat * 3), 3 * values(cat))
    close(values(cat / 4), values(cat) / 4)
    close(values(-cat), -values(cat))
    close(values(sum([cat, dog, layer])), values(cat) + values(dog) + values(layer))
    for wrong in (lambda: cat + 1, lambda: cat - 1, lambda: cat * dog, lambda: cat * "2"):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="finite"):
        cat * float("nan")


def test_target_and_name_of_combined_objectives() -> None:
    cat, dog = o.Class("cat"), o.Class("dog")
    assert (cat - dog).target == "cat"
    assert (-dog + cat).target == "cat"
    assert (o.Layer("conv2") + 0.5 * dog).target == "dog"
    assert (-cat).target is None
    assert o.Layer("conv2").target is None
    assert str(cat - 0.5 * dog + 0.1 * o.Layer("conv2")) == "cat - 0.5 dog + 0.1 conv2"
    assert str(-(cat + dog)) == "-(cat + dog)"
    assert (-1 * -cat).target == "cat"
    assert (-2 * (-0.5 * cat)) is cat
    assert str(cat - -dog) == "cat + dog"
    assert str(cat - -0.5 * dog) == "cat + 0.5 dog"
    assert str(o.Class(1) - o.Class(2)) == "class 1 - class 2"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (o.Class("cta"), "did you mean 'cat'"),
        (o.Class(3), "0 to 2"),
        (o.Channel("conv2", 6), "conv2 has no channel 6; available: 0 to 5"),
        (o.Channel("conv2", -1), "conv2 has no channel"),
        (o.Neuron("conv2", 0, row=3), "conv2 has no row 3"),
        (o.Neuron("conv2", 0, column=9), "conv2 has no column"),
    ],
)
def test_missing_class_channel_or_position_is_rejected(
    objective: o.Objective, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        values(objective)


def test_wrong_shapes_and_arguments_are_rejected() -> None:
    with pytest.raises(ShapeError, match=r"Channel\('embedding', 1\)"):
        values(o.Neuron("embedding", 1))
    with pytest.raises(ShapeError, match="5 values, but layer 'conv2' has 6"):
        values(o.Direction("conv2", np.ones(5)))
    with pytest.raises(ShapeError, match="shape"):
        o.Direction("conv2", np.ones((2, 3)))
    with pytest.raises(ValueError, match="not all 0"):
        o.Direction("conv2", np.zeros(6))
    with pytest.raises(UnknownNameError, match="probability"):
        o.Class("cat", "probabilty")
    with pytest.raises(ArgumentTypeError, match=r"\['conv2'\]"):
        o.Custom(spread, "conv2")
    with pytest.raises(ShapeError, match="one value per image"):
        values(o.Custom(lambda _, activations: activations["conv2"], ["conv2"]))
    with pytest.raises(ShapeError, match="returned a float; expected shape"):
        values(o.Custom(lambda *_: 3.0, ["conv2"]))
    wrong = o.Custom(
        lambda table, activations: table.sum(activations["conv2"], axes=(0, 1, 2)), ["conv2"]
    )
    for objective in (wrong, 2 * wrong, o.Layer("conv1") + wrong, wrong - o.Layer("conv1")):
        with pytest.raises(
            ShapeError, match=r"<lambda> returned shape \(6,\); expected shape \(3,\)"
        ):
            values(objective)
    with pytest.raises(ValueError, match="has no layers"):
        values(o.Custom(spread, []))


def test_regularizers_match_their_definitions() -> None:
    table, x = ReferenceTable(), PIXELS.astype(np.float64)
    dy, dx = np.diff(x, axis=1), np.diff(x, axis=2)
    close = np.testing.assert_allclose

    def penalty(regularizer: o.Regularizer) -> Any:
        return regularizer.evaluate(table, x, START)

    axes = (1, 2, 3)
    close(penalty(o.TotalVariation(2.0)), 2 * (abs(dy).sum(axes) + abs(dx).sum(axes)))
    close(
        penalty(o.TotalVariation(1.0, power=1.5)),
        (abs(dy) ** 1.5).sum(axes) + (abs(dx) ** 1.5).sum(axes),
        rtol=1e-6,
    )
    below, right = ((0, 0), (0, 1), (0, 0), (0, 0)), ((0, 0), (0, 0), (0, 1), (0, 0))
    norms = np.hypot(np.pad(dy, below), np.pad(dx, right))
    close(penalty(o.TotalVariation(1.0, isotropic=True)), norms.sum(axes), rtol=1e-4)
    close(penalty(o.TotalVariation(1.0, 2.0, isotropic=True)), (norms**2).sum(axes))
    close(penalty(o.L2(2.0)), 2 * ((x - 0.5) ** 2).sum(axes))
    close(penalty(o.DistanceToStart(1.0)), ((x - START) ** 2).sum(axes))


def test_total_variation_of_a_uniform_image_is_zero(differentiable: Backend) -> None:
    uniform = np.full((1, 4, 5, 3), 0.3, np.float32)
    for regularizer in REGULARIZERS.values():
        if isinstance(regularizer, o.TotalVariation):
            compiled = differentiable.compile(
                differentiable.value_and_grad(
                    lambda x, used=regularizer: used.evaluate(differentiable.table, x, x)
                )
            )
            result = compiled(uniform)
            np.testing.assert_allclose(result["value"], 0, atol=1e-6)
            np.testing.assert_allclose(result["gradient"], 0, atol=1e-6)


def test_weights_and_powers_out_of_range_are_rejected() -> None:
    for make in (o.TotalVariation, o.L2, o.DistanceToStart):
        for weight in (-1.0, float("inf"), "much"):
            with pytest.raises(ValueError, match="weight"):
                make(weight)
    with pytest.raises(ValueError, match="power"):
        o.TotalVariation(1.0, power=0)
