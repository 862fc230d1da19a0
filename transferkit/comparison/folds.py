"""The folds that all networks share: stratified, with the images of a group together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from transferkit.classification.labels import format_labels
from transferkit.errors import DatasetError, shorten

__all__ = ["assign_folds", "check_training_parts"]

# To choose C by cross-validation within the training part of a fold.
_MIN_TRAINING_IMAGES = 2


def assign_folds(
    classes: npt.NDArray[Any],
    indices: npt.NDArray[np.intp],
    groups: npt.NDArray[Any] | None,
    cv: int,
    seed: int,
) -> npt.NDArray[np.intp]:
    """Return the fold in which each image is tested.

    Parameters
    ----------
    classes
        (c,) the labels of the classes.
    indices
        (n,) the class of each image, as an index into ``classes``.
    groups
        (n,) the group of each image, all of whose images are in one fold; None: no groups.
    cv
        The number of folds, at least 2.
    seed
        Seed of the shuffle, less than 2**32.

    Returns
    -------
    array
        (n,) from 0 to ``cv`` - 1.

    Raises
    ------
    DatasetError
        If there is only one class, or a class has too few images or groups.
    """
    if len(classes) < 2:
        only = "".join(map(shorten, classes.tolist()))
        raise DatasetError(
            f"only one class, {only}; at least two are required" if only else "no images to compare"
        )
    counts = np.bincount(indices, minlength=len(classes))
    # With two folds, half of the images are left to train on.
    needed = max(cv, 2 * _MIN_TRAINING_IMAGES if cv == 2 else 0)
    if counts.min() < needed:
        small = classes[counts < needed].tolist()
        enough = int(counts.min())
        remedy = f"pass cv={enough}, add images" if enough > 2 else "Add images"
        raise DatasetError(
            f"classes with fewer than {needed} images: {format_labels(small)}; a cross-validation "
            f"with cv={cv} needs {needed} of each class. {remedy[0].upper()}{remedy[1:]}, or leave "
            "these classes out"
        )
    folds = np.empty(len(indices), np.intp)
    if groups is None:
        splitter: Any = StratifiedKFold(cv, shuffle=True, random_state=seed)
    else:
        number = len(np.unique(groups))
        if number < cv:
            raise DatasetError(
                f"there are {number} groups; a cross-validation with cv={cv} needs at least as many"
            )
        splitter = StratifiedGroupKFold(cv, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(indices, indices, groups)):
        folds[rows] = fold
    check_training_parts(classes, indices, folds, cv)
    return folds


def check_training_parts(
    classes: npt.NDArray[Any],
    indices: npt.NDArray[np.intp],
    folds: npt.NDArray[np.intp],
    cv: int,
) -> None:
    """Check that each fold is tested, and leaves enough images of each class to train on.

    It may not if images cannot be read, or all images of a class are of a few groups.

    Parameters
    ----------
    classes, indices, cv
        As for `assign_folds`.
    folds
        (n,) the fold of each image.

    Raises
    ------
    DatasetError
        If not.
    """
    for fold in range(cv):
        counts = np.bincount(indices[folds != fold], minlength=len(classes))
        small = classes[counts < _MIN_TRAINING_IMAGES].tolist()
        if small:
            raise DatasetError(
                f"without fold {fold + 1} of {cv}, fewer than {_MIN_TRAINING_IMAGES} images are "
                f"left of {format_labels(small)}; add readable images, or groups, of these "
                "classes, or leave them out"
            )
        if not (folds == fold).any():
            raise DatasetError(f"no image is left in fold {fold + 1} of {cv}; pass a smaller cv")
