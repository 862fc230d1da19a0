from __future__ import annotations

import numpy as np
import pytest

from transferkit.errors import ParameterError, UnknownNameError
from transferkit.training import SCHEDULES
from transferkit.training.schedules import find_schedule


def test_values_of_the_named_schedules() -> None:
    fractions = np.arange(4) / 4
    values = {
        name: [schedule(fraction) for fraction in fractions] for name, schedule in SCHEDULES.items()
    }
    np.testing.assert_allclose(values["constant"], [1, 1, 1, 1])
    np.testing.assert_allclose(values["linear"], [1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(values["cosine"], (1 + np.cos(np.pi * fractions)) / 2)


def test_schedule_is_found_by_name_or_given_as_a_function() -> None:
    def halved(fraction: float) -> float:
        return 1 - fraction / 2

    assert find_schedule("cosine") is SCHEDULES["cosine"]
    assert find_schedule(halved) is halved
    with pytest.raises(UnknownNameError, match="'cosine'"):
        find_schedule("cosin")
    with pytest.raises(ParameterError, match=r"schedule is 3; expected 'constant'.* or a function"):
        find_schedule(3)  # type: ignore[arg-type]
