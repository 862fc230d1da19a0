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
    Adam(0.1, lambda fraction: 1 / (1 + fraction), beta1=0.8, beta2=0.99, epsilon=1e-3),
)
START = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
MINIMUM = np.random.default_rng(1).normal(size=START.shape).astype(np.float32)


def gradient_at(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the gradient of the sum of fourth powers of the distances to the minimum."""
    return np.asarray(4 * (x - MINIMUM) ** 3)


def optimize(optimizer: Optimizer, step: Any) -> npt.NDArray[Any]:
    x, slots = START, [np.zeros_like(START)] * optimizer.num_slots
    for index in range(STEPS):
        result = step(x, gradient_at(x), optimizer.coefficients(index, STEPS), *slots)
        x, slots = result["x"], [result[f"slot {slot}"] for slot in range(optimizer.num_slots)]
    return np.asarray(x)


def one_step(optimizer: Optimizer, table: Any) -> Any:
    def step(x: Any, gradient: Any, coefficients: Any, *slots: Any) -> dict[str, Any]:
        x, updated = optimizer.update(table, x, gradient, slots, coefficients)
        return {"x": x, **{f"slot {slot}": value for slot, value in enumerate(updated)}}

    return step


def optimize_in_numpy(optimizer: Optimizer) -> npt.NDArray[np.float64]:
    """Apply the update rules as the papers state them."""
    x = START.astype(np.float64)
    velocity, mean, square = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for step in range(1, STEPS + 1):
        gradient, learning_rate = gradient_at(x), optimizer.learning_rate_at(step - 1, STEPS)
        if isinstance(optimizer, Adam):
            mean = optimizer.beta1 * mean + (1 - optimizer.beta1) * gradient
            square = optimizer.beta2 * square + (1 - optimizer.beta2) * gradient**2
            mean_hat = mean / (1 - optimizer.beta1**step)
            square_hat = square / (1 - optimizer.beta2**step)
            x = x - learning_rate * mean_hat / (np.sqrt(square_hat) + optimizer.epsilon)
            continue
        gradient = gradient / np.sqrt((gradient**2).mean(axis=(1, 2, 3), keepdims=True))
        momentum = optimizer.momentum if isinstance(optimizer, NormalizedMomentum) else 0.0
        velocity = momentum * velocity + gradient
        x = x - learning_rate * velocity
    return x


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizer_matches_numpy(differentiable: Backend, optimizer: Optimizer) -> None:
    step = differentiable.compile(one_step(optimizer, differentiable.table))
    result = optimize(optimizer, step)
    assert_close(result, optimize_in_numpy(optimizer), ACTIVATION_TOLERANCE, "after five steps")


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_parameters_with_one_axis_are_updated_as_in_numpy(
    differentiable: Backend, optimizer: Optimizer
) -> None:
    """Each entry of a bias is an image of its own: the mean over no axes is the entry."""
    table, bias = differentiable.table, np.asarray([1.0, -2.0, 0.5, 4.0], np.float32)
    gradient = np.asarray([1e4, -3e5, 2e6, 5e4], np.float32)
    slots = [np.zeros_like(bias)] * optimizer.num_slots
    step = differentiable.compile(one_step(optimizer, table))
    result = step(bias, gradient, optimizer.coefficients(0, STEPS), *slots)["x"]
    # The first step of each optimizer is along the sign of the gradient.
    expected = bias - optimizer.learning_rate_at(0, STEPS) * np.sign(gradient)
    assert_close(result, expected, ACTIVATION_TOLERANCE, "after one step")


def test_zero_gradient_changes_nothing() -> None:
    table = ReferenceTable()
    for optimizer in OPTIMIZERS:
        zeros = np.zeros_like(START)
        x, _ = optimizer.update(
            table, START, zeros, (zeros,) * optimizer.num_slots, optimizer.coefficients(0, 1)
        )
        np.testing.assert_array_equal(x, START)


def test_learning_rate_follows_the_schedule() -> None:
    learning_rates = [
        [Adam(2.0, name).learning_rate_at(step, 4) for step in range(4)]
        for name in ("constant", "linear", "cosine")
    ]
    np.testing.assert_allclose(learning_rates[0], [2, 2, 2, 2])
    np.testing.assert_allclose(learning_rates[1], [2, 1.5, 1, 0.5])
    np.testing.assert_allclose(learning_rates[2], 1 + np.cos(np.pi * np.arange(4) / 4))


def test_slots_can_be_reset_at_any_step() -> None:
    """Adam's first step after a reset has the size of the learning rate."""
    table, zeros = ReferenceTable(), np.zeros_like(START)
    optimizer = Adam(np.float32(0.25), "linear")
    coefficients = optimizer.coefficients(3, 4, reset_at=3)
    result, _ = optimizer.update(table, START, np.full_like(START, 7), (zeros, zeros), coefficients)
    np.testing.assert_allclose(START - result, 0.25 / 4, rtol=1e-5)


def test_learning_rate_may_differ_between_images() -> None:
    """A direction is the step for a learning rate of 1, to be scaled by the caller."""
    table, zeros = ReferenceTable(), np.zeros_like(START)
    learning_rates = np.array([0.1, 0.2]).reshape(2, 1, 1, 1)
    optimizer = Adam()
    gradient = gradient_at(START)
    direction, slots = optimizer.direction(
        table, gradient, (zeros, zeros), optimizer.coefficients(0, 1)
    )
    for image, learning_rate in enumerate(learning_rates.ravel()):
        alone = Adam(learning_rate)
        expected, expected_slots = alone.update(
            table, START, gradient, (zeros, zeros), alone.coefficients(0, 1)
        )
        result = START - learning_rates * direction
        np.testing.assert_allclose(result[image], expected[image], atol=1e-6)
        np.testing.assert_array_equal(slots, expected_slots)


def test_schedule_that_is_not_finite_is_rejected() -> None:
    for wrong in (float("nan"), float("inf")):
        message = f"makes the learning rate {wrong} at step 2"
        with pytest.raises(NotFiniteError, match=message):
            Adam(0.1, lambda _, wrong=wrong: wrong).coefficients(2, 4)


def test_optimizer_is_found_by_name() -> None:
    assert find_optimizer("adam") == Adam(0.05)
    assert find_optimizer("normalized_momentum") == NormalizedMomentum()
    assert find_optimizer(OPTIMIZERS[0]) is OPTIMIZERS[0]
    with pytest.raises(UnknownNameError, match="'adam'"):
        find_optimizer("adma")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(0.0), "learning_rate is 0.0; expected a finite number greater than 0"),
        (lambda: Adam(float("nan")), "learning_rate is nan"),
        (lambda: Adam(True), "learning_rate is True"),
        (lambda: Adam("fast"), "learning_rate is 'fast'"),
        (lambda: Adam(0.1, "cosin"), "did you mean 'cosine'"),
        (lambda: Adam(0.1, 3), "schedule is 3"),
        (lambda: Adam(0.1, beta1=1.0), r"beta1 is 1.0; expected a number in \[0, 1\)"),
        (lambda: Adam(0.1, beta2=-0.1), "beta2 is -0.1"),
        (lambda: Adam(0.1, epsilon=0.0), "epsilon is 0.0"),
        (lambda: Adam(0.1, epsilon=float("inf")), "epsilon is inf"),
        (lambda: NormalizedMomentum(0.1, momentum=1.0), "momentum is 1.0"),
        (lambda: NormalizedMomentum(0.1, momentum=True), "momentum is True"),
    ],
)
def test_parameters_out_of_range_are_rejected(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
