"""LogME: how well a linear model can explain labels from features, without fitting a classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from transferkit.datasets.labels import Labels, label_array
from transferkit.errors import DatasetError, ShapeError
from transferkit.support.numerics import as_array

__all__ = ["logme"]

# Squared singular values below this fraction of the largest one are rounding errors of `eigh`.
_MIN_VARIANCE = 1e-13
# Limits of alpha / beta relative to the largest squared singular value. At the upper one the
# features are ignored. The lower one matters only if features explain labels without any error.
_MIN_RATIO = 1e-9
_MAX_RATIO = 1e9
_GRID = 73

Doubles = npt.NDArray[np.float64]


def logme(features: npt.ArrayLike, labels: Labels) -> float:
    r"""Return the LogME of features for labels: the higher, the better they suit each other.

    For each class, the labels are y = 1 for its images and 0 for the others. A linear model
    explains them from the features F: y = F w + noise, where the weights are normal with variance
    1 / alpha and the noise is normal with variance 1 / beta. The evidence is the density of y with
    the weights integrated out, for the alpha and beta that maximize it; LogME is its logarithm for
    each image, averaged over the classes.

    Parameters
    ----------
    features
        (n, d) the embedding of each image, as the network computes it.
    labels
        (n,) the label of each image, of at least two classes.

    Returns
    -------
    float
        In nats for each image. Comparable between networks for the same images and labels.

    Raises
    ------
    ShapeError
        If features are not a finite array (n, d), or not all zero.
    DatasetError
        If there is not one label for each row, or only one class.

    Notes
    -----
    For a given ratio t = alpha / beta the best beta has a closed form, so that one number is left
    to search, on a grid that is then refined. alpha / beta is at least 1e-9 times the largest
    squared singular value of the features: if these explain the labels exactly, the evidence has
    no maximum.

    References
    ----------
    You, Liu, Wang and Long, 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning", section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.comparison import logme
    >>> generator = np.random.default_rng(0)
    >>> labels = np.repeat(["cat", "dog"], 50)
    >>> noise = generator.normal(size=(100, 8))
    >>> signal = noise + 3 * (labels == "cat")[:, None]
    >>> logme(signal, labels) > logme(noise, labels)
    True
    """
    matrix = _checked_features(features)
    classes, indices = np.unique(label_array(labels), return_inverse=True)
    if len(indices) != len(matrix):
        raise DatasetError(f"there are {len(matrix)} rows of features, but {len(indices)} labels")
    if len(classes) < 2:
        raise DatasetError("LogME needs labels of at least two classes")
    squares, axes = _spectrum(matrix)
    targets = np.eye(len(classes))[indices]
    explained = (axes.T @ targets) ** 2
    norms = (targets**2).sum(axis=0)
    rest = np.maximum(norms - explained.sum(axis=0), 0.0)
    if len(squares) == len(matrix):
        # What is left is only rounding.
        rest[:] = 0.0
    evidences = [
        _max_evidence(squares, explained[:, index], float(rest[index]), len(matrix))
        for index in range(len(classes))
    ]
    return float(np.mean(evidences) / len(matrix))


def _checked_features(features: npt.ArrayLike) -> Doubles:
    """Return features as an array (n, d) of float64."""
    array = as_array(features)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise ShapeError(
            f"features have shape {array.shape} and dtype {array.dtype}; expected numbers (n, d), "
            "one row for each image"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all() or not array.any():
        raise ShapeError("features have values that are NaN or infinite, or are all zero")
    return array


def _spectrum(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Return the squared singular values of features, and their left singular vectors.

    Returns
    -------
    squares
        (r,) greater than 0.
    axes
        (n, r) orthonormal columns.
    """
    n, d = matrix.shape
    squares, vectors = np.linalg.eigh(matrix @ matrix.T if n <= d else matrix.T @ matrix)
    kept = squares > squares[-1] * _MIN_VARIANCE
    squares, vectors = squares[kept], vectors[:, kept]
    return squares, vectors if n <= d else matrix @ (vectors / np.sqrt(squares))


def _max_evidence(squares: Doubles, explained: Doubles, rest: float, n: int) -> float:
    """Return the largest logarithm of the evidence of one class.

    Parameters
    ----------
    squares
        (r,) squared singular values of the features.
    explained
        (r,) squared coordinates of the labels on the left singular vectors.
    rest
        The squared length of the labels outside of their span.
    n
        The number of images.
    """

    def minus_evidence(log_ratio: Doubles | float) -> Doubles:
        # y is normal with the covariance (1 + F F^T / t) / beta, and n / misfit is the best beta.
        t = np.exp(log_ratio)
        scaled = squares / np.expand_dims(t, -1)
        misfit = rest + (explained / (1 + scaled)).sum(axis=-1)
        fit = n * (np.log(n / (2 * np.pi)) - np.log(misfit) - 1)
        return np.asarray(-(fit - np.log1p(scaled).sum(axis=-1)) / 2)

    largest = np.log(squares[-1])
    grid = np.linspace(largest + np.log(_MIN_RATIO), largest + np.log(_MAX_RATIO), _GRID)
    values = minus_evidence(grid)
    best = int(values.argmin())
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)])
    refined = minimize_scalar(
        lambda log_ratio: float(minus_evidence(log_ratio)),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-9},
    )
    return -min(float(refined.fun), float(values[best]))
