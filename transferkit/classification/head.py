"""The classifier that is put on a network's embedding: logistic regression, as two arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

__all__ = ["fit_head"]

# Inverse regularisation strengths to choose from, for embeddings of length 1. Tried out on
# photos of cats, dogs and 37 breeds of them: beyond these ends accuracy only falls, while
# cross-validation on a few hundred photos is too noisy to keep away from there.
_STRENGTHS = (3.0, 10.0, 30.0, 100.0)
_MAX_FOLDS = 5
_WEIGHT_OF_LIKELIHOOD = 0.01


def fit_head(
    embeddings: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    *,
    strength: float | None,
    seed: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """Fit a linear classifier to embeddings.

    Parameters
    ----------
    embeddings
        (n, d).
    labels
        (n,) class indices from 0 to c - 1, each of them at least twice.
    strength
        Inverse strength of the regularisation, scikit-learn's ``C``; None chooses it by
        cross-validation.
    seed
        For drawing the folds.

    Returns
    -------
    weight
        (c, d) float32; ``embedding @ weight.T + bias`` are the logits.
    bias
        (c,) float32.
    strength
        The one that was used.
    """
    mean = embeddings.mean(axis=0, dtype=np.float64)
    # What the penalty is on, the length of the weights, does not change when the axes are
    # turned, and no weight can be gained along an axis on which no picture differs. So the
    # fit is done on at most n - 1 axes instead of d: exact, and many times faster.
    _, lengths, axes = np.linalg.svd(embeddings - mean, full_matrices=False)
    # Where all pictures are the same, all axes are kept: one at least is needed.
    axes = axes[lengths >= lengths[0] * np.finfo(np.float32).eps * max(embeddings.shape)]
    turned = (embeddings - mean) @ axes.T
    if strength is None:
        strength = _choose_strength(turned, labels, seed)
    regression = _regression(strength).fit(turned, labels)
    weight, intercept = regression.coef_, regression.intercept_
    if len(weight) == 1:
        # With two classes there is one logit, that of the second against the first.
        weight = np.concatenate([-weight / 2, weight / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    weight = weight @ axes
    bias = intercept - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32), strength


def _choose_strength(
    embeddings: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], seed: int
) -> float:
    """The strength with the best cross-validated accuracy.

    Accuracy moves in steps too coarse to tell strengths apart from a few hundred pictures.
    Where two are equal or nearly so, the one under which the truth was likelier is better.
    """
    folds = StratifiedKFold(
        min(_MAX_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed
    )
    rows = np.arange(len(labels))

    def score(strength: float) -> float:
        regression = _regression(strength)
        found = cross_val_predict(regression, embeddings, labels, cv=folds, method="predict_proba")
        accuracy = np.mean(found.argmax(axis=1) == labels)
        log_likelihood = np.mean(np.log(found[rows, labels] + 1e-12))
        return float(accuracy + _WEIGHT_OF_LIKELIHOOD * log_likelihood)

    return max(_STRENGTHS, key=score)


def _regression(strength: float) -> LogisticRegression:
    # Newton's method takes few, large steps and gets close to the optimum, so that features
    # that differ in the last digits, as those of two backends do, give the same classifier.
    return LogisticRegression(C=strength, solver="newton-cg", tol=1e-6, max_iter=1000)
