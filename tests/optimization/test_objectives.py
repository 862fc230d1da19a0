from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import NETWORK, SIDE, WEIGHTS

from transferkit.backends import Backend, Program
from transferkit.backends.base import Table
from transferkit.errors import ShapeError, UnknownNameError
from transferkit.models.class_names import ClassNames
from transferkit.optimization import objectives as o
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
    "neuron in the middle": o.Neuron("conv2", 1),
    "neuron": o.Neuron("conv2", 1, row=0, column=2),
    "layer": o.Layer("conv2"),
    "layer of one row": o.Layer("logits"),
    "direction": o.Direction("conv2", GENERATOR.normal(size=6)),
    "direction of a vector": o.Direction("embedding", GENERATOR.normal(size=6)),
    "custom": o.Custom(spread, ["conv2"]),
    "composed": o.Class("cat")
    - 0.5 * o.Class("dog")
    + o.Layer("conv2") / 4
    - o.Channel("conv1", 0),
    "negative": -(o.Class("cat") - o.Class("bird")),
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


def bound(backend: Backend, objective: o.Objective) -> o.Evaluate:
    program = Program(backend, NETWORK, WEIGHTS)
    return objective.bind(o.Subject.of(program, objective.layers, CLASSES, SIDE, SIDE))


def check(
    backend: Backend,
    function: Callable[[Any], Any],
    reference: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
) -> None:
    """Compare values and the derivative along some directions with the reference in float64."""
    found = backend.compile(backend.value_and_grad(function))(PIXELS)
    expected = reference(PIXELS.astype(np.float64))
    assert expected.shape == (len(PIXELS),)
    assert_close(found["value"], expected, ACTIVATION_TOLERANCE, "value")
    generator = np.random.default_rng(0)
    directions = generator.choice([-1.0, 1.0], (4, *PIXELS.shape))
    # One picture at a time: a derivative in one must not come from another.
    directions[1:, 1:] = 0
    slopes = finite_differences(lambda x: reference(x).sum(), PIXELS, directions)
    along = np.einsum("nhwc,dnhwc->d", found["gradient"].astype(np.float64), directions)
    assert_close(along, slopes, GRADIENT_TOLERANCE, "derivative")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(differentiable: Backend, name: str) -> None:
    objective = OBJECTIVES[name]
    evaluate = bound(differentiable, objective)
    load = differentiable.load(NETWORK, WEIGHTS, objective.layers)
    check(
        differentiable,
        lambda x: evaluate(differentiable.table, load(x)),
        lambda x: evaluate(
            ReferenceTable(), reference_activations(NETWORK, WEIGHTS, x, objective.layers)
        ),
    )


@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizer(differentiable: Backend, name: str) -> None:
    regularizer = REGULARIZERS[name]
    table = differentiable.table
    check(
        differentiable,
        lambda x: regularizer.evaluate(table, x, table.asarray(START)),
        lambda x: regularizer.evaluate(ReferenceTable(), x, START.astype(np.float64)),
    )


def values(objective: o.Objective) -> npt.NDArray[np.float64]:
    """By the reference, written out."""
    shapes = {"logits": (3,), "embedding": (6,), "conv2": (3, 3, 6), "conv1": (8, 8, 4)}
    evaluate = o.bind_checked(objective, o.Subject(shapes, CLASSES))
    activations = reference_activations(NETWORK, WEIGHTS, PIXELS, list(shapes))
    return np.asarray(evaluate(ReferenceTable(), activations))


def test_what_objectives_are() -> None:
    found = reference_activations(NETWORK, WEIGHTS, PIXELS, ["logits", "conv2", "embedding"])
    logits, conv2 = found["logits"], found["conv2"]
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    close = np.testing.assert_allclose
    close(values(OBJECTIVES["logit"]), logits[:, 1])
    close(values(OBJECTIVES["probability"]), likely[:, 1])
    close(values(OBJECTIVES["cross-entropy"]), np.log(likely[:, 2]))
    close(values(OBJECTIVES["distinct"]), logits[:, 2] + 300 * np.log(likely[:, 2]))
    close(values(OBJECTIVES["channel"]), conv2[..., 3].mean(axis=(1, 2)))
    close(values(OBJECTIVES["channel of a vector"]), found["embedding"][:, 2])
    close(values(OBJECTIVES["neuron in the middle"]), conv2[:, 1, 1, 1])
    close(values(OBJECTIVES["neuron"]), conv2[:, 0, 2, 1])
    close(values(OBJECTIVES["layer"]), (conv2**2).mean(axis=(1, 2, 3)))
    vector = np.arange(1.0, 7.0)
    along = conv2.mean(axis=(1, 2)) @ vector / np.linalg.norm(vector)
    close(values(o.Direction("conv2", vector)), along)
    close(values(o.Direction("conv2", 9 * vector)), along)


