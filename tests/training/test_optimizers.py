from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from descent import CURVATURE, assert_equal_parameters, minimize
from descent import MINIMUM as MINIMA
from descent import START as STARTS
from sklearn.base import clone

from transferkit.backends import Backend
from transferkit.errors import NotFiniteError, UnknownNameError
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.training import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    NormalizedGradientDescent,
    NormalizedMomentum,
    Optimizer,
    RMSprop,
    WeightDecayOptimizer,
    find_optimizer,
)

STEPS = 5


@dataclasses.dataclass(frozen=True)
class Hyperbola:
    """A schedule of one's own; a lambda would have another name in every process."""

    def __call__(self, fraction: float) -> float:
        return 1 / (1 + fraction)


FOR_IMAGES = (
    NormalizedGradientDescent(0.1),
    NormalizedGradientDescent(0.1, "linear"),
    NormalizedMomentum(0.1, "cosine", momentum=0.8),
    Adam(0.1),
    Adam(0.1, Hyperbola(), beta1=0.8, beta2=0.99, epsilon=1e-3),
)
OPTIMIZERS = (
    *FOR_IMAGES,
    AdamW(0.1, "cosine", weight_decay=0.3),
    SGD(0.01, "cosine", weight_decay=0.3),
    SGD(0.01, momentum=0.8, weight_decay=0.3),
    SGD(0.01, momentum=0.8, nesterov=True),
    RMSprop(0.1, weight_decay=0.3),
    RMSprop(0.1, rho=0.8, epsilon=1e-3, momentum=0.8, centered=True),
    Adagrad(0.1, weight_decay=0.3),
)
NAMES = (
    "adagrad",
    "adam",
    "adamw",
    "normalized_gradient_descent",
    "normalized_momentum",
    "rmsprop",
    "sgd",
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
        momentum = getattr(optimizer, "momentum", 0.0)
        shrunk = x
        if isinstance(optimizer, AdamW):
            shrunk = x - learning_rate * optimizer.weight_decay * x
        elif isinstance(optimizer, WeightDecayOptimizer):
            gradient = gradient + optimizer.weight_decay * x
        if isinstance(optimizer, Adam):
            mean = optimizer.beta1 * mean + (1 - optimizer.beta1) * gradient
            square = optimizer.beta2 * square + (1 - optimizer.beta2) * gradient**2
            mean_hat = mean / (1 - optimizer.beta1**step)
            square_hat = square / (1 - optimizer.beta2**step)
            x = shrunk - learning_rate * mean_hat / (np.sqrt(square_hat) + optimizer.epsilon)
            continue
        if isinstance(optimizer, NormalizedGradientDescent):
            gradient = gradient / np.sqrt((gradient**2).mean(axis=(1, 2, 3), keepdims=True))
        elif isinstance(optimizer, RMSprop):
            mean = optimizer.rho * mean + (1 - optimizer.rho) * gradient
            square = optimizer.rho * square + (1 - optimizer.rho) * gradient**2
            variance = square - mean**2 if optimizer.centered else square
            gradient = gradient / (np.sqrt(variance) + optimizer.epsilon)
        elif isinstance(optimizer, Adagrad):
            square = square + gradient**2
            gradient = gradient / (np.sqrt(square) + optimizer.epsilon)
        velocity = momentum * velocity + gradient
        ahead = isinstance(optimizer, SGD) and optimizer.nesterov
        x = x - learning_rate * (gradient + momentum * velocity if ahead else velocity)
    return x


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizer_matches_numpy(differentiable: Backend, optimizer: Optimizer) -> None:
    step = differentiable.compile(one_step(optimizer, differentiable.table))
    result = optimize(optimizer, step)
    assert_close(result, optimize_in_numpy(optimizer), ACTIVATION_TOLERANCE, "after five steps")


@pytest.mark.parametrize("optimizer", FOR_IMAGES, ids=str)
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_parameters_without_axes_keep_their_shape(
    differentiable: Backend, optimizer: Optimizer
) -> None:
    table, scalar = differentiable.table, np.asarray(0.5, np.float32)
    slots = [np.zeros_like(scalar)] * optimizer.num_slots
    step = differentiable.compile(one_step(optimizer, table))
    result = step(scalar, scalar, optimizer.coefficients(0, STEPS), *slots)
    assert {name: array.shape for name, array in result.items()} == dict.fromkeys(result, ())
    assert result["x"] < scalar


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_zero_gradient_without_decay_changes_nothing(optimizer: Optimizer) -> None:
    table, zeros = ReferenceTable(), np.zeros_like(START)
    slots = (zeros,) * optimizer.num_slots
    x, _ = optimizer.update(
        table, START, zeros, slots, optimizer.coefficients(0, 1), decay_factor=0.0
    )
    np.testing.assert_array_equal(x, START)
    x, _ = optimizer.update(table, START, zeros, slots, optimizer.coefficients(0, 1))
    assert np.array_equal(x, START) == (optimizer.weight_decay == 0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_learning_rate_factor_multiplies_the_learning_rate(optimizer: Optimizer) -> None:
    factors = dict.fromkeys(STARTS, 0.25)
    slower = dataclasses.replace(optimizer, learning_rate=optimizer.learning_rate * 0.25)
    assert_equal_parameters(
        minimize(optimizer, learning_rate_factors=factors), minimize(slower), 1e-12
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        NormalizedGradientDescent(0.05, "cosine"),
        NormalizedMomentum(0.005, "cosine"),
        Adam(0.05, "cosine"),
        AdamW(0.05, "cosine", weight_decay=0.0),
        SGD(0.1, "one_cycle"),
        SGD(0.1, "cosine", momentum=0.9),
        SGD(0.1, "linear", momentum=0.9, nesterov=True),
        RMSprop(0.02, "cosine"),
        RMSprop(0.005, "cosine", momentum=0.5, centered=True),
        Adagrad(0.5, "step"),
    ],
    ids=str,
)
def test_minimum_of_a_quadratic_function_is_found(optimizer: Optimizer) -> None:
    assert_equal_parameters(minimize(optimizer, 300), MINIMA, 1e-3)


def test_penalty_moves_the_minimum_of_a_quadratic_function() -> None:
    """The minimum of ``curvature / 2 * (x - m) ** 2 + weight_decay / 2 * x ** 2`` is known."""
    expected = {
        name: CURVATURE[name] * minimum / (CURVATURE[name] + 0.5)
        for name, minimum in MINIMA.items()
    }
    result = minimize(SGD(0.2, momentum=0.5, weight_decay=0.5), 300)
    assert_equal_parameters(result, expected, 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_and_schedule_can_be_replaced(name: str) -> None:
    optimizer = find_optimizer(name)
    replaced = dataclasses.replace(optimizer, learning_rate=0.25, schedule="linear")
    assert type(replaced) is type(optimizer)
    assert replaced.coefficients(1, 2)[0] == 0.125
    original = {"learning_rate": optimizer.learning_rate, "schedule": "constant"}
    assert dataclasses.replace(replaced, **original) == optimizer


@pytest.mark.parametrize("name", NAMES)
def test_optimizers_are_equal_after_copying(name: str) -> None:
    optimizer = dataclasses.replace(find_optimizer(name), schedule="one_cycle")
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert clone(optimizer, safe=False) == optimizer


def test_coefficients_are_exact_in_double_precision() -> None:
    for name in NAMES:
        coefficients = dataclasses.replace(find_optimizer(name), learning_rate=0.1).coefficients(
            2, 4
        )
        assert coefficients.dtype == np.float64
        assert coefficients[0] == 0.1
    np.testing.assert_allclose(
        Adam(0.1).coefficients(2, 4)[1:], [1 / (1 - 0.9**3), 1 / (1 - 0.999**3)], rtol=1e-15
    )


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
    assert find_optimizer("normalized_gradient_descent") == NormalizedGradientDescent(0.01)
    assert find_optimizer("adamw") == AdamW(0.001, weight_decay=0.01)
    assert find_optimizer("sgd") == SGD(0.01)
    assert find_optimizer("rmsprop") == RMSprop(0.001)
    assert find_optimizer("adagrad") == Adagrad(0.01)
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
        (lambda: AdamW(weight_decay=-0.1), "weight_decay is -0.1; expected a finite number"),
        (lambda: AdamW(beta1=1.0), "beta1 is 1.0"),
        (lambda: SGD(weight_decay="no"), "weight_decay is 'no'"),
        (lambda: SGD(momentum=1.0), "momentum is 1.0"),
        (lambda: SGD(momentum=0.9, nesterov=1), "nesterov is 1; expected True or False"),
        (lambda: SGD(nesterov=True), "nesterov is True, but momentum is 0; set momentum"),
        (lambda: RMSprop(rho=1.0), "rho is 1.0"),
        (lambda: RMSprop(momentum=-0.5), "momentum is -0.5"),
        (lambda: RMSprop(epsilon=0.0), "epsilon is 0.0"),
        (lambda: RMSprop(centered="yes"), "centered is 'yes'"),
        (lambda: RMSprop(learning_rate=-1.0), "learning_rate is -1.0"),
        (lambda: Adagrad(epsilon=0.0), "epsilon is 0.0"),
        (lambda: Adagrad(0.1, "cosin"), "did you mean 'cosine'"),
    ],
)
def test_parameters_out_of_range_are_rejected(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
