"""An attack comes to the same verdicts on every backend with gradients, on photos."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from conftest import asked_for, can_differentiate

from transferkit import ImageOptimizer

# So few that about half of the photos resist: there are verdicts of both kinds.
_STEPS = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "attackers" in metafunc.fixturenames:
        names = [name for name in asked_for(metafunc.config) if can_differentiate(name)]
        metafunc.parametrize("attackers", list(combinations(names, 2)), ids="-".join)


def test_verdicts_are_the_same(attackers: tuple[str, str], photos: npt.NDArray[np.float32]) -> None:
    found = [
        ImageOptimizer(backend=name, seed=0, progress=False).attack(
            photos, target="Arabian camel", epsilon=1 / 255, steps=_STEPS
        )
        for name in attackers
    ]
    first, second = ([verdict.label for verdict in one.after] for one in found)
    same = np.mean([one == other for one, other in zip(first, second, strict=True)])
    assert same >= 0.95
    assert 0.25 <= found[0].success_rate <= 0.75
    assert np.mean(found[0].success == found[1].success) >= 0.95
