"""A step of training: parts of a batch, batch norms that need all of it, and its errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from transferkit.errors import NotFiniteError
from transferkit.networks import INPUT, WRAPPED, Network, NetworkBuilder
from transferkit.testing import FiniteDifferencesBackend
from transferkit.training import SGD
from transferkit.training import step as step_module
from transferkit.training.losses import one_hot
from transferkit.training.step import ParameterGroups, TrainingBatch, TrainingStep

_COUNT = 7


class _RecordingModel:
    """A model object of one parameter, which records the number of images that it is given."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def __call__(
        self, parameters: Mapping[str, Any], x: Any, training: bool, seed: Any
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        assert seed is None
        self.counts.append(len(x))
        updates = {"count": parameters["count"] + 1} if training else {}
        return {"embedding": x.mean(axis=(1, 2)) * parameters["scale"]}, updates


def _network(operation: str) -> Network:
    builder = NetworkBuilder("small", input_size=4)
    attributes: dict[str, Any] = {} if operation == WRAPPED else {"axes": (1, 2)}
    builder.add_node("embedding", operation, INPUT, **attributes)
    builder.linear("logits", "embedding", 3, 2)
    return builder.build()


def _batch() -> TrainingBatch:
    generator = np.random.default_rng(0)
    return TrainingBatch(
        generator.random((_COUNT, 4, 4, 3), np.float32),
        one_hot(generator.integers(2, size=_COUNT), 2),
        np.ones(_COUNT, np.float32),
        {"mask": np.arange(_COUNT, dtype=np.float32)},
    )


def _weights() -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "logits.weight": generator.normal(size=(2, 3)),
        "logits.bias": generator.normal(size=2),
        "scale": np.ones(1),
        "count": np.zeros(1),
    }


def _wrapped_step(model: _RecordingModel, statistics: frozenset[str]) -> TrainingStep:
    backend = FiniteDifferencesBackend()
    backend.training_micro_batch_size = 3
    factors = dict.fromkeys(("logits.weight", "logits.bias", "scale"), 1.0)
    groups = ParameterGroups(factors, frozenset(), statistics)
    return TrainingStep(backend, _network(WRAPPED), groups, SGD(0.1), wrapped=model)


def test_parts_of_a_batch_have_nearly_the_same_size() -> None:
    batch = _batch()
    for size, expected in ((3, (2, 3, 2)), (7, (7,)), (8, (7,)), (None, (7,)), (1, (1,) * 7)):
        parts = list(batch.parts(size))
        assert tuple(len(part.x) for part in parts) == expected
        for name in ("x", "targets", "weights"):
            together = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(together, getattr(batch, name))
        together = np.concatenate([part.draws["mask"] for part in parts])
        np.testing.assert_array_equal(together, batch.draws["mask"])


@pytest.mark.parametrize(("elements", "expected"), [(48, 3), (96, 6), (480, 7), (1, 1)])
def test_model_object_is_given_a_batch_in_parts(
    monkeypatch: pytest.MonkeyPatch, elements: int, expected: int
) -> None:
    """The parts have more images if these are smaller than those of the backend's number."""
    monkeypatch.setattr(step_module, "_ELEMENTS", elements)
    model = _RecordingModel()
    step = _wrapped_step(model, frozenset())
    step.run(step.initial_state(_weights()), _batch(), np.ones(1))
    # Six images at most are two parts of nearly equal size.
    assert max(model.counts) == {6: 4}.get(expected, expected)


def test_model_object_whose_statistics_are_updated_is_given_a_whole_batch() -> None:
    """Its batch norms normalize by what they are given."""
    model = _RecordingModel()
    step = _wrapped_step(model, frozenset({"count"}))
    state, _ = step.run(step.initial_state(_weights()), _batch(), np.ones(1))
    assert set(model.counts) == {_COUNT}
    assert step.to_numpy(state.fixed)["count"] == 1
    # At inference, nothing is updated.
    step.logits({**state.fixed, **state.trained}, _batch().x)
    assert step.to_numpy(state.fixed)["count"] == 1


def test_state_survives_conversion_to_arrays(differentiable: Any) -> None:
    step = TrainingStep(
        differentiable,
        _network("mean"),
        ParameterGroups({"logits.weight": 1.0}, frozenset()),
        SGD(0.1, momentum=0.9),
        average_decay=0.5,
    )
    weights = {name: _weights()[name].astype(np.float32) for name in step.network.parameters}
    coefficients = step.optimizer.coefficients(0, 2)
    state, _ = step.run(step.initial_state(weights), _batch(), coefficients)
    arrays = step.state_to_numpy(state)
    assert arrays.keys() == {"trained", "fixed", "average", "slot0"}
    restored = step.state_from_numpy(arrays)
    ends = [
        step.state_to_numpy(step.run(start, _batch(), coefficients)[0])
        for start in (state, restored)
    ]
    for group, expected in ends[0].items():
        for name, array in expected.items():
            np.testing.assert_array_equal(ends[1][group][name], array)
    # The state before is as it was.
    for group, expected in step.state_to_numpy(state).items():
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[group][name], array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_that_is_not_finite_is_an_error(differentiable: Any, value: float) -> None:
    groups = ParameterGroups({"logits.weight": 1.0}, frozenset())
    step = TrainingStep(differentiable, _network("mean"), groups, SGD(0.1))
    state = step.initial_state({name: _weights()[name] for name in step.network.parameters})
    batch = _batch()
    x = batch.x.copy()
    x[0, 0, 0, 0] = value
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        step.run(state, dataclasses.replace(batch, x=x), np.ones(1))
