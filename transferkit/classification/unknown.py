"""How far an image is from the training images: the score of an unknown image.

The score is the squared Mahalanobis distance of the embedding, of length 1, to the mean of the
nearest class (Lee et al., 2018, "A Simple Unified Framework for Detecting Out-of-Distribution
Samples and Adversarial Attacks", section 2.1), divided by the number of dimensions. The covariance
is that within the classes, shrunk half-way towards a multiple of the identity, since there are
often fewer images than dimensions (Ledoit and Wolf, 2004, "A Well-Conditioned Estimator for
Large-Dimensional Covariance Matrices"); variances beyond the largest `_MAX_AXES` are replaced by
their mean.

On photos of animals, waste, textures and characters, this separates images of the other kinds from
test images as well as the distance to the nearest training images does, without keeping these.
Only with this much shrinkage are the scores of held-out images like those of new ones: with less,
a distance depends on how many images the covariance was estimated from.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from transferkit.classification.head import make_folds
from transferkit.models import Model
from transferkit.networks.passes import UNKNOWN_SCORE, add_unknown_score

__all__ = [
    "DistanceWeights",
    "KnownScores",
    "distances",
    "fit_distance",
    "held_out_scores",
    "with_unknown_score",
]

Doubles: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.float32]

_MAX_AXES = 128
_SHRINKAGE = 0.5
# The sum of the variances of embeddings of length 1. Of identical images it is 0.
_MIN_VARIANCE = 1e-4
_NUM_QUANTILES = 1001


class DistanceWeights(NamedTuple):
    """The weights of the layers of `transferkit.networks.add_unknown_score`.

    Attributes
    ----------
    axes
        (k, d) float32.
    offset
        (k,) float32.
    weight
        (c, d) float32.
    bias
        (c,) float32.
    scale
        (1, 1) float32.
    shift
        (1,) float32.
    """

    axes: Floats
    offset: Floats
    weight: Floats
    bias: Floats
    scale: Floats
    shift: Floats


@dataclasses.dataclass(frozen=True)
class KnownScores:
    """The scores of images of known classes that the score was not fitted to.

    Attributes
    ----------
    quantiles
        From the lowest to the highest score, at equal steps of the share of images.
    """

    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating]) -> KnownScores:
        """Return the quantiles of some scores (n,).

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit.classification.unknown import KnownScores
        >>> KnownScores.of(np.arange(101.0)).threshold(0.98)
        98.0
        """
        steps = np.linspace(0, 1, _NUM_QUANTILES)
        return cls(tuple(np.quantile(scores.astype(np.float64), steps).tolist()))

    def threshold(self, share: float) -> float:
        """Return the score that a share of the images, in [0, 1], does not exceed."""
        steps = np.linspace(0, 1, len(self.quantiles))
        return float(np.interp(share, steps, self.quantiles))


def fit_distance(embeddings: Floats, labels: npt.NDArray[np.intp]) -> DistanceWeights:
    """Return the weights of the score from the embeddings of training images.

    Parameters
    ----------
    embeddings
        (n, d) float32, of length 1.
    labels
        (n,) class indices from 0 to c - 1, each at least once.
    """
    X = embeddings.astype(np.float64)
    number, d = X.shape
    counts = np.bincount(labels)
    center = X.mean(axis=0)
    means = np.zeros((len(counts), d))
    np.add.at(means, labels, X)
    means = means / counts[:, None] - center
    residuals = X - center - means[labels]
    variances, axes = _largest_variances(residuals, max(number - len(counts), 1))
    total = float((residuals**2).sum()) / max(number - len(counts), 1)
    mean_variance = max(total, _MIN_VARIANCE) / d
    rest = max(total - float(variances.sum()), 0.0) / max(d - len(variances), 1)
    # Of the directions without an axis, and of the axes.
    other = (1 - _SHRINKAGE) * rest + _SHRINKAGE * mean_variance
    along = (1 - _SHRINKAGE) * variances + _SHRINKAGE * mean_variance
    axes = axes * np.sqrt(np.maximum(1 / other - 1 / along, 0.0))[:, None]
    projected = means @ axes.T
    # The squared norm of the embedding, minus that of the center, is linear: embeddings have
    # length 1.
    weight = -2 * (center + means) / other + 2 * projected @ axes
    offset = -axes @ center
    norms = ((center + means) ** 2).sum(axis=1)
    bias = (1 + norms) / other - (projected**2).sum(axis=1) + 2 * projected @ offset
    return DistanceWeights(
        axes.astype(np.float32),
        offset.astype(np.float32),
        (-weight).astype(np.float32),
        (-bias).astype(np.float32),
        np.full((1, 1), -1 / d, np.float32),
        np.zeros(1, np.float32),
    )


def _largest_variances(residuals: Doubles, degrees: int) -> tuple[Doubles, Doubles]:
    """Return the largest variances, and the axes along which they are, in descending order."""
    n, d = residuals.shape
    is_wide = n < d
    gram = residuals @ residuals.T if is_wide else residuals.T @ residuals
    last = len(gram) - 1
    values, vectors = eigh(gram, subset_by_index=(max(len(gram) - _MAX_AXES, 0), last))
    values, vectors = values[::-1], vectors[:, ::-1]
    # Others are the results of rounding.
    kept = values > max(values[0], 1e-30) * 1e-10
    values, vectors = values[kept], vectors[:, kept]
    axes = (vectors / np.sqrt(values)).T @ residuals if is_wide else vectors.T
    return values / degrees, axes


def distances(embeddings: Floats, weights: DistanceWeights) -> Floats:
    """Return the scores (n,) of embeddings (n, d) of length 1, as the network computes them."""
    along = embeddings @ weights.axes.T + weights.offset
    nearest = (embeddings @ weights.weight.T + weights.bias).max(axis=1)
    scores = (nearest + (along * along).sum(axis=1)) * weights.scale[0, 0] + weights.shift[0]
    return np.asarray(scores, np.float32)


def held_out_scores(embeddings: Floats, labels: npt.NDArray[np.intp], *, seed: int) -> KnownScores:
    """Return the scores of training images, each by a score that is fitted to other folds.

    Parameters
    ----------
    embeddings, labels
        As for `fit_distance`; each class at least twice.
    seed
        Seed of the folds.
    """
    scores = np.empty(len(labels), np.float32)
    for rows, held_out in make_folds(labels, seed).split(embeddings, labels):
        weights = fit_distance(embeddings[rows], labels[rows])
        scores[held_out] = distances(embeddings[held_out], weights)
    return KnownScores.of(scores)


def with_unknown_score(model: Model, weights: DistanceWeights) -> Model:
    """Return a model with the layer ``unknown_score``, on the input of its ``logits``.

    Parameters
    ----------
    model
        The model; it is not changed. Its earlier score is replaced.
    weights
        Of the score.
    """
    network = model.network
    arrays = dict(model.weights)
    for name, array in weights._asdict().items():
        array.setflags(write=False)
        arrays[f"unknown.{name}"] = array
    if UNKNOWN_SCORE in network.layers:
        # The number of axes depends on that of the images.
        shapes = {name: arrays[name].shape for name in network.parameters}
        network = dataclasses.replace(network, parameters=shapes)
    else:
        (num_axes, size), num_classes = weights.axes.shape, len(weights.bias)
        network = add_unknown_score(network, num_axes=num_axes, num_classes=num_classes, size=size)
    return dataclasses.replace(
        model, network=network, weights={name: arrays[name] for name in network.parameters}
    )
