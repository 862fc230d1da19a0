"""Training on each pair of backends: the same losses, gradients and parameters after each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from double_precision import in_float64

from transferkit.backends import Backend
from transferkit.backends.base import TRAINING
from transferkit.backends.stateless import apply_network
from transferkit.networks import (
    Network,
    NetworkBuilder,
    Weights,
    build_network,
    random_weights,
)
from transferkit.networks.training import (
    add_dropout,
    add_stochastic_depth,
    fuse_batch_norm,
    update_batch_norm,
)
from transferkit.testing import ReferenceTable, finite_differences
from transferkit.testing.conformance import assert_close
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.training import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Exponential,
    OneCycle,
    Optimizer,
    RMSprop,
    Step,
    Warmup,
)
from transferkit.training.losses import cross_entropy, one_hot, smooth_labels
from transferkit.training.step import (
    ParameterGroups,
    TrainingBatch,
    TrainingStep,
)

Pair = tuple[Backend, Backend]
Arrays = Mapping[str, npt.NDArray[Any]]

_STEPS = 20
_BATCH_SIZE = 10
_CLASSES = 4
_SIDES = (11, 14)
# Of float64 after twenty steps.
_TOLERANCE = 1e-9
# Of finite differences in float64.
_DIFFERENCES_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Run:
    """The settings of a training.

    ``parts`` is the number of images whose gradient the second backend computes at a time; the
    first computes that of the whole batch.
    """

    optimizer: Optimizer
    batch_norm: str = "fused"
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    smoothing: float = 0.0
    weighted: bool = False
    parts: int | None = None
    settings: Mapping[str, float] = field(default_factory=dict)


_RUNS = {
    "sgd": _Run(SGD(0.1)),
    "sgd with momentum, clip_norm, parts": _Run(
        SGD(0.1, "cosine", momentum=0.9, nesterov=True, weight_decay=0.01),
        parts=4,
        settings={"clip_norm": 0.5},
    ),
    "adam, dropout, weights": _Run(Adam(0.003, "linear"), dropout=0.3, weighted=True, parts=3),
    "adamw, stochastic depth, smoothing": _Run(
        AdamW(0.003, OneCycle(), weight_decay=0.1), stochastic_depth=0.5, smoothing=0.1
    ),
    "rmsprop, clip_value": _Run(
        RMSprop(0.001, Exponential(epochs=5, gamma=0.8), momentum=0.8, centered=True),
        settings={"clip_value": 0.02},
    ),
    "adagrad, l2_sp, average": _Run(
        Adagrad(0.01, Step(gamma=0.5, num_parts=4)),
        settings={"l2_sp": 0.5, "average_decay": 0.9},
    ),
    "sgd, batch norm by the batch": _Run(
        SGD(0.05, momentum=0.9),
        "updated",
        weighted=True,
        parts=4,
        settings={"average_decay": 0.9},
    ),
    "adamw, all": _Run(
        AdamW(0.002, Warmup("linear")),
        "updated",
        dropout=0.2,
        stochastic_depth=0.2,
        smoothing=0.2,
        weighted=True,
        settings={"clip_norm": 2.0, "clip_value": 0.3, "l2_sp": 0.1, "average_decay": 0.5},
    ),
}


class _Problem(NamedTuple):
    """A network prepared for a run, and what its step needs."""

    network: Network
    weights: Weights
    groups: ParameterGroups
    batches: tuple[TrainingBatch, ...]


def _network(*, has_stem_bias: bool) -> Network:
    """Return a small network with each kind of layer, and bias or not before a batch norm.

    If that normalizes by the batch, the gradient of the bias is 0, and only rounding is compared.
    Without ``hard_sigmoid``, whose derivative in PyTorch has the precision of float32.
    """
    builder = NetworkBuilder("small", input_size=12)
    x = builder.normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), "bgr")
    x = builder.conv2d(
        "stem", x, 3, 8, size=3, stride=2, padding=((0, 1), (1, 0)), bias=has_stem_bias
    )
    x = builder.batch_norm("stem_norm", x, 8, epsilon=1e-3)
    x = builder.add_node("relu6", "clip", x, low=0.0, high=6.0)
    shortcut = builder.add_node(
        "max_pool", "max_pool2d", x, size=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1))
    )
    x = builder.conv2d("depthwise", shortcut, 8, 8, size=3, padding=1, groups=8, bias=False)
    x = builder.batch_norm("depthwise_norm", x, 8, epsilon=1e-5)
    x = builder.add_node("hard_swish", "hard_swish", x)
    gate = builder.add_node("squeeze", "mean", x, axes=(1, 2), keepdims=True)
    gate = builder.conv2d("reduce", gate, 8, 4, size=1)
    gate = builder.add_node("reduce_relu", "relu", gate)
    gate = builder.conv2d("expand", gate, 4, 8, size=1)
    gate = builder.add_node("gate", "sigmoid", gate)
    x = builder.add_node("excite", "multiply", x, gate)
    x = builder.conv2d("project", x, 8, 8, size=1, bias=False)
    x = builder.batch_norm("project_norm", x, 8, epsilon=1e-5)
    x = builder.add_node("add", "add", shortcut, x)
    x = builder.conv2d("grouped", x, 8, 6, size=3, padding=((2, 0), (0, 2)), groups=2)
    x = builder.add_node("grouped_relu", "relu", x)
    x = builder.add_node("concat", "concat", x, shortcut, axis=3)
    x = builder.add_node("average_pool", "average_pool2d", x, size=(2, 2), stride=(1, 2))
    # A batch norm without a convolution before it.
    x = builder.batch_norm("last_norm", x, 14, epsilon=1e-5)
    x = builder.add_node("adaptive_pool", "adaptive_average_pool2d", x, height=2, width=3)
    x = builder.add_node("flatten", "flatten", x, channels_first=True)
    x = builder.linear("hidden", x, 84, 10)
    x = builder.add_node("tanh", "tanh", x)
    x = builder.add_node("embedding", "l2_normalize", x)
    builder.linear("logits", x, 10, _CLASSES)
    return builder.build()


def _groups(
    network: Network, run: _Run, factors: Mapping[str, float] = MappingProxyType({})
) -> ParameterGroups:
    """Return the groups in which all parameters are trained, and all but vectors decay."""
    shapes = {n: shape for n, shape in network.parameters.items() if n not in network.statistics}
    return ParameterGroups(
        {**dict.fromkeys(shapes, 1.0), **factors},
        frozenset(name for name, shape in shapes.items() if len(shape) > 1),
        network.statistics if run.batch_norm == "updated" else frozenset(),
    )


def _prepare(run: _Run, seed: int = 0) -> _Problem:
    network = _network(has_stem_bias=run.batch_norm != "updated")
    weights = random_weights_and_statistics(network, seed)
    groups = _groups(network, run, {"stem.weight": 0.3, "hidden.bias": 2.0})
    generator = np.random.default_rng(seed)
    masks: dict[str, tuple[tuple[int, ...], float]] = {}
    if run.dropout:
        network, name = add_dropout(network)
        masks[name] = ((_BATCH_SIZE, 10), run.dropout)
    if run.stochastic_depth:
        network, (name,) = add_stochastic_depth(network)
        masks[name] = ((_BATCH_SIZE, 1, 1, 1), run.stochastic_depth)
    if run.batch_norm == "updated":
        network = update_batch_norm(network)
    elif run.batch_norm == "fused":
        network = fuse_batch_norm(network, [])
    batches = tuple(
        TrainingBatch(
            generator.random((_BATCH_SIZE, *_SIDES, 3), np.float32),
            smooth_labels(
                one_hot(generator.integers(_CLASSES, size=_BATCH_SIZE), _CLASSES), run.smoothing
            ),
            generator.uniform(0.5, 1.5, _BATCH_SIZE).astype(np.float32)
            if run.weighted
            else np.ones(_BATCH_SIZE, np.float32),
            {
                name: ((generator.random(shape) >= rate) / (1 - rate)).astype(np.float32)
                for name, (shape, rate) in masks.items()
            },
        )
        for _ in range(_STEPS)
    )
    return _Problem(network, weights, groups, batches)


def _both_train(pair: Pair) -> Pair:
    for backend in pair:
        if TRAINING not in backend.capabilities:
            pytest.skip(f"{backend.name} does not train")
    return pair


def _anchors(problem: _Problem) -> Arrays:
    # Not the parameters at the start, where the penalty has no gradient.
    return {name: 0.9 * problem.weights[name] for name in problem.groups.decayed}


def _step(backend: Backend, run: _Run, problem: _Problem) -> TrainingStep:
    return TrainingStep(
        backend,
        problem.network,
        problem.groups,
        run.optimizer,
        anchors=_anchors(problem) if "l2_sp" in run.settings else {},
        **run.settings,  # type: ignore[arg-type]
    )


def _train(
    step: TrainingStep, problem: _Problem
) -> Iterator[tuple[list[float], dict[str, Arrays]]]:
    """Yield the loss, the accuracy and the norm of the gradient of each step, and its state."""
    state = step.initial_state(problem.weights)
    for index, batch in enumerate(problem.batches):
        state, result = step.run(state, batch, step.optimizer.coefficients(index, _STEPS))
        values = [result.loss, result.accuracy, result.gradient_norm]
        yield values, step.state_to_numpy(state)


def _check_states(
    actual: Mapping[str, Arrays], expected: Mapping[str, Arrays], tolerance: float, name: str
) -> None:
    assert actual.keys() == expected.keys()
    for group, arrays in expected.items():
        assert actual[group].keys() == arrays.keys()
        for parameter, array in arrays.items():
            assert_close(actual[group][parameter], array, tolerance, f"{name}: {group} {parameter}")


@pytest.mark.parametrize("name", _RUNS)
def test_training_agrees(backend_pair: Pair, name: str) -> None:
    first, second = _both_train(backend_pair)
    run = _RUNS[name]
    problem = _prepare(run)
    first, second = in_float64(first), in_float64(second)
    first.training_micro_batch_size, second.training_micro_batch_size = None, run.parts
    runs = (
        _train(_step(first, run, problem), problem),
        _train(_step(second, run, problem), problem),
    )
    losses = []
    for index, ((actual, state), (expected, other)) in enumerate(zip(*runs, strict=True)):
        np.testing.assert_allclose(actual, expected, rtol=_TOLERANCE)
        _check_states(state, other, _TOLERANCE, f"step {index}")
        losses.append(expected[0])
    # It is a training: all parameters change.
    start = problem.weights
    assert all(np.any(array != start[name]) for name, array in other["trained"].items())
    assert all(np.any(other["fixed"][one] != start[one]) for one in problem.groups.statistics)


def _gradient(
    backend: Backend, problem: _Problem, arrays: Mapping[str, Arrays], batch: TrainingBatch
) -> tuple[Arrays, float]:
    """Return the gradient, which is the change by a step of rate 1, and the loss."""
    names = problem.groups.learning_rate_factors
    groups = ParameterGroups(dict.fromkeys(names, 1.0), frozenset(), problem.groups.statistics)
    step = TrainingStep(backend, problem.network, groups, SGD(1.0))
    before = {**arrays["fixed"], **arrays["trained"]}
    state, result = step.run(step.initial_state(before), batch, np.ones(1))
    after = step.to_numpy(state.trained)
    return {name: before[name] - array for name, array in after.items()}, result.loss


@pytest.mark.parametrize("batch_norm", ["plain", "fused", "updated"])
def test_gradient_agrees_with_finite_differences(backend_pair: Pair, batch_norm: str) -> None:
    first, _ = _both_train(backend_pair)
    run = _Run(
        SGD(1.0), batch_norm, dropout=0.3, stochastic_depth=0.3, smoothing=0.1, weighted=True
    )
    problem = _prepare(run)
    table, batch = ReferenceTable(), problem.batches[0]
    double = {name: array.astype(np.float64) for name, array in problem.weights.items()}
    names = problem.groups.learning_rate_factors
    arrays = {
        "trained": {name: double[name] for name in names},
        "fixed": {name: array for name, array in double.items() if name not in names},
    }
    gradient, loss = _gradient(in_float64(first), problem, arrays, batch)

    def loss_of(parameters: Arrays) -> float:
        outputs, _ = apply_network(
            table,
            problem.network,
            parameters,
            table.asarray(batch.x),
            ["logits"],
            training=True,
            draws=batch.draws,
        )
        losses = cross_entropy(table, outputs["logits"], table.asarray(batch.targets))
        return float((losses * batch.weights).sum() / _BATCH_SIZE)

    assert loss == pytest.approx(loss_of(double), rel=1e-12)
    generator = np.random.default_rng(0)
    norm = np.sqrt(sum(np.sum(slope**2) for slope in gradient.values()))
    for name, slope in gradient.items():
        directions = generator.normal(size=(3, *slope.shape))
        expected = finite_differences(
            lambda array, name=name: loss_of({**double, name: array}), double[name], directions
        )
        actual = np.tensordot(directions, slope, slope.ndim)
        assert np.abs(actual - expected).max() <= _DIFFERENCES_TOLERANCE * norm, name


@pytest.mark.parametrize("name", _RUNS)
def test_first_steps_are_the_documented_updates(backend_pair: Pair, name: str) -> None:
    first, _ = _both_train(backend_pair)
    backend = in_float64(first)
    run = _RUNS[name]
    problem = _prepare(run)
    step = _step(backend, run, problem)
    before = step.state_to_numpy(step.initial_state(problem.weights))
    for index, (values, after) in enumerate(islice(_train(step, problem), 4)):
        gradient, loss = _gradient(backend, problem, before, problem.batches[index])
        expected, norm = _expected_update(run, problem, before, gradient, index)
        assert values[0] == pytest.approx(loss, rel=1e-12)
        assert values[2] == pytest.approx(norm, rel=_TOLERANCE)
        for group, arrays in expected.items():
            for parameter, array in arrays.items():
                assert_close(after[group][parameter], array, _TOLERANCE, f"{group} {parameter}")
        before = after


def _expected_update(
    run: _Run, problem: _Problem, state: Mapping[str, Arrays], gradient: Arrays, index: int
) -> tuple[dict[str, Arrays], float]:
    """Return a state after a step with this gradient, and the norm of the gradient."""
    settings, anchors = run.settings, _anchors(problem)
    norm = float(np.sqrt(sum(np.sum(slope**2) for slope in gradient.values())))
    scale = min(1.0, settings.get("clip_norm", np.inf) / (norm + 1e-6))
    limit = settings.get("clip_value", np.inf)
    table, number = ReferenceTable(), run.optimizer.num_slots
    expected: dict[str, dict[str, Any]] = {
        group: {} for group in ("trained", *(f"slot{slot}" for slot in range(number)))
    }
    for name, parameter in state["trained"].items():
        slope = np.clip(gradient[name] * scale, -limit, limit)
        if name in anchors:
            slope = slope + settings.get("l2_sp", 0.0) * (parameter - anchors[name])
        expected["trained"][name], slots = run.optimizer.update(
            table,
            parameter,
            slope,
            tuple(state[f"slot{slot}"][name] for slot in range(number)),
            run.optimizer.coefficients(index, _STEPS),
            learning_rate_factor=problem.groups.learning_rate_factors[name],
            decay_factor=float(name in problem.groups.decayed),
        )
        for slot, array in enumerate(slots):
            expected[f"slot{slot}"][name] = array
    decay = settings.get("average_decay")
    if decay is not None:
        # Between backends, that of the running statistics is compared too.
        expected["average"] = {
            name: decay * array + (1 - decay) * expected["trained"][name]
            for name, array in state["average"].items()
            if name in expected["trained"]
        }
    return expected, norm


def test_step_of_fused_batch_norm_equals_that_of_the_plain_network(backend_pair: Pair) -> None:
    plain, fused = (_prepare(_Run(SGD(0.1, weight_decay=0.1), name)) for name in ("plain", "fused"))
    assert len(fused.network.nodes) == len(plain.network.nodes) - 3
    run = _Run(SGD(0.1, momentum=0.9))
    for backend in map(in_float64, _both_train(backend_pair)):
        (first, before), (second, after) = (
            next(_train(_step(backend, run, problem), problem)) for problem in (plain, fused)
        )
        np.testing.assert_allclose(first, second, rtol=1e-13)
        _check_states(before, after, 1e-12, backend.name)


@pytest.mark.parametrize("batch_norm", ["fused", "updated"])
def test_losses_of_mobilenet_agree_in_float32(backend_pair: Pair, batch_norm: str) -> None:
    # With random weights and a higher learning rate, rounding grows from step to step: gradient
    # descent of rate 0.02 agrees to 13 digits in float64, and after six steps to one in float32.
    run = _Run(AdamW(1e-5), batch_norm)
    network = build_network("mobilenet_v2")
    weights = random_weights(network, random_state=0)
    groups = _groups(network, run)
    batch = TrainingBatch(
        np.random.default_rng(0).random((8, 96, 96, 3), np.float32),
        one_hot(range(8), 1000),
        np.ones(8, np.float32),
    )
    network = update_batch_norm(network) if groups.statistics else fuse_batch_norm(network, [])
    problem = _Problem(network, weights, groups, (batch,) * _STEPS)
    first, second = (
        [values[0] for values, _ in _train(_step(backend, run, problem), problem)]
        for backend in _both_train(backend_pair)
    )
    # It learns the batch.
    assert first[-1] < 0.7 * first[0]
    np.testing.assert_allclose(first, second, rtol=0.01)
