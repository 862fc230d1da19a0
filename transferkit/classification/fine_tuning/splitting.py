"""The split of labeled images into training and validation images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.classification.labels import format_labels
from transferkit.errors import DatasetError

__all__ = ["check_validation_classes", "split_by_class"]

_MIN_TRAINING_IMAGES = 1


def split_by_class(
    indices: npt.NDArray[np.intp],
    classes: npt.NDArray[Any],
    fraction: float,
    generator: np.random.Generator,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows of the training and of the validation images.

    Parameters
    ----------
    indices
        (n,) the index of the class of each image.
    classes
        (c,) the labels of the classes.
    fraction
        The fraction of the images of each class that is for validation, in (0, 1): rounded, but
        at least one image, and not all of them.
    generator
        Chooses the images.

    Raises
    ------
    DatasetError
        If a class has fewer than two images.
    """
    is_validation = np.zeros(len(indices), bool)
    counts = np.bincount(indices, minlength=len(classes))
    small = classes[counts < 2].tolist()
    if small:
        raise DatasetError(
            f"classes with fewer than two images: {format_labels(small)}; there must be one to "
            "train on and one for validation. Add images, or set validation to a folder or None"
        )
    for index, count in enumerate(counts):
        number = min(max(round(fraction * count), 1), count - _MIN_TRAINING_IMAGES)
        rows = np.flatnonzero(indices == index)
        is_validation[generator.choice(rows, number, replace=False)] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def check_validation_classes(indices: npt.NDArray[np.intp], classes: npt.NDArray[Any]) -> None:
    """Check that there are validation images of each class.

    Raises
    ------
    DatasetError
        If not: the accuracy on the others would not show how well the class is recognized.
    """
    missing = np.setdiff1d(np.arange(len(classes)), indices)
    if len(missing):
        raise DatasetError(
            f"no validation images of {len(missing)} of {len(classes)} classes: "
            f"{format_labels(classes[missing].tolist())}; add some, or set validation to a "
            "fraction of the training images"
        )
