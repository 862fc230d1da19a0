from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.errors import ParameterError, UnsupportedError
from transferkit.training import LearningRateRange, geometric_learning_rates

RATES = geometric_learning_rates(1e-6, 10.0, 400)


def falling(rates: npt.NDArray[np.float64], steepest: float) -> npt.NDArray[np.float64]:
    """A loss that falls from 2 to 1, fastest at a rate, and diverges above a rate of 0.1."""
    return 1 + 1 / (1 + (rates / steepest) ** 2) + (rates / 0.1) ** 4


@given(st.floats(1e-12, 1e3), st.floats(1.01, 1e9), st.integers(2, 50))
def test_learning_rates_are_a_geometric_sequence(smallest: float, ratio: float, steps: int) -> None:
    rates = geometric_learning_rates(smallest, smallest * ratio, steps)
    assert rates.shape == (steps,)
    assert rates[0] == smallest
    assert rates[-1] == smallest * ratio
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(ratio) / (steps - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 5), "smallest is 0; expected a finite number greater than 0"),
        ((0.1, math.inf, 5), "largest is inf"),
        ((0.1, 1, 1), "steps is 1; expected an integer of at least 2"),
        ((1.0, 0.1, 5), "smallest is 1.0 and largest 0.1; expected smallest to be less"),
    ],
)
def test_invalid_sequences(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        geometric_learning_rates(*arguments)


@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
def test_the_suggestion_is_where_the_loss_falls_fastest(steepest: float) -> None:
    suggestion = LearningRateRange(RATES, falling(RATES, steepest)).suggestion
    assert suggestion is not None
    # Smaller by up to a tenth of the steps, which are 7 powers of ten.
    assert steepest / 10**0.7 < suggestion < 1.05 * steepest


def test_the_suggestion_of_few_steps_is_that_of_the_losses() -> None:
    rates = geometric_learning_rates(1e-6, 1.0, 7)
    result = LearningRateRange(rates, [8.0, 7.5, 7.0, 4.0, 3.0, 2.9, 50.0])
    # Central differences: the largest fall is from 1e-4 to 1e-2, around 1e-3.
    np.testing.assert_allclose(result.suggestion, 1e-3)


def test_the_suggestion_is_in_the_steepest_part_of_a_broken_line() -> None:
    powers = np.log10(RATES)
    losses = np.interp(powers, [-6, -4, -2, 0, 1], [10, 9, 3, 2, 20])
    suggestion = LearningRateRange(RATES, losses).suggestion
    assert suggestion is not None
    assert 1e-4 < suggestion < 1e-2


def test_the_suggestion_of_noisy_losses() -> None:
    found = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=100)
        rates = geometric_learning_rates(1e-6, 10.0, 100)
        found.append(LearningRateRange(rates, falling(rates, 1e-3) + 0.1 * noise).suggestion)
    assert all(suggestion is not None and 1e-4 < suggestion < 5e-3 for suggestion in found)


def test_smoothed_losses_are_weighted_means() -> None:
    losses = np.random.default_rng(0).normal(size=50)
    rates = geometric_learning_rates(1e-4, 1.0, 50)
    result = LearningRateRange(rates, losses)
    # The weights of an exponential moving average, normalized: those of pandas' `ewm(adjust=True)`.
    for step in (0, 1, 10, 49):
        weights = 0.8 ** np.arange(step, -1, -1.0)
        expected = np.average(losses[: step + 1], weights=weights)
        np.testing.assert_allclose(result.smoothed_losses[step], expected, rtol=1e-12)
        expected = np.exp(np.average(np.log(rates[: step + 1]), weights=weights))
        np.testing.assert_allclose(result.smoothed_learning_rates[step], expected, rtol=1e-12)


def test_smoothed_losses_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    losses = np.random.default_rng(0).normal(size=100)
    expected = pandas.Series(losses).ewm(alpha=0.1, adjust=True).mean()
    result = LearningRateRange(geometric_learning_rates(1e-4, 1.0, 100), losses)
    np.testing.assert_allclose(result.smoothed_losses, expected, rtol=1e-12)


def test_a_straight_line_stays_one_when_smoothed() -> None:
    result = LearningRateRange(RATES, 5 - np.log(RATES))
    np.testing.assert_allclose(
        result.smoothed_losses, 5 - np.log(result.smoothed_learning_rates), rtol=1e-12
    )


