"""Losses, written over the table of primitives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table

__all__ = ["cross_entropy", "one_hot", "smooth_labels"]


def cross_entropy(table: Table[Any], logits: Any, targets: Any) -> Any:
    """Return the cross-entropy of each image.

    Parameters
    ----------
    table
        The primitives.
    logits
        (n, c) tensor.
    targets
        (n, c) tensor of probabilities; rows sum to 1.

    Returns
    -------
    tensor
        (n,): ``-sum(targets * log_softmax(logits))`` over the classes.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing import ReferenceTable
    >>> from transferkit.training.losses import cross_entropy
    >>> cross_entropy(ReferenceTable(), np.zeros((1, 4)), np.eye(4)[:1]).round(4)
    array([1.3863])
    """
    products = table.multiply(table.log_softmax(logits), targets)
    return table.multiply(table.sum(products, axes=(1,)), table.asarray(-1.0))


def one_hot(indices: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float32]:
    """Return the probabilities (n, c) of images whose classes (n,) are certain.

    Parameters
    ----------
    indices
        (n,) integers in [0, c).
    num_classes
        The number of classes, c.

    Returns
    -------
    array
        (n, c) float32: 1 for the class of the image, 0 for the others.

    Examples
    --------
    >>> from transferkit.training.losses import one_hot
    >>> one_hot([1, 0], 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return np.eye(num_classes, dtype=np.float32)[np.asarray(indices, np.intp)]


def smooth_labels(targets: npt.NDArray[np.float32], smoothing: float) -> npt.NDArray[np.float32]:
    """Return ``(1 - smoothing) * targets + smoothing / c``.

    Szegedy et al., 2016, "Rethinking the Inception Architecture for Computer Vision", section 7.

    Parameters
    ----------
    targets
        (n, c) probabilities.
    smoothing
        In [0, 1).

    Returns
    -------
    array
        (n, c), of the dtype of the targets; rows sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.training.losses import smooth_labels
    >>> smooth_labels(np.eye(2, dtype=np.float32), 0.5).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    smoothed = (1 - smoothing) * targets.astype(np.float64) + smoothing / targets.shape[1]
    return np.asarray(smoothed, targets.dtype)
