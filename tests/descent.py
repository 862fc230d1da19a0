"""A loss of several tensors, and its minimization with the optimizers of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.testing import ReferenceTable
from transferkit.training import Optimizer

Parameters = Mapping[str, npt.NDArray[np.float64]]

STEPS = 20
_SHAPES: Mapping[str, tuple[int, ...]] = {"kernel": (4, 3, 3, 2), "bias": (4,), "temperature": ()}


def _random(seed: int, low: float, high: float) -> Parameters:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.uniform(low, high, shape)) for name, shape in _SHAPES.items()}


START = _random(0, -1.0, 1.0)
MINIMUM = _random(1, -1.0, 1.0)
CURVATURE = _random(2, 0.5, 2.0)


def gradient_at(name: str, parameter: Any) -> npt.NDArray[np.float64]:
    """Return the gradient of ``sum(curvature / 2 * (parameter - minimum) ** 2)``."""
    return np.asarray(CURVATURE[name] * (np.asarray(parameter, np.float64) - MINIMUM[name]))


def minimize(
    optimizer: Optimizer,
    steps: int = STEPS,
    *,
    learning_rate_factors: Mapping[str, float] | None = None,
    decayed: frozenset[str] = frozenset(_SHAPES),
    penalty: float = 0.0,
) -> Parameters:
    """Return the parameters after some steps in float64.

    Parameters
    ----------
    penalty
        This times the parameters is added to the gradient.
    """
    table, factors = ReferenceTable(), learning_rate_factors or {}
    parameters = dict(START)
    slots: dict[str, Any] = {
        name: (np.zeros(shape),) * optimizer.num_slots for name, shape in _SHAPES.items()
    }
    for step in range(steps):
        coefficients = optimizer.coefficients(step, steps)
        for name, parameter in parameters.items():
            parameters[name], slots[name] = optimizer.update(
                table,
                parameter,
                gradient_at(name, parameter) + penalty * parameter,
                slots[name],
                table.asarray(coefficients),
                learning_rate_factor=factors.get(name, 1.0),
                decay_factor=float(name in decayed),
            )
    return parameters


def assert_equal_parameters(result: Parameters, expected: Parameters, tolerance: float) -> None:
    """Compare parameters, which are of the order of 1."""
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name].shape == value.shape, name
        np.testing.assert_allclose(result[name], value, rtol=0, atol=tolerance, err_msg=name)