def test_few_losses_are_not_smoothed() -> None:
    rates = geometric_learning_rates(1e-3, 1.0, 4)
    result = LearningRateRange(rates, [3.0, 2.9, 1.0, 5.0])
    np.testing.assert_array_equal(result.smoothed_losses, [3.0, 2.9, 1.0, 5.0])
    np.testing.assert_allclose(result.smoothed_learning_rates, rates)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_losses_after_a_divergence_are_ignored(value: float) -> None:
    losses = falling(RATES, 1e-3)
    whole = LearningRateRange(RATES, losses)
    diverged = losses.copy()
    diverged[350] = value
    result = LearningRateRange(RATES, diverged)
    assert result.suggestion == whole.suggestion
    np.testing.assert_array_equal(result.smoothed_losses[:350], whole.smoothed_losses[:350])
    assert np.isnan(result.smoothed_losses[350:]).all()
    # The caller's array is not changed, and changes of it do not matter.
    assert losses[350] != diverged[350]
    diverged[:] = 0
    assert result.suggestion == whole.suggestion


NEVER_FALLING = {
    "nan": np.full(400, math.nan),
    "constant": np.full(400, 1.0),
    "diverged at once": np.r_[1.0, np.full(399, math.inf)],
    "rising": 1 + RATES,
}


@pytest.mark.parametrize("losses", NEVER_FALLING.values(), ids=NEVER_FALLING)
def test_there_is_no_suggestion_unless_the_loss_falls(losses: npt.NDArray[np.float64]) -> None:
    result = LearningRateRange(RATES, losses)
    assert result.suggestion is None
    assert repr(result) == "LearningRateRange(400 steps, 1.0e-06 to 1.0e+01; suggestion none)"


def test_noise_is_not_taken_for_a_fall() -> None:
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=400)
        assert LearningRateRange(RATES, 1 + RATES + 0.1 * noise).suggestion is None


@given(st.lists(st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf]), min_size=2))
def test_a_suggestion_is_one_of_the_rates(losses: list[float]) -> None:
    rates = geometric_learning_rates(1e-6, 1.0, len(losses))
    suggestion = LearningRateRange(rates, losses).suggestion
    assert suggestion is None or 1e-6 <= suggestion <= 1.0


@pytest.mark.parametrize(
    ("rates", "losses", "message"),
    [
        ([0.1], [1.0], "1 learning rates and 1 losses; expected"),
        ([0.1, 0.2], [1.0], "2 learning rates and 1 losses; expected one loss for each"),
        ([0.2, 0.1], [1.0, 1.0], r"learning_rates is \[0.2, 0.1\]; expected .* in ascending order"),
        ([0.0, 0.1], [1.0, 1.0], "greater than 0"),
        ([0.1, math.inf], [1.0, 1.0], "finite"),
        ([math.nan, 0.1], [1.0, 1.0], "finite"),
        ("high", [1.0, 1.0], "learning_rates is 'high'; expected a sequence of numbers"),
        ([0.1, 0.2], [[1.0, 1.0]], r"losses is \[\[1.0, 1.0\]\]; expected a sequence of numbers"),
        ([0.1, 0.2], [[1.0], [1.0, 2.0]], "losses is .*; expected a sequence of numbers"),
    ],
)
def test_invalid_results(rates: object, losses: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        LearningRateRange(rates, losses)  # type: ignore[arg-type]


def test_losses_are_converted_to_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    result = LearningRateRange(RATES, falling(RATES, 1e-3))
    frame = result.to_pandas()
    np.testing.assert_array_equal(frame["learning_rate"], RATES)
    np.testing.assert_array_equal(frame["loss"], result.losses)
    np.testing.assert_array_equal(frame["smoothed_loss"], result.smoothed_losses)
    np.testing.assert_array_equal(frame["smoothed_learning_rate"], result.smoothed_learning_rates)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnsupportedError, match="pip install pandas"):
        result.to_pandas()


def red_pixels(path: Path) -> int:
    """The number of pixels with the color of the suggestion."""
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == [214, 39, 40]).all(axis=2).sum())


def test_the_plot_marks_the_suggestion(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "range.png"
    LearningRateRange(RATES, falling(RATES, 1e-3)).plot(path)
    assert red_pixels(path) > 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("losses", NEVER_FALLING.values(), ids=NEVER_FALLING)
def test_losses_that_never_fall_are_plotted(
    losses: npt.NDArray[np.float64], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "range.png"
    LearningRateRange(RATES, losses).plot(path)
    assert red_pixels(path) == 0


def test_a_plot_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[plots\]"'):
        LearningRateRange(RATES, 1 + RATES).plot(tmp_path / "range.png")
    assert list(tmp_path.iterdir()) == []
