"""Time `fit_head` against the solvers of scikit-learn, in turn, for the same solution.

    python tests/benchmarks/head.py [--classes 2 37] [--images 20 200 2000 20000]

A solver counts if its probabilities differ from the exact ones by at most 1e-5. For each it takes
the loosest tolerance of several that achieves that, so that it is compared at its best.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transferkit.classification.head import fit_head

DIMENSIONS = 1280
C = 10.0
ACCURACY = 1e-5
SOLVERS = {
    "lbfgs": (1e-4, 1e-5, 1e-6, 1e-7),
    "newton-cg": (1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
    "newton-cholesky": (1e-4, 1e-6, 1e-8),
}
# The Hessian of newton-cholesky has this many rows: with more, it takes minutes and gigabytes.
MAX_HESSIAN = 6000

Probabilities = npt.NDArray[np.float64]


def embeddings(number: int, classes: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Return vectors of unit length around a center for each class, as a network's are."""
    generator = np.random.default_rng(number + classes)
    centers = generator.gamma(0.5, size=(classes, DIMENSIONS))
    labels = np.arange(number) % classes
    X = np.maximum(centers[labels] + generator.gamma(0.5, size=(number, DIMENSIONS)) - 0.4, 0)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X.astype(np.float32), labels


def with_head(X: npt.NDArray[np.float32], labels: npt.NDArray[np.intp]) -> Probabilities:
    head = fit_head(X, labels, C=C, seed=0)
    return np.asarray(softmax(X @ head.weight.T + head.bias, axis=1))


def with_solver(solver: str, tolerance: float) -> Callable[..., Probabilities]:
    def fit(X: npt.NDArray[np.float32], labels: npt.NDArray[np.intp]) -> Probabilities:
        X = X.astype(np.float64)
        regression = LogisticRegression(C=C, solver=solver, tol=tolerance, max_iter=5000)
        return np.asarray(regression.fit(X, labels).predict_proba(X))

    return fit


def seconds(fit: Callable[..., Probabilities], *arguments: object) -> float:
    start = time.perf_counter()
    fit(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[20, 200, 2000, 6000, 20000])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 37])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("classes  images  fit_head (s)  best of scikit-learn    (s)  ratio  difference")
    for classes in options.classes:
        for number in options.images:
            if number < 2 * classes:
                continue
            X, labels = embeddings(number, classes)
            exact = with_solver("newton-cg", 1e-10)(X, labels)
            fits: dict[str, Callable[..., Probabilities]] = {}
            for solver, tolerances in SOLVERS.items():
                size = DIMENSIONS * (classes if classes > 2 else 1)
                if solver == "newton-cholesky" and size > MAX_HESSIAN:
                    continue
                for tolerance in tolerances:
                    fit = with_solver(solver, tolerance)
                    if np.abs(fit(X, labels) - exact).max() <= ACCURACY:
                        fits[solver] = fit
                        break
            times: dict[str, list[float]] = {name: [] for name in ("head", *fits)}
            for _ in range(options.rounds):
                for name, fit in {"head": with_head, **fits}.items():
                    times[name].append(seconds(fit, X, labels))
            medians = {name: statistics.median(values) for name, values in times.items()}
            best = min(fits, key=lambda name: medians[name])
            difference = np.abs(with_head(X, labels) - exact).max()
            print(
                f"{classes:7} {number:7} {medians['head']:13.3f}  {best:21} {medians[best]:6.3f} "
                f"{medians['head'] / medians[best]:6.2f}  {difference:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
