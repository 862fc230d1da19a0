"""An attack has the same results on every backend with gradients, on photos."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from backend_selection import can_differentiate, requested_backends

from transferkit import ImageOptimizer

# So few that about half of the photos resist: both outcomes occur.
_STEPS = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "attackers" in metafunc.fixturenames:
        names = [name for name in requested_backends(metafunc.config) if can_differentiate(name)]
        metafunc.parametrize("attackers", list(combinations(names, 2)), ids="-".join)


def test_predictions_and_successes_are_the_same(
    attackers: tuple[str, str], photos: npt.NDArray[np.float32]
) -> None:
    results = [
        ImageOptimizer(backend=name, random_state=0, progress=False).attack(
            photos, target="Arabian camel", epsilon=1 / 255, steps=_STEPS
        )
        for name in attackers
    ]
    labels = ([prediction.label for prediction in result.after] for result in results)
    agreement = np.mean([first == second for first, second in zip(*labels, strict=True)])
    assert agreement >= 0.95
    assert 0.25 <= results[0].success_rate <= 0.75
    assert np.mean(results[0].success == results[1].success) >= 0.95