def test_arithmetic() -> None:
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


def test_what_composed_ones_are_for() -> None:
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
def test_what_is_not_there(objective: o.Objective, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        values(objective)


def test_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"Channel\('embedding', 1\)"):
        values(o.Neuron("embedding", 1))
    with pytest.raises(ShapeError, match="5 numbers, but 'conv2' has 6"):
        values(o.Direction("conv2", np.ones(5)))
    with pytest.raises(ShapeError, match="shape"):
        o.Direction("conv2", np.ones((2, 3)))
    with pytest.raises(ValueError, match="not all 0"):
        o.Direction("conv2", np.zeros(6))
    with pytest.raises(UnknownNameError, match="probability"):
        o.Class("cat", "probabilty")
    with pytest.raises(TypeError, match=r"\['conv2'\]"):
        o.Custom(spread, "conv2")
    with pytest.raises(ShapeError, match="one number for each picture"):
        values(o.Custom(lambda _, found: found["conv2"], ["conv2"]))
    with pytest.raises(ShapeError, match="nothing with a shape"):
        values(o.Custom(lambda *_: 3.0, ["conv2"]))
    wrong = o.Custom(lambda table, found: table.sum(found["conv2"], axes=(0, 1, 2)), ["conv2"])
    for within in (wrong, 2 * wrong, o.Layer("conv1") + wrong, wrong - o.Layer("conv1")):
        with pytest.raises(ShapeError, match=r"<lambda> gives shape \(6,\); expected \(3,\)"):
            values(within)
    with pytest.raises(ValueError, match="made of no layer"):
        values(o.Custom(spread, []))


def test_what_regularizers_are() -> None:
    table, x = ReferenceTable(), PIXELS.astype(np.float64)
    dy, dx = np.diff(x, axis=1), np.diff(x, axis=2)
    close = np.testing.assert_allclose

    def found(regularizer: o.Regularizer) -> Any:
        return regularizer.evaluate(table, x, START)

    axes = (1, 2, 3)
    close(found(o.TotalVariation(2.0)), 2 * (abs(dy).sum(axes) + abs(dx).sum(axes)))
    close(
        found(o.TotalVariation(1.0, power=1.5)),
        (abs(dy) ** 1.5).sum(axes) + (abs(dx) ** 1.5).sum(axes),
        rtol=1e-6,
    )
    beyond = ((0, 0), (0, 1), (0, 0), (0, 0)), ((0, 0), (0, 0), (0, 1), (0, 0))
    lengths = np.hypot(np.pad(dy, beyond[0]), np.pad(dx, beyond[1]))
    close(found(o.TotalVariation(1.0, isotropic=True)), lengths.sum(axes), rtol=1e-4)
    close(found(o.TotalVariation(1.0, 2.0, isotropic=True)), (lengths**2).sum(axes))
    close(found(o.L2(2.0)), 2 * ((x - 0.5) ** 2).sum(axes))
    close(found(o.DistanceToStart(1.0)), ((x - START) ** 2).sum(axes))


def test_a_flat_picture_has_no_variation(differentiable: Backend) -> None:
    flat = np.full((1, 4, 5, 3), 0.3, np.float32)
    for regularizer in REGULARIZERS.values():
        if isinstance(regularizer, o.TotalVariation):
            compiled = differentiable.compile(
                differentiable.value_and_grad(
                    lambda x, used=regularizer: used.evaluate(differentiable.table, x, x)
                )
            )
            found = compiled(flat)
            np.testing.assert_allclose(found["value"], 0, atol=1e-6)
            np.testing.assert_allclose(found["gradient"], 0, atol=1e-6)


def test_numbers_that_make_no_sense() -> None:
    for make in (o.TotalVariation, o.L2, o.DistanceToStart):
        for weight in (-1.0, float("inf"), "much"):
            with pytest.raises(ValueError, match="weight"):
                make(weight)
    with pytest.raises(ValueError, match="power"):
        o.TotalVariation(1.0, power=0)
