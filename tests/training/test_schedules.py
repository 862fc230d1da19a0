from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.base import clone

from transferkit.errors import ParameterError, UnknownNameError
from transferkit.training import (
    SCHEDULES,
    Adam,
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Schedule,
    Step,
    Warmup,
    find_schedule,
)

OBJECTS: tuple[Schedule, ...] = (
    *SCHEDULES.values(),
    Step(0.5, 4),
    Exponential(0.9, epochs=3),
    OneCycle(0.25, div_factor=10.0, final_div_factor=100.0),
    Warmup("cosine"),
    Warmup(Exponential(epochs=10), 0.2, start=0.0),
)
KNOWN_EPOCHS = [find_schedule(schedule, epochs=10) for schedule in OBJECTS]


def test_values_of_the_named_schedules() -> None:
    fractions = np.arange(4) / 4
    values = {
        name: [find_schedule(name, epochs=2)(fraction) for fraction in fractions]
        for name in SCHEDULES
    }
    np.testing.assert_allclose(values["constant"], [1, 1, 1, 1])
    np.testing.assert_allclose(values["linear"], [1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(values["cosine"], (1 + np.cos(np.pi * fractions)) / 2)
    np.testing.assert_allclose(values["step"], [1, 1, 0.1, 0.01])
    np.testing.assert_allclose(values["exponential"], [1, 1, 0.98, 0.98])
    rise = 0.04 + 0.96 * (1 - np.cos(np.pi * 0.25 / 0.3)) / 2
    fall = (1 + np.cos(np.pi * (fractions[2:] - 0.3) / 0.7)) / 2
    np.testing.assert_allclose(values["one_cycle"], [0.04, rise, *fall], atol=4e-6)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**5))
# The first step of the epoch with index 15, since 22 * (15 / 22) is less than 15 in float64.
@example(22, 1, 15)
def test_exponential_and_step_change_between_epochs(
    epochs: int, steps_per_epoch: int, step: int
) -> None:
    steps = epochs * steps_per_epoch
    step %= steps
    expected = 0.98 ** (step // steps_per_epoch)
    assert Exponential(epochs=epochs)(step / steps) == expected
    assert Step(0.98, num_parts=epochs)(step / steps) == expected


@given(st.sampled_from(KNOWN_EPOCHS), st.floats(0.0, 1.0, exclude_max=True))
def test_factors_are_between_0_and_1(schedule: Schedule, fraction: float) -> None:
    assert 0 <= schedule(fraction) <= 1 + 1e-12


@given(
    st.sampled_from([Constant(), Linear(), Cosine(), OneCycle(), Step(), lambda _: 0.5]),
    st.floats(0.01, 0.99),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_warmup_rises_to_the_beginning_of_the_other_schedule(
    schedule: Schedule, length: float, start: float, fraction: float
) -> None:
    warmup = Warmup(schedule, length, start)
    first = schedule(0.0)
    assert warmup(0.0) == pytest.approx(start * first)
    assert warmup(length / 2) == pytest.approx((start + 1) / 2 * first)
    assert warmup(length * (1 - 1e-9)) == pytest.approx(first)
    assert warmup(length) == pytest.approx(first)
    assert warmup(length + (1 - length) * fraction) == pytest.approx(schedule(fraction), abs=1e-6)


def test_warmup_does_not_change_when_an_exponential_schedule_decays() -> None:
    plain, warmed = Exponential(epochs=5), Warmup(Exponential(epochs=5), 0.3)
    fractions = np.arange(0.3, 1.0, 0.01)
    assert [warmed(fraction) for fraction in fractions] == [plain(f) for f in fractions]


def test_schedule_is_found_by_name_or_given_as_a_function() -> None:
    def halved(fraction: float) -> float:
        return 1 - fraction / 2

    assert find_schedule("cosine") is SCHEDULES["cosine"]
    assert find_schedule("cosine", epochs=3) is SCHEDULES["cosine"]
    assert find_schedule(halved) is halved
    with pytest.raises(UnknownNameError, match="'cosine'"):
        find_schedule("cosin")
    with pytest.raises(ParameterError, match=r"schedule is 3; expected 'constant'.* or a function"):
        find_schedule(3)  # type: ignore[arg-type]


def test_number_of_epochs_is_set_where_it_is_missing() -> None:
    assert find_schedule("exponential", epochs=5) == Exponential(epochs=5)
    assert find_schedule(Exponential(0.9, epochs=3), epochs=5) == Exponential(0.9, epochs=3)
    warmup = find_schedule(Warmup("exponential", 0.2), epochs=5)
    assert warmup == Warmup(Exponential(epochs=5), 0.2)
    for schedule in ("exponential", Warmup("exponential")):
        with pytest.raises(ParameterError, match=r"epochs is unknown .* Exponential\(epochs=10\)"):
            Adam(0.1, schedule).coefficients(0, 4)


@pytest.mark.parametrize("schedule", OBJECTS, ids=str)
def test_schedules_are_equal_after_copying(schedule: Schedule) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert clone(schedule, safe=False) == schedule
    assert hash(schedule) == hash(clone(schedule, safe=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(gamma=0.0), r"gamma is 0.0; expected a number in \(0, 1\]"),
        (lambda: Step(gamma=1.5), "gamma is 1.5"),
        (lambda: Step(num_parts=0), "num_parts is 0; expected an integer of at least 1"),
        (lambda: Exponential(gamma=float("nan")), "gamma is nan"),
        (lambda: Exponential(epochs=0), "epochs is 0; expected an integer of at least 1"),
        (lambda: Exponential(epochs=2.5), "epochs is 2.5"),  # type: ignore[arg-type]
        (lambda: OneCycle(warmup=0.0), r"warmup is 0.0; expected a number in \(0, 1\)"),
        (lambda: OneCycle(div_factor=0.0), "div_factor is 0.0; expected a finite number"),
        (lambda: OneCycle(final_div_factor=-1.0), "final_div_factor is -1.0"),
        (lambda: Warmup("cosin"), "did you mean 'cosine'"),
        (lambda: Warmup(3), "schedule is 3"),  # type: ignore[arg-type]
        (lambda: Warmup("cosine", 1.0), r"fraction is 1.0; expected a number in \(0, 1\)"),
        (lambda: Warmup("cosine", start=2.0), r"start is 2.0; expected a number in \[0, 1\]"),
    ],
)
def test_parameters_out_of_range_are_rejected(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
