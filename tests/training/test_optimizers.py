from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.backends import Backend
from transferkit.errors import NotFiniteError, UnknownNameError
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.training import (
    Adam,
    NormalizedGradientDescent,
    NormalizedMomentum,
    Optimizer,
    find_optimizer,
)

STEPS = 5
OPTIMIZERS = (
    NormalizedGradientDescent(0.1),
    NormalizedGradientDescent(0.1, "linear"),
    NormalizedMomentum(0.1, "cosine", momentum=0.8),
    Adam(0.1),
    Adam(0.1, lambda done: 1 / (1 + done), beta1=0.8, beta2=0.99, epsilon=1e-3),
)
START = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
CENTRE = np.random.default_rng(1).normal(size=START.shape).astype(np.float32)


def slope(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of the sum of fourth powers of the distances to the centre."""
    return np.asarray(4 * (x - CENTRE) ** 3)


def follow(optimizer: Optimizer, step: Any) -> npt.NDArray[Any]:
    x, state = START, [np.zeros_like(START)] * optimizer.kept
    for number in range(STEPS):
        found = step(x, slope(x), optimizer.numbers(number, STEPS), *state)
        x, state = found["x"], [found[f"{place}"] for place in range(optimizer.kept)]
    return np.asarray(x)


def one_step(optimizer: Optimizer, table: Any) -> Any:
    def step(x: Any, gradient: Any, numbers: Any, *state: Any) -> dict[str, Any]:
        x, kept = optimizer.update(table, x, gradient, state, numbers)
        return {"x": x, **{f"{place}": value for place, value in enumerate(kept)}}

    return step


def written_out(optimizer: Optimizer) -> npt.NDArray[np.float64]:
    """As the papers have it."""
    x = START.astype(np.float64)
    velocity, mean, square = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for step in range(1, STEPS + 1):
        gradient, rate = slope(x), optimizer.learning_rate_at(step - 1, STEPS)
        if isinstance(optimizer, Adam):
            mean = optimizer.beta1 * mean + (1 - optimizer.beta1) * gradient
            square = optimizer.beta2 * square + (1 - optimizer.beta2) * gradient**2
            mean_hat = mean / (1 - optimizer.beta1**step)
            square_hat = square / (1 - optimizer.beta2**step)
            x = x - rate * mean_hat / (np.sqrt(square_hat) + optimizer.epsilon)
            continue
        gradient = gradient / np.sqrt((gradient**2).mean(axis=(1, 2, 3), keepdims=True))
        momentum = optimizer.momentum if isinstance(optimizer, NormalizedMomentum) else 0.0
        velocity = momentum * velocity + gradient
        x = x - rate * velocity
    return x


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_steps(differentiable: Backend, optimizer: Optimizer) -> None:
    step = differentiable.compile(one_step(optimizer, differentiable.table))
    found = follow(optimizer, step)
    assert_close(found, written_out(optimizer), ACTIVATION_TOLERANCE, "after five steps")


def test_nothing_moves_without_a_gradient() -> None:
    table = ReferenceTable()
    for optimizer in OPTIMIZERS:
        zeros = np.zeros_like(START)
        x, _ = optimizer.update(
            table, START, zeros, (zeros,) * optimizer.kept, optimizer.numbers(0, 1)
        )
        np.testing.assert_array_equal(x, START)


def test_schedules() -> None:
    rates = [
        [Adam(2.0, name).learning_rate_at(step, 4) for step in range(4)]
        for name in ("constant", "linear", "cosine")
    ]
    np.testing.assert_allclose(rates[0], [2, 2, 2, 2])
    np.testing.assert_allclose(rates[1], [2, 1.5, 1, 0.5])
    np.testing.assert_allclose(rates[2], 1 + np.cos(np.pi * np.arange(4) / 4))


def test_what_is_kept_may_begin_anew() -> None:
    """Adam's first step has the size of the rate, whenever it is taken."""
    table, zeros = ReferenceTable(), np.zeros_like(START)
    optimizer = Adam(np.float32(0.25), "linear")
    numbers = optimizer.numbers(3, 4, begun=3)
    found, _ = optimizer.update(table, START, np.full_like(START, 7), (zeros, zeros), numbers)
    np.testing.assert_allclose(START - found, 0.25 / 4, rtol=1e-5)


def test_a_schedule_that_gives_no_number() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(NotFiniteError, match="step 2, counted from 0: the schedule makes"):
            Adam(0.1, lambda _, wrong=wrong: wrong).numbers(2, 4)


def test_found_by_name() -> None:
    assert find_optimizer("adam") == Adam(0.05)
    assert find_optimizer("normalized_momentum") == NormalizedMomentum()
    assert find_optimizer(OPTIMIZERS[0]) is OPTIMIZERS[0]
    with pytest.raises(UnknownNameError, match="'adam'"):
        find_optimizer("adma")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adam(0.0),
        lambda: Adam(float("nan")),
        lambda: Adam(0.1, "cosin"),
        lambda: Adam(0.1, beta1=1.0),
        lambda: Adam(0.1, beta2=-0.1),
        lambda: Adam(0.1, epsilon=0.0),
        lambda: NormalizedMomentum(0.1, momentum=1.0),
        lambda: NormalizedMomentum(0.1, momentum=True),
        lambda: Adam(True),
        lambda: Adam("fast"),
        lambda: Adam(0.1, epsilon=float("inf")),
        lambda: Adam(0.1, 3),
    ],
)
def test_numbers_that_make_no_sense(make: Any) -> None:
    with pytest.raises(ValueError, match=r".+ is .+|unknown schedule"):
        make()
