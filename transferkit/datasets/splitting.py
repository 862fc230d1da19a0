"""Stratified splits in which copies of an image, and images of one group, stay on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import DatasetError, shorten

__all__ = ["link_images", "split_units"]

_MAX_NAMES = 5


def link_images(number: int, keys: Iterable[Sequence[Hashable | None]]) -> list[list[int]]:
    """Return the images that must stay together, as lists of positions.

    Parameters
    ----------
    number
        The number of images.
    keys
        Sequences of ``number`` keys. Images with an equal key in one of them stay together, and
        so do those that are linked through others; None links an image to no other.

    Returns
    -------
    list of list of int
        Each image once; lists and their elements in the order of the images.

    Examples
    --------
    >>> from transferkit.datasets.splitting import link_images
    >>> link_images(4, [["a", "b", None, None], [1, 2, 2, None]])
    [[0], [1, 2], [3]]
    """
    # A union-find forest; the first image of each unit is its root.
    parents = list(range(number))

    def root_of(image: int) -> int:
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    for of_images in keys:
        first: dict[Hashable, int] = {}
        for image, key in enumerate(of_images):
            if key is not None:
                one, other = root_of(first.setdefault(key, image)), root_of(image)
                parents[max(one, other)] = min(one, other)
    units: dict[int, list[int]] = defaultdict(list)
    for image in range(number):
        units[root_of(image)].append(image)
    return list(units.values())


def split_units(
    units: Sequence[Sequence[int]], labels: npt.NDArray[Any], test: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose the images for testing, in proportion for each class.

    The units are ordered by the SHA-256 digest of the seed and the position of their first image,
    which is the same on every machine. One after the other is chosen if that brings the number of
    test images of its classes closer to ``test`` times their number of images. Each class keeps at
    least one image on each side.

    Parameters
    ----------
    units
        Positions of the images that stay together.
    labels
        (n,) the label of each image.
    test
        The fraction for testing, between 0 and 1.
    seed
        Another seed gives another split.

    Returns
    -------
    (n,) array of bool
        True for the images for testing.

    Raises
    ------
    DatasetError
        If a class has only one unit, or the classes share units in a way that leaves one of them
        without images on one side.
    """
    classes, indices = np.unique(labels, return_inverse=True)
    sizes = np.bincount(indices, minlength=len(classes))
    members = [np.bincount(indices[[*unit]], minlength=len(classes)) for unit in units]
    _check_classes(classes, sizes, np.sum([counts > 0 for counts in members], axis=0))
    wanted = np.clip(np.floor(test * sizes + 0.5), 1, sizes - 1)
    order = sorted(range(len(units)), key=lambda unit: _digest(seed, units[unit][0]))
    chosen: set[int] = set()
    reached = np.zeros(len(classes))
    for unit in order:
        then = reached + members[unit]
        is_closer = np.sum((wanted - then) ** 2) < np.sum((wanted - reached) ** 2)
        if is_closer and (then < sizes).all():
            chosen.add(unit)
            reached = then
    # Where all units of a class are too large, none is chosen: the smallest one is, then.
    for index in np.flatnonzero(reached == 0):
        candidates = [
            unit
            for unit in order
            if members[unit][index] and (reached + members[unit] < sizes).all()
        ]
        if reached[index] == 0 and candidates:
            smallest = min(candidates, key=lambda unit: len(units[unit]))
            chosen.add(smallest)
            reached = reached + members[smallest]
    if not (reached > 0).all():
        raise DatasetError(
            f"the images of {_names(classes[reached == 0])} cannot be split: they form groups "
            "with images of other classes, which are needed on both sides; give other groups"
        )
    is_test = np.zeros(len(labels), bool)
    for unit in chosen:
        is_test[[*units[unit]]] = True
    return is_test


def _check_classes(
    classes: npt.NDArray[Any], sizes: npt.NDArray[np.intp], units: npt.NDArray[np.intp]
) -> None:
    """Raise an error if a class has too few images, or too few units of them."""
    if (sizes < 2).any():
        raise DatasetError(
            f"only one image of {_names(classes[sizes < 2])}; a split needs at least two of each "
            "class"
        )
    if (units < 2).any():
        raise DatasetError(
            f"all images of {_names(classes[units < 2])} are copies of each other or of one group, "
            "which stay on one side of a split; a split needs at least two different ones of each "
            "class"
        )


def _names(classes: npt.NDArray[Any]) -> str:
    shown = [shorten(label) for label in classes[:_MAX_NAMES].tolist()]
    noun = "the class" if len(classes) == 1 else f"{len(classes)} classes:"
    return f"{noun} {', '.join(shown)}" + (", ..." if len(classes) > _MAX_NAMES else "")


def _digest(seed: int, position: int) -> bytes:
    return hashlib.sha256(f"{seed}:{position}".encode()).digest()
