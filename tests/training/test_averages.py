from __future__ import annotations

import numpy as np

from transferkit.backends import Backend
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.training import moving_average

VALUES = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)


def test_moving_average_weights_values_by_their_age(backend: Backend) -> None:
    update = backend.compile(
        lambda average, value: moving_average(backend.table, average, value, 0.7)
    )
    average = np.zeros_like(VALUES[0])
    for value in VALUES:
        average = update(average, value)
    weights = 0.3 * 0.7 ** np.arange(len(VALUES))[::-1]
    expected = np.tensordot(weights, VALUES.astype(np.float64), axes=1)
    assert_close(average, expected, ACTIVATION_TOLERANCE, "moving average")


def test_moving_average_has_one_decay_per_row(backend: Backend) -> None:
    decay = np.array([0.0, 0.25], np.float32).reshape(2, 1)
    update = backend.compile(
        lambda average, value, decay: moving_average(backend.table, average, value, decay)
    )
    result = update(VALUES[0], VALUES[1], decay)
    expected = [VALUES[1][0], 0.25 * VALUES[0][1] + 0.75 * VALUES[1][1]]
    assert_close(result, np.array(expected), ACTIVATION_TOLERANCE, "moving average")
