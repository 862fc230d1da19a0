"""Weights of images and of classes, checked and combined."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.classification.labels import format_labels
from transferkit.errors import ParameterError, shorten
from transferkit.support.numerics import as_array
from transferkit.support.validation import check_non_negative

__all__ = [
    "ClassWeight",
    "SampleWeight",
    "check_class_weight",
    "check_sample_weight",
    "combine_weights",
]

ClassWeight: TypeAlias = Mapping[Hashable, float] | str | None
"""The types of the parameter ``class_weight``."""

SampleWeight: TypeAlias = Sequence[float] | npt.NDArray[Any]
"""The types of the parameter ``sample_weight``, besides None."""

_BALANCED = "balanced"


def check_sample_weight(
    sample_weight: SampleWeight | None, number: int
) -> npt.NDArray[np.float64] | None:
    """Return the weights of ``number`` images as an array; None if there are none.

    Raises
    ------
    ParameterError
        If they are not ``number`` finite numbers of at least 0, or are all 0.
    """
    if sample_weight is None:
        return None
    try:
        weights = as_array(sample_weight, np.float64)
    except (TypeError, ValueError):
        raise ParameterError(
            f"sample_weight is {shorten(sample_weight)}; expected an array of numbers"
        ) from None
    if weights.shape != (number,):
        raise ParameterError(
            f"sample_weight has shape {weights.shape}; expected ({number},), one weight for each "
            "image"
        )
    valid = np.isfinite(weights) & (weights >= 0)
    if not valid.all():
        index = int(valid.argmin())
        check_non_negative(f"sample_weight[{index}]", weights[index].item())
    if number and not weights.any():
        raise ParameterError(
            "sample_weight is zero for all images; expected at least one weight greater than 0"
        )
    return weights


def check_class_weight(class_weight: ClassWeight, classes: npt.NDArray[Any]) -> None:
    """Check the weights of classes.

    Raises
    ------
    ParameterError
        If a label is not in ``classes``, a weight is not a finite number of at least 0, or
        ``class_weight`` is neither a mapping, nor ``"balanced"``, nor None.
    """
    if class_weight is None or (isinstance(class_weight, str) and class_weight == _BALANCED):
        return
    if not isinstance(class_weight, Mapping):
        raise ParameterError(
            f"class_weight is {shorten(class_weight)}; expected a mapping from label to weight, "
            f"{_BALANCED!r} or None"
        )
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise ParameterError(
            f"class_weight has unknown labels: {format_labels(unknown)}; y has "
            f"{format_labels(known)}"
        )
    for label, weight in class_weight.items():
        check_non_negative(f"class_weight[{shorten(label)}]", weight)


def combine_weights(
    classes: npt.NDArray[Any],
    indices: npt.NDArray[np.intp],
    sample_weight: npt.NDArray[np.float64] | None,
    class_weight: ClassWeight,
) -> npt.NDArray[np.float64]:
    """Return the weight of each image times that of its class, both of which were checked.

    Parameters
    ----------
    classes
        (c,) the labels of the classes.
    indices
        (n,) the index of each image's class in ``classes``.
    sample_weight
        (n,) the weight of each image; None: all 1.
    class_weight
        The weight of each class. ``"balanced"``: such that all classes that have an image of
        a weight greater than 0 have the same total, as in scikit-learn.

    Returns
    -------
    array
        (n,).

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.weighting import combine_weights
    >>> classes, indices = np.array(["cat", "dog"]), np.array([0, 0, 0, 1])
    >>> combine_weights(classes, indices, None, "balanced").round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    weights = np.ones(len(indices)) if sample_weight is None else sample_weight
    if class_weight is None:
        return weights
    if isinstance(class_weight, Mapping):
        of_class = np.array([class_weight.get(label, 1.0) for label in classes.tolist()], float)
    else:
        totals = np.bincount(indices, weights=weights, minlength=len(classes))
        used = totals > 0
        of_class = np.zeros(len(classes))
        of_class[used] = totals.sum() / (used.sum() * totals[used])
    with np.errstate(over="ignore"):
        combined = np.asarray(weights * of_class[indices])
    if not np.isfinite(combined).all():
        raise ParameterError(
            "the product of sample_weight and class_weight is too large; expected finite weights"
        )
    return combined
