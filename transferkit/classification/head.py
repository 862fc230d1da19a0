"""The linear head on a network's embedding: multinomial logistic regression."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from transferkit.classification.temperature import cross_entropies, fit_temperature

__all__ = ["Head", "fit_head", "make_folds"]

# Candidates for C, for embeddings of unit length. On photos of cats, dogs and 37 of their breeds,
# accuracy only decreases beyond both ends, while cross-validation on a few hundred images is too
# noisy to avoid these values.
_CANDIDATES = (3.0, 10.0, 30.0, 100.0)
_MAX_FOLDS = 5
_LOG_LIKELIHOOD_WEIGHT = 0.01

# Of the gradient. The candidates are compared by accuracy, the coefficients are kept.
_SELECTION_TOLERANCE = 1e-6
_FINAL_TOLERANCE = 1e-8
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
    temperature
        By which the logits are divided before the softmax, from those of the images in the
        cross-validation that each classifier was not fitted to; 1 without one.
    """

    weight: Floats
    bias: Floats
    C: float
    cv_accuracy: float | None
    temperature: float


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
    num_fits = 1 if C is not None else 1 + len(_CANDIDATES) * _MAX_FOLDS
    X, axes = _project(embeddings - mean, num_logits * num_fits)
    # With C given, the result is exactly that of scikit-learn: probabilities as well.
    chosen, accuracy, temperature = C, None, 1.0
    with _without_regression_warning():
        if chosen is None:
            chosen, accuracy, held_out = _choose_C(X, labels, seed, sample_weight)
            temperature = fit_temperature(held_out, labels, sample_weight)
        regression = _regression(chosen, _FINAL_TOLERANCE, X.shape, num_logits)
        regression.fit(X, labels, sample_weight)
    weight, intercept = regression.coef_, regression.intercept_
    if num_logits == 1:
        weight = np.concatenate([-weight / 2, weight / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    if axes is not None:
        weight = weight @ axes
    bias = intercept - weight @ mean
    return Head(
        weight.astype(np.float32),
        bias.astype(np.float32),
        chosen,
        accuracy,
        temperature,
    )


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


def make_folds(labels: npt.NDArray[np.intp], seed: int) -> StratifiedKFold:
    """Return the folds of the cross-validation: five, or as many as the smallest class has images.

    Parameters
    ----------
    labels
        (n,) class indices; each at least twice.
    seed
        Seed of the folds.
    """
    number = min(_MAX_FOLDS, int(np.bincount(labels).min()))
    return StratifiedKFold(number, shuffle=True, random_state=seed)


@contextmanager
def _without_regression_warning() -> Iterator[None]:
    """Leave out the warning that the labels, if nearly all differ, may be those of a regression.

    They are class indices, and scikit-learn warns in each of the fits.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def _choose_C(  # noqa: N802
    embeddings: Doubles,
    labels: npt.NDArray[np.intp],
    seed: int,
    sample_weight: Doubles | None,
) -> tuple[float, float, Doubles]:
    """Return the candidate with the best cross-validated accuracy, that accuracy, and the logits.

    With a few hundred images accuracy is too coarse to separate the candidates; among those
    that are equal or nearly so, the one with the higher log-likelihood wins. The logits (n, c)
    are those of each image in the fold whose classifier was not fitted to it.
    """
    num_classes = int(labels.max()) + 1
    num_logits = 1 if num_classes == 2 else num_classes
    folds = make_folds(labels, seed)
    params = None if sample_weight is None else {"sample_weight": sample_weight}
    best = (-math.inf, _CANDIDATES[0], 0.0, np.empty(0))
    for C in _CANDIDATES:
        # With the routing of metadata, which users may enable, weights would need a request.
        with config_context(enable_metadata_routing=False):
            logits = cross_val_predict(
                _regression(C, _SELECTION_TOLERANCE, embeddings.shape, num_logits),
                embeddings,
                labels,
                cv=folds,
                method="decision_function",
                params=params,
            )
        if num_logits == 1:
            logits = np.stack([-logits / 2, logits / 2], axis=1)
        accuracy = float(np.average(logits.argmax(axis=1) == labels, weights=sample_weight))
        loss = float(np.average(cross_entropies(logits, labels), weights=sample_weight))
        score = accuracy - _LOG_LIKELIHOOD_WEIGHT * loss
        if score > best[0]:
            best = (score, C, accuracy, logits)
    return best[1:]


def _regression(
    C: float, tolerance: float, shape: tuple[int, ...], num_logits: int
) -> LogisticRegression:
    # Both solvers converge close to the optimum, so that features that differ by rounding, as those
    # of two backends do, give the same classifier. L-BFGS is faster for one logit of many images.
    n, d = shape
    solver = "lbfgs" if num_logits == 1 and n > 1.5 * d else "newton-cg"
    return LogisticRegression(C=C, solver=solver, tol=tolerance, max_iter=1000)
