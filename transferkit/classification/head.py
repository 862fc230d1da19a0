"""The linear head on a network's embedding: multinomial logistic regression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

__all__ = ["Head", "fit_head"]

# Candidates for C, for embeddings of unit length. On photos of cats, dogs and 37 of their breeds,
# accuracy only decreases beyond both ends, while cross-validation on a few hundred images is too
# noisy to avoid these values.
_CANDIDATES = (3.0, 10.0, 30.0, 100.0)
_MAX_FOLDS = 5
_LOG_LIKELIHOOD_WEIGHT = 0.01

# Of the gradient. The candidates are compared by accuracy, the coefficients are kept.
_SELECTION_TOLERANCE = 1e-6
_FINAL_TOLERANCE = 1e-8
# One regression, and those of the cross-validation before it.
_NUM_FITS = 1 + len(_CANDIDATES) * _MAX_FOLDS
# With more images for each logit, the decomposition takes longer than it saves: with 1280
# dimensions and one logit, 200 images were fitted faster without it.
_IMAGES_PER_LOGIT = 100
# Variance along an axis, relative to the largest, that counts as none.
_MIN_VARIANCE = 1e-12

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


class Head(NamedTuple):
    """A linear classifier: the logits are ``embedding @ weight.T + bias``.

    Attributes
    ----------
    weight
        (c, d) float32.
    bias
        (c,) float32.
    C
        The inverse regularization strength that was used.
    cv_accuracy
        The cross-validated accuracy with ``C``, if it was chosen by it, in [0, 1].
    """

    weight: Floats
    bias: Floats
    C: float
    cv_accuracy: float | None


def fit_head(
    embeddings: Floats,
    labels: npt.NDArray[np.intp],
    *,
    C: float | None,
    seed: int,
    sample_weight: Doubles | None = None,
) -> Head:
    """Fit a linear classifier to embeddings.

    Parameters
    ----------
    embeddings
        (n, d) float32.
    labels
        (n,) class indices from 0 to c - 1; each at least twice if ``C`` is None.
    C
        Inverse regularization strength, as in scikit-learn; None: chosen by cross-validation.
    seed
        Seed of the cross-validation folds.
    sample_weight
        (n,) weight of each image, greater than 0; None: all equal.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    num_classes = int(labels.max()) + 1
    # With two classes, scikit-learn has one logit: that of the second minus the first.
    num_logits = 1 if num_classes == 2 else num_classes
    X, axes = _project(embeddings - mean, num_logits if C is not None else num_logits * _NUM_FITS)
    accuracy = None
    if C is None:
        C, accuracy = _choose_C(X, labels, num_logits, seed, sample_weight)
    regression = _regression(C, _FINAL_TOLERANCE, X.shape, num_logits).fit(X, labels, sample_weight)
    weight, intercept = regression.coef_, regression.intercept_
    if num_logits == 1:
        weight = np.concatenate([-weight / 2, weight / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    if axes is not None:
        weight = weight @ axes
    bias = intercept - weight @ mean
    return Head(weight.astype(np.float32), bias.astype(np.float32), C, accuracy)


def _project(centered: Doubles, num_logits: int) -> tuple[Doubles, Doubles | None]:
    """Return embeddings on their principal axes, and the axes, if that makes the fits faster.

    Parameters
    ----------
    centered
        (n, d) embeddings with a mean of 0.
    num_logits
        The number of logits of all regressions together.

    Notes
    -----
    The penalty, the squared norm of the weights, is invariant to rotation, and the weights have
    no component along axes without variance. So the regression on the principal axes, at most
    n - 1 of them, has exactly the same solution as that on all d. Their decomposition takes
    time in proportion to n cubed, which pays off for n well below d.
    """
    n, d = centered.shape
    if n > min(d // 2, num_logits * _IMAGES_PER_LOGIT):
        return centered, None
    variances, vectors = np.linalg.eigh(centered @ centered.T)
    kept = variances > variances[-1] * _MIN_VARIANCE
    if not kept.any():
        # All images are identical.
        return centered, None
    lengths = np.sqrt(variances[kept])
    return vectors[:, kept] * lengths, (vectors[:, kept] / lengths).T @ centered


def _choose_C(  # noqa: N802
    embeddings: Doubles,
    labels: npt.NDArray[np.intp],
    num_logits: int,
    seed: int,
    sample_weight: Doubles | None,
) -> tuple[float, float]:
    """Return the candidate with the best cross-validated accuracy, and that accuracy.

    With a few hundred images accuracy is too coarse to separate the candidates; among those
    that are equal or nearly so, the one with the higher log-likelihood wins.
    """
    folds = StratifiedKFold(
        min(_MAX_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed
    )
    rows = np.arange(len(labels))
    params = None if sample_weight is None else {"sample_weight": sample_weight}

    def score(C: float) -> tuple[float, float]:
        probabilities = cross_val_predict(
            _regression(C, _SELECTION_TOLERANCE, embeddings.shape, num_logits),
            embeddings,
            labels,
            cv=folds,
            method="predict_proba",
            params=params,
        )
        accuracy = np.average(probabilities.argmax(axis=1) == labels, weights=sample_weight)
        log_likelihood = np.average(
            np.log(probabilities[rows, labels] + 1e-12), weights=sample_weight
        )
        return float(accuracy + _LOG_LIKELIHOOD_WEIGHT * log_likelihood), float(accuracy)

    scores = {C: score(C) for C in _CANDIDATES}
    best = max(_CANDIDATES, key=lambda C: scores[C][0])
    return best, scores[best][1]


def _regression(
    C: float, tolerance: float, shape: tuple[int, ...], num_logits: int
) -> LogisticRegression:
    # Both solvers converge close to the optimum, so that features that differ by rounding, as those
    # of two backends do, give the same classifier. L-BFGS is faster for one logit of many images.
    n, d = shape
    solver = "lbfgs" if num_logits == 1 and n > 1.5 * d else "newton-cg"
    return LogisticRegression(C=C, solver=solver, tol=tolerance, max_iter=1000)
