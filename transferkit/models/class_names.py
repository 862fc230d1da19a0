"""The names of a network's classes, and the lookup of a class by name."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from numbers import Integral

from transferkit.errors import AmbiguousNameError, ArgumentTypeError, UnknownNameError, shorten
from transferkit.weights.classes import find_imagenet_classes, imagenet_classes

__all__ = ["ClassNames"]


@dataclass(frozen=True, slots=True)
class ClassNames:
    """The classes of a network's logits, in order.

    Attributes
    ----------
    labels
        The label of each logit; None if the labels are unknown.
    number
        The number of logits.

    Examples
    --------
    >>> from transferkit.models.class_names import ClassNames
    >>> from transferkit.weights import imagenet_classes
    >>> names = ClassNames(tuple(row.name for row in imagenet_classes()), 1000)
    >>> names.resolve("Siamese cat"), names.resolve("n02123597"), names.resolve(284)
    (284, 284, 284)
    >>> names.resolve("LIGHTHOUSE"), names.name(437)
    (437, 'beacon')
    """

    labels: tuple[Hashable, ...] | None
    number: int

    @property
    def are_imagenet(self) -> bool:
        """Whether these are ImageNet's 1,000 classes, which have synonyms and WordNet ids."""
        return self.labels is not None and self.labels == _imagenet_names()

    def name(self, index: int) -> str:
        """Return the name of the class at ``index``; ``"class 7"`` if labels are unknown."""
        return f"class {index}" if self.labels is None else str(self.labels[index])

    def resolve(self, given: Hashable) -> int:
        """Return the index of the class that ``given`` refers to.

        Parameters
        ----------
        given
            The label of a class, or its index unless labels are numbers. For ImageNet's
            classes also a synonym from WordNet or the WordNet id. Capitalization matters only
            between names that differ in nothing else: ``"Cardigan"`` is a dog and
            ``"cardigan"`` a garment.

        Raises
        ------
        UnknownNameError
            If there is no such class; the message has close matches.
        AmbiguousNameError
            If several classes have the name; the message lists all of them.
        ArgumentTypeError
            If ``given`` is neither a label nor an index.
        """
        if isinstance(given, bool) or not isinstance(given, (str, Integral)):
            return self._resolve_label(given)
        if isinstance(given, Integral):
            return self._resolve_number(int(given))
        if self.labels is None:
            raise UnknownNameError("class", given, [self._indices])
        if self.are_imagenet:
            return _resolve_imagenet_name(given)
        if given in self.labels:
            return self.labels.index(given)
        candidates = [
            index
            for index, label in enumerate(self.labels)
            if str(label).casefold() == given.casefold()
        ]
        if len(candidates) > 1:
            choices = [f"{shorten(self.labels[index])} (index {index})" for index in candidates]
            raise AmbiguousNameError("class", given, choices, "give the index or the exact name")
        if not candidates:
            raise UnknownNameError("class", given, map(str, self.labels))
        return candidates[0]

    @property
    def _indices(self) -> str:
        return f"indices 0 to {self.number - 1}"

    def _resolve_number(self, given: int) -> int:
        if self.labels is not None and not all(isinstance(label, str) for label in self.labels):
            return self._resolve_label(given)
        if not 0 <= given < self.number:
            raise UnknownNameError("class", given, [self._indices])
        return given

    def _resolve_label(self, given: Hashable) -> int:
        if self.labels is None or given not in self.labels:
            if self.labels is not None and any(type(label) is type(given) for label in self.labels):
                raise UnknownNameError("class", given, map(str, self.labels))
            raise ArgumentTypeError(
                "a class is given by its name, its index or its WordNet id, not by "
                f"{shorten(given)}"
            )
        return self.labels.index(given)


def _resolve_imagenet_name(name: str) -> int:
    candidates = find_imagenet_classes(name)
    if len(candidates) > 1:
        choices = [f"{row.name!r} (index {row.index}, {row.wordnet_id})" for row in candidates]
        raise AmbiguousNameError("class", name, choices, "give the index or WordNet id")
    if not candidates:
        synonyms = [synonym for row in imagenet_classes() for synonym in row.synonyms]
        raise UnknownNameError("class", name, [*_imagenet_names(), *synonyms])
    return candidates[0].index


@cache
def _imagenet_names() -> tuple[str, ...]:
    return tuple(row.name for row in imagenet_classes())
