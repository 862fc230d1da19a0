"""The names of ImageNet's classes, which the published weights were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

__all__ = ["ImageClass", "find_imagenet_classes", "imagenet_classes"]

# ImageNet itself gives each of these names to two classes: the bird and the machine, and two kinds
# of swimsuit.
_NAMES_OF_TWO_CLASSES = frozenset(("crane", "maillot"))


@dataclass(frozen=True, slots=True)
class ImageClass:
    """A class of ImageNet.

    Attributes
    ----------
    index
        The index of the class among the logits, from 0.
    wordnet_id
        The id of the class in WordNet and ImageNet: ``"n02123597"``.
    name
        The name of the class: ``"Siamese cat"``. No two classes have the same name: the two
        cranes are ``"crane"`` and ``"crane bird"``.
    synonyms
        WordNet's other names for the class: ``("Siamese",)``. Another class may have some of
        them too.
    """

    index: int
    wordnet_id: str
    name: str
    synonyms: tuple[str, ...] = ()


@cache
def imagenet_classes() -> tuple[ImageClass, ...]:
    """Return the 1,000 classes of ImageNet (ILSVRC 2012) in the order of the logits.

    Examples
    --------
    >>> from transferkit.weights import imagenet_classes
    >>> imagenet_classes()[284].name
    'Siamese cat'
    """
    file = resources.files("transferkit.weights") / "data" / "imagenet_classes.json"
    names_by_id: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return tuple(
        ImageClass(index, wordnet_id, name, tuple(synonyms))
        for index, (wordnet_id, (name, *synonyms)) in enumerate(names_by_id.items())
    )


def find_imagenet_classes(name: str) -> tuple[ImageClass, ...]:
    """Return the classes of ImageNet that a name may refer to.

    Parameters
    ----------
    name
        The name, a synonym or the WordNet id of a class, in any capitalization.

    Returns
    -------
    tuple of ImageClass
        Only the class with exactly this name, if there is one and ImageNet uses the name for no
        other class: ``"Cardigan"`` is a dog and ``"cardigan"`` a garment. Else all classes
        that have the name or synonym in any capitalization; empty if there is none.

    Examples
    --------
    >>> from transferkit.weights import find_imagenet_classes
    >>> [candidate.index for candidate in find_imagenet_classes("Lighthouse")]
    [437]
    >>> [candidate.name for candidate in find_imagenet_classes("crane")]
    ['crane bird', 'crane']
    """
    candidates = _candidates_by_name().get(name.casefold(), ())
    if name not in _NAMES_OF_TWO_CLASSES:
        for candidate in candidates:
            if candidate.name == name:
                return (candidate,)
    return candidates


@cache
def _candidates_by_name() -> Mapping[str, tuple[ImageClass, ...]]:
    """Return every name, synonym and id, case-folded, to the classes that have it."""
    candidates: dict[str, dict[int, ImageClass]] = {}
    for image_class in imagenet_classes():
        for name in (image_class.wordnet_id, image_class.name, *image_class.synonyms):
            candidates.setdefault(name.casefold(), {})[image_class.index] = image_class
    return MappingProxyType({name: tuple(found.values()) for name, found in candidates.items()})
