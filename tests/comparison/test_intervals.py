from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.comparison import paired_interval

Correct = npt.NDArray[np.bool_]


def pair(both: int, first: int, second: int, neither: int) -> tuple[Correct, Correct]:
    numbers = [both, first, second, neither]
    return np.repeat([True, True, False, False], numbers), np.repeat(
        [True, False, True, False], numbers
    )


# Fagerland, Lydersen and Laake, 2017, "Statistical Analysis of Contingency Tables", chapter 8:
# complete response before and after consolidation therapy.
def test_published_example() -> None:
    assert paired_interval(*pair(59, 6, 16, 80)) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


counts = st.integers(0, 200)


@given(counts, counts, counts, counts)
def test_it_contains_the_difference_and_is_antisymmetric(
    both: int, first: int, second: int, neither: int
) -> None:
    total = both + first + second + neither
    if not total:
        return
    one, other = pair(both, first, second, neither)
    low, high = paired_interval(one, other)
    assert -1 <= low <= (first - second) / total <= high <= 1
    assert paired_interval(other, one) == pytest.approx((-high, -low))


def test_95_of_100_intervals_contain_the_true_difference() -> None:
    generator = np.random.default_rng(0)
    runs, inside = 2000, 0
    for _ in range(runs):
        # 80% and 75%, mostly wrong on the same images.
        kinds = generator.choice(4, size=300, p=[0.70, 0.10, 0.05, 0.15])
        low, high = paired_interval(kinds <= 1, (kinds == 0) | (kinds == 2))
        inside += low <= 0.05 <= high
    # The standard error of the fraction is 0.005.
    assert 0.935 <= inside / runs <= 0.97
