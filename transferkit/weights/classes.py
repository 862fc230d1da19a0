"""The names of the classes that published weights were trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

__all__ = ["ImageClass", "imagenet_classes", "imagenet_classes_called"]

# ImageNet calls both classes of each pair by this one name.
_CALLED_ALIKE = {
    "crane": ("n02012849", "n03126707"),
    "maillot": ("n03710637", "n03710721"),
}


@dataclass(frozen=True, slots=True)
class ImageClass:
    """One class of a data set.

    Attributes
    ----------
    index
        Its place among a network's logits, from 0.
    wordnet_id
        What ImageNet files it under: ``"n02123597"``.
    name
        What people call it: ``"Siamese cat"``. No two classes share a name: the two cranes
        are ``"crane"`` and ``"crane bird"``.
    """

    index: int
    wordnet_id: str
    name: str


def imagenet_classes() -> tuple[ImageClass, ...]:
    """The 1,000 classes of ImageNet's ILSVRC 2012, in the order of the logits.

    Examples
    --------
    >>> from transferkit.weights import imagenet_classes
    >>> imagenet_classes()[284].name
    'Siamese cat'
    """
    file = resources.files("transferkit.weights") / "data" / "imagenet_classes.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return tuple(ImageClass(row["index"], row["wnid"], row["name"]) for row in rows)


def imagenet_classes_called(name: str) -> tuple[ImageClass, ...]:
    """The classes of ImageNet that a name alone may mean: none, one, or two.

    Examples
    --------
    >>> from transferkit.weights import imagenet_classes_called
    >>> [found.name for found in imagenet_classes_called("crane")]
    ['crane bird', 'crane']
    """
    alike = _CALLED_ALIKE.get(name.lower(), ())
    return tuple(
        found
        for found in imagenet_classes()
        if (found.wordnet_id in alike if alike else found.name == name)
    )
