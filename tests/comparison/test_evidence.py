from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from transferkit.comparison import logme
from transferkit.errors import DatasetError, ShapeError


def log_evidence(
    features: npt.NDArray[np.float64], y: npt.NDArray[np.float64], alpha: float, beta: float
) -> float:
    """Equation 2 of the paper, with dense matrices."""
    n, d = features.shape
    A = alpha * np.eye(d) + beta * features.T @ features  # noqa: N806
    m = beta * np.linalg.solve(A, features.T @ y)
    return float(
        n / 2 * np.log(beta)
        + d / 2 * np.log(alpha)
        - n / 2 * np.log(2 * np.pi)
        - beta / 2 * ((features @ m - y) ** 2).sum()
        - alpha / 2 * (m**2).sum()
        - np.linalg.slogdet(A)[1] / 2
    )


def max_log_evidence(features: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """The maximum over alpha and beta, from several starting points.

    Where it is at infinity, the value at the bounds differs by less than 1e-6. Towards it, the
    evidence becomes flatter than the rounding of its gradient, which stops L-BFGS, but not the
    simplex algorithm.
    """

    def loss(logs: npt.NDArray[np.float64]) -> float:
        return -log_evidence(features, y, *np.exp(logs))

    bounds = [(-12, 25), (-12, 25)]
    results = [
        minimize(
            loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-9}
        )
        for start in itertools.product((-3.0, 2.0), (0.0, 3.0))
    ]
    best = min(results, key=lambda result: float(result.fun))
    options = {"xatol": 1e-9, "fatol": 1e-12}
    refined = minimize(loss, best.x, method="Nelder-Mead", bounds=bounds, options=options)
    return -float(refined.fun)


def random_data(
    n: int, d: int, classes: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Noise around a center of each class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centers = generator.normal(size=(classes, d))
    return generator.normal(size=(n, d)) + centers[labels], labels


@pytest.mark.parametrize(
    ("n", "d", "classes"), [(40, 5, 2), (80, 20, 4), (25, 25, 2), (30, 60, 3), (50, 1, 2)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_maximum_of_the_evidence(n: int, d: int, classes: int, seed: int) -> None:
    features, labels = random_data(n, d, classes, seed)
    expected = np.mean(
        [max_log_evidence(features, (labels == one).astype(float)) for one in range(classes)]
    )
    assert logme(features, labels) == pytest.approx(expected / n, abs=1e-6, rel=0)


def test_the_evidence_is_the_density_of_the_labels() -> None:
    # The same from its definition: y is normal with the covariance F F^T / alpha + 1 / beta.
    features, labels = random_data(20, 4, 2, 0)
    y = (labels == 1).astype(float)
    covariance = features @ features.T / 0.7 + np.eye(20) / 3.0
    expected = multivariate_normal(cov=covariance).logpdf(y)
    assert log_evidence(features, y, 0.7, 3.0) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 1000), n=st.integers(6, 40), d=st.integers(1, 50))
def test_rotation_scale_and_names_do_not_matter(seed: int, n: int, d: int) -> None:
    features, labels = random_data(n, d, 2, seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))
    names = np.array(["dog", "cat"])[labels]
    order = np.random.default_rng(seed).permutation(n)
    other = logme(7.5 * (features @ rotation)[order], names[order])
    assert other == pytest.approx(logme(features, labels), abs=1e-6)


def test_no_number_of_axes_without_information_matters() -> None:
    features, labels = random_data(40, 5, 2, 0)
    padded = np.hstack([features, np.zeros((40, 100))])
    assert logme(padded, labels) == pytest.approx(logme(features, labels), abs=1e-6)


def test_labels_that_features_explain_exactly_are_finite() -> None:
    labels = np.repeat([0, 1], 20)
    assert np.isfinite(logme(np.eye(2)[labels], labels))


def test_bad_input() -> None:
    features, labels = random_data(10, 3, 2, 0)
    with pytest.raises(ShapeError, match=r"shape \(10,\) and dtype float64"):
        logme(features[:, 0], labels)
    with pytest.raises(ShapeError, match="all zero"):
        logme(np.zeros((10, 3)), labels)
    with pytest.raises(ShapeError, match="NaN"):
        logme(np.full((10, 3), np.nan), labels)
    with pytest.raises(DatasetError, match="10 rows of features, but 9 labels"):
        logme(features, labels[:9])
    with pytest.raises(DatasetError, match="at least two classes"):
        logme(features, np.zeros(10, int))
