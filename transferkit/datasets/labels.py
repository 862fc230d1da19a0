"""Labels as an array, checked: one for each image, all of one type."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import DatasetError
from transferkit.support.numerics import as_array

__all__ = ["Labels", "check_finite_labels", "label_array"]

Labels: TypeAlias = Sequence[Hashable] | npt.NDArray[Any]
"""The types of the parameter ``y``."""

# The groups of types that labels may have, by NumPy's code for the type; they may not be mixed.
_GROUPS = {"U": str, "b": bool, "i": float, "u": float, "f": float}


def label_array(labels: Labels) -> npt.NDArray[Any]:
    """Return labels as an array with one axis, without changing their type.

    Strings are converted to Unicode's normalization form C, since file systems differ in it.

    Parameters
    ----------
    labels
        (n,) strings, numbers or booleans.

    Raises
    ------
    DatasetError
        If labels are missing, or of mixed or other types.

    Examples
    --------
    >>> from transferkit.datasets.labels import label_array
    >>> label_array(["cat", "dog"]).tolist()
    ['cat', 'dog']
    """
    return _normalize_text(_checked_array(labels))


def check_finite_labels(labels: npt.NDArray[Any]) -> None:
    """Check that labels (n,) that are numbers are finite: NaN is no class.

    Raises
    ------
    DatasetError
        If one is NaN or infinite.
    """
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        index = int(np.argmin(np.isfinite(labels)))
        raise DatasetError(f"y[{index}] is {labels[index]}; expected a finite number")


def _checked_array(labels: Labels) -> npt.NDArray[Any]:
    """Return labels as an array with one axis, without changing their type."""
    try:
        array = as_array(labels)
    except ValueError as error:
        raise DatasetError(f"y is not a sequence of one label for each image: {error}") from error
    if array.ndim != 1:
        raise DatasetError(f"y has shape {array.shape}; expected (n,), one label for each image")
    if array.dtype == object or isinstance(labels, Sequence):
        # NumPy would turn numbers among strings into strings, and booleans among numbers into
        # numbers.
        groups = {_GROUPS.get(np.dtype(type(label)).kind, type(label)) for label in labels}
        if len(groups) > 1 or not groups <= set(_GROUPS.values()):
            types = sorted({type(label).__name__ for label in labels})
            raise DatasetError(
                f"y has labels of type {', '.join(types)}; expected only strings, only numbers or "
                "only booleans"
            )
        if array.dtype == object and groups != {str}:
            array = np.asarray(array.tolist())
            if array.dtype == object:
                raise DatasetError("y has integers of more than 64 bits")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        # JSON, in which a classifier is saved, has numbers in double precision.
        array = array.astype(np.float64)
    if array.dtype.kind not in "OUbiuf":
        raise DatasetError(f"y has dtype {array.dtype}; expected strings, numbers or booleans")
    return array


def _normalize_text(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if labels.dtype.kind not in "OU" or all(
        unicodedata.is_normalized("NFC", label) for label in labels
    ):
        return labels
    return np.asarray(
        [unicodedata.normalize("NFC", label) for label in labels.tolist()],
        dtype=labels.dtype if labels.dtype == object else None,
    )
