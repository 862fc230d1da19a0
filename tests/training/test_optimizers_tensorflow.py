"""The same updates as keras.optimizers, with the settings for which these define the same.

Keras has epsilon elsewhere, so that it is negligible here; its velocities contain the learning
rates, which are therefore constant. All settings are exact in float32, to which Keras rounds them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from descent import START, STEPS, Parameters, assert_equal_parameters, gradient_at, minimize

from transferkit.training import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

TOLERANCE = 1e-12
EPSILON = 1e-20
BETAS = (0.875, 1 - 2**-10)
PAIRS: tuple[tuple[Optimizer, keras.optimizers.Optimizer], ...] = (
    (SGD(0.125), keras.optimizers.SGD(0.125)),
    (SGD(0.125, momentum=0.875), keras.optimizers.SGD(0.125, momentum=0.875)),
    (
        SGD(0.125, momentum=0.875, nesterov=True),
        keras.optimizers.SGD(0.125, momentum=0.875, nesterov=True),
    ),
    (
        Adam(0.125, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON),
        keras.optimizers.Adam(0.125, *BETAS, epsilon=EPSILON),
    ),
    (
        AdamW(0.125, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, weight_decay=0.25),
        keras.optimizers.AdamW(0.125, 0.25, *BETAS, epsilon=EPSILON),
    ),
    (
        RMSprop(0.0625, rho=0.875, epsilon=EPSILON),
        keras.optimizers.RMSprop(0.0625, rho=0.875, epsilon=EPSILON),
    ),
    (
        RMSprop(0.0625, rho=0.75, epsilon=EPSILON, momentum=0.5, centered=True),
        keras.optimizers.RMSprop(0.0625, rho=0.75, epsilon=EPSILON, momentum=0.5, centered=True),
    ),
    (
        Adagrad(0.125, epsilon=EPSILON),
        keras.optimizers.Adagrad(0.125, initial_accumulator_value=0.0, epsilon=EPSILON),
    ),
)
IDS = [str(optimizer) for optimizer, _ in PAIRS]


def minimize_in_keras(
    optimizer: keras.optimizers.Optimizer, penalty: float = 0.0, excluded: tuple[str, ...] = ()
) -> Parameters:
    # A copy, since an optimizer keeps the variables of its first step.
    optimizer = type(optimizer).from_config(optimizer.get_config())
    variables = {
        name: keras.Variable(value, dtype="float64", name=name) for name, value in START.items()
    }
    if excluded:
        optimizer.exclude_from_weight_decay([variables[name] for name in excluded])
    optimizer.build(list(variables.values()))
    for _ in range(STEPS):
        values = {name: value.numpy() for name, value in variables.items()}
        gradients = [
            keras.ops.convert_to_tensor(gradient_at(name, value) + penalty * value)
            for name, value in values.items()
        ]
        optimizer.apply(gradients)
    return {name: np.asarray(value.numpy()) for name, value in variables.items()}


@pytest.mark.parametrize(("optimizer", "expected"), PAIRS, ids=IDS)
def test_update_is_that_of_keras(optimizer: Optimizer, expected: Any) -> None:
    assert_equal_parameters(minimize(optimizer), minimize_in_keras(expected), TOLERANCE)


def test_parameters_without_decay_are_those_excluded_in_keras() -> None:
    optimizer, expected = next(pair for pair in PAIRS if isinstance(pair[0], AdamW))
    result = minimize(optimizer, decayed=frozenset({"kernel"}))
    excluded = minimize_in_keras(expected, excluded=("bias", "temperature"))
    assert_equal_parameters(result, excluded, TOLERANCE)


def test_weight_decay_of_sgd_is_an_l2_regularizer_in_keras() -> None:
    """A layer's ``kernel_regularizer=L2(0.125)`` adds ``0.25 * kernel`` to the gradient."""
    optimizer = SGD(0.125, momentum=0.875, weight_decay=0.25)
    regularized = minimize_in_keras(keras.optimizers.SGD(0.125, momentum=0.875), penalty=0.25)
    assert_equal_parameters(minimize(optimizer), regularized, TOLERANCE)


@pytest.mark.parametrize(
    ("optimizer", "other"),
    [
        (RMSprop(0.0625, epsilon=1e-2), keras.optimizers.RMSprop(0.0625, epsilon=1e-2)),
        (Adagrad(0.125), keras.optimizers.Adagrad(0.125)),
        (
            SGD(0.125, momentum=0.875, weight_decay=0.25),
            keras.optimizers.SGD(0.125, momentum=0.875, weight_decay=0.25),
        ),
    ],
    ids=["epsilon in the root", "initial total", "decoupled decay"],
)
def test_documented_differences_from_keras_exist(optimizer: Optimizer, other: Any) -> None:
    result, different = minimize(optimizer), minimize_in_keras(other)
    assert max(np.abs(result[name] - different[name]).max() for name in START) > 1e-3
