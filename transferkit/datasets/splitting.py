"""Stratified splits in which copies of an image, and images of one group, stay on one side."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
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
    # The classes of each unit, with its number of images of each.
    members = [Counter(indices[[*unit]].tolist()) for unit in units]
    order = sorted(range(len(units)), key=lambda unit: _digest(seed, units[unit][0]))
    of_class: list[list[int]] = [[] for _ in classes]
    for unit in order:
        for index in members[unit]:
            of_class[index].append(unit)
    _check_classes(classes, sizes, np.array([len(of_one) for of_one in of_class]))
    wanted = np.clip(np.floor(test * sizes + 0.5), 1, sizes - 1).tolist()
    reached = [0] * len(classes)
    chosen: set[int] = set()

    def choose(unit: int) -> None:
        chosen.add(unit)
        for index, count in members[unit].items():
            reached[index] += count

    def leaves_some(unit: int) -> bool:
        return all(reached[index] + count < sizes[index] for index, count in members[unit].items())

    for unit in order:
        # By how much the sum of the squared differences to the wanted numbers changes.
        change = sum(
            (reached[index] + count - wanted[index]) ** 2 - (reached[index] - wanted[index]) ** 2
            for index, count in members[unit].items()
        )
        if change < 0 and leaves_some(unit):
            choose(unit)
    # Where all units of a class are too large, none is chosen: the smallest one is, then.
    for index, of_one in enumerate(of_class):
        candidates = [unit for unit in of_one if leaves_some(unit)] if not reached[index] else []
        if candidates:
            choose(min(candidates, key=lambda unit: len(units[unit])))
    if not all(reached):
        missing = classes[[not number for number in reached]]
        raise DatasetError(
            f"no split was found for the images of {_names(missing)}: they form groups with images "
            "of other classes, which are needed on both sides; give other groups"
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
