"""Labels that the cross-validated probe disagrees with, and outliers of their class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.utils.extmath import randomized_svd

from transferkit.classification.head import fit_head

__all__ = ["Disagreement", "label_disagreement", "outlier_scores"]

_FOLDS = 5
# A class with fewer images, copies not counted, cannot be judged.
_MIN_IMAGES = 3
# Of the probe. A strong regularization, so that single wrong labels have little weight.
_C = 3.0
_AXES = 256
# Images above this margin are left out of the training of the second round.
_SUSPECT = 0.5

# Outliers: the neighbors of the same class that are compared with, and the number of images below
# which a class has no outliers.
_NEIGHBORS = 5
_MIN_CLASS = 20
# The standard deviation of a normal distribution, in median absolute deviations.
_DEVIATIONS = 1.4826
# Similarities of one class differ at least so much, or all but identical images would have
# outliers.
_MIN_DEVIATION = 0.01

Floats = npt.NDArray[np.float32]


class Disagreement(NamedTuple):
    """What the probe thinks of each label.

    Attributes
    ----------
    margins
        (n,) the probability of the most probable other class, minus that of the label, in
        [-1, 1]; NaN where the class has too few images.
    predicted
        (n,) the most probable other class, as an index.
    """

    margins: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.intp]


def label_disagreement(
    embeddings: Floats,
    labels: npt.NDArray[np.intp],
    groups: npt.NDArray[np.intp],
    seed: int,
) -> Disagreement:
    """Return how much the cross-validated probe disagrees with each label.

    Parameters
    ----------
    embeddings
        (n, d) of unit length.
    labels
        (n,) class indices.
    groups
        (n,) copies of one image have the same number and stay in one fold.
    seed
        Seed of the folds.

    Notes
    -----
    The probabilities are those of a classifier that was trained on the other folds. The images are
    ordered by the margin between given and predicted class, one of the rankings of confident
    learning (Northcutt, Jiang and Chuang 2021). In a second round the images with the largest
    margins are left out of the training, since wrong labels bias the classifier.
    """
    margins = np.full(len(labels), np.nan)
    predicted = np.zeros(len(labels), np.intp)
    counts = np.array([len(np.unique(groups[labels == one])) for one in range(labels.max() + 1)])
    classes = np.flatnonzero(counts >= _MIN_IMAGES)
    rows = np.flatnonzero(np.isin(labels, classes))
    if len(classes) < 2:
        return Disagreement(margins, predicted)
    X, y = _principal_axes(embeddings[rows]), np.searchsorted(classes, labels[rows])
    folds = _assign_folds(y, groups[rows], seed)
    trusted = np.ones(len(rows), bool)
    for _ in range(2):
        probabilities = _cross_validate(X, y, folds, trusted)
        own = probabilities[np.arange(len(rows)), y]
        probabilities[np.arange(len(rows)), y] = -1.0
        best = probabilities.argmax(axis=1)
        margin = probabilities[np.arange(len(rows)), best] - own
        trusted = margin < _SUSPECT
    margins[rows], predicted[rows] = margin, classes[best]
    return Disagreement(margins, predicted)


def _principal_axes(embeddings: Floats) -> Floats:
    """Return the embeddings on their first principal axes, which makes the fits much faster."""
    if min(embeddings.shape) <= _AXES:
        return embeddings
    centered = embeddings - embeddings.mean(axis=0)
    left, scales, _ = randomized_svd(centered, _AXES, n_iter=2, random_state=0)
    projected: Floats = (left * scales).astype(np.float32)
    return projected


def _assign_folds(
    labels: npt.NDArray[np.intp], groups: npt.NDArray[np.intp], seed: int
) -> npt.NDArray[np.intp]:
    """Return the fold of each image: classes in proportion, groups in one fold."""
    generator = np.random.default_rng(seed)
    # A group belongs to the class of its first image.
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    folds = np.empty(len(first), np.intp)
    for label in np.unique(labels[first]):
        members = generator.permutation(np.flatnonzero(labels[first] == label))
        folds[members] = (generator.integers(_FOLDS) + np.arange(len(members))) % _FOLDS
    return folds[group]


def _cross_validate(
    embeddings: Floats,
    labels: npt.NDArray[np.intp],
    folds: npt.NDArray[np.intp],
    trusted: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return the probabilities of each image by a probe trained on the other folds."""
    probabilities = np.zeros((len(labels), labels.max() + 1))
    for fold in np.unique(folds):
        train = (folds != fold) & trusted
        # A class all of whose images are suspect is trained with them.
        for label in np.setdiff1d(labels, labels[train]):
            train |= (folds != fold) & (labels == label)
        known, y = np.unique(labels[train], return_inverse=True)
        held_out = np.flatnonzero(folds == fold)
        if len(known) < 2:
            # All copies of a class, or of all but one, are in this fold.
            probabilities[held_out] = 1 / probabilities.shape[1]
            continue
        head = fit_head(embeddings[train], y, C=_C, seed=0)
        logits = (embeddings[held_out] @ head.weight.T + head.bias).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities[np.ix_(held_out, known)] = exponentials / exponentials.sum(
            axis=1, keepdims=True
        )
    return probabilities


def outlier_scores(embeddings: Floats, labels: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Return how unlike the others of its class each image is.

    Parameters
    ----------
    embeddings
        (n, d) of unit length.
    labels
        (n,) class indices.

    Returns
    -------
    array
        (n,) by how many standard deviations the mean cosine similarity to the five most similar
        images of the class is below the median of the class; NaN in classes of fewer than 20
        images. The standard deviation is estimated from the median absolute deviation.
    """
    scores = np.full(len(labels), np.nan)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < _MIN_CLASS:
            continue
        members = embeddings[rows]
        similarity = np.empty(len(rows))
        block = max(1, 10_000_000 // len(rows))
        for start in range(0, len(rows), block):
            products = members[start : start + block] @ members.T
            # All of an image's neighbors but itself.
            products[np.arange(len(products)), start + np.arange(len(products))] = -np.inf
            nearest = np.partition(products, -_NEIGHBORS, axis=1)[:, -_NEIGHBORS:]
            similarity[start : start + block] = nearest.mean(axis=1)
        median = np.median(similarity)
        deviation = _DEVIATIONS * np.median(np.abs(similarity - median))
        scores[rows] = (median - similarity) / max(deviation, _MIN_DEVIATION)
    return scores
