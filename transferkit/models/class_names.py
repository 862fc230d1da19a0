"""What the classes of a network are called, and which of them a user means."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Integral

from transferkit.errors import AmbiguousNameError, UnknownNameError
from transferkit.weights.classes import imagenet_classes, imagenet_classes_called

__all__ = ["ClassNames"]


@dataclass(frozen=True, slots=True)
class ClassNames:
    """The classes that the logits of a network stand for, in their order.

    Attributes
    ----------
    labels
        What each logit stands for; None where that is not known.
    number
        How many logits there are.

    Examples
    --------
    >>> from transferkit.models.class_names import ClassNames
    >>> from transferkit.weights import imagenet_classes
    >>> names = ClassNames(tuple(found.name for found in imagenet_classes()), 1000)
    >>> names.resolve("Siamese cat"), names.resolve("n02123597"), names.resolve(284)
    (284, 284, 284)
    >>> names.name(340)
    'zebra'
    """

    labels: tuple[Hashable, ...] | None
    number: int

    @property
    def are_imagenet(self) -> bool:
        """Whether they are ImageNet's 1,000 classes, which have WordNet ids too."""
        return self.labels is not None and self.labels == _imagenet_names()

    def name(self, index: int) -> str:
        """What the class at ``index`` is called; ``"class 7"`` where that is not known."""
        return f"class {index}" if self.labels is None else str(self.labels[index])

    def resolve(self, given: Hashable) -> int:
        """The index of the class that ``given`` means.

        Parameters
        ----------
        given
            A class's label; or its index among the logits, unless labels are numbers; or, of
            ImageNet's classes, its WordNet id. Upper and lower case are told apart only where
            they must be: ``"Cardigan"`` is a dog, and ``"cardigan"`` is worn.

        Raises
        ------
        UnknownNameError
            If there is no such class; close ones are named.
        AmbiguousNameError
            If several classes are called that.
        TypeError
            If it is neither.
        """
        if isinstance(given, bool) or not isinstance(given, (str, Integral)):
            return self._resolve_label(given)
        if isinstance(given, Integral):
            return self._resolve_number(int(given))
        if self.labels is None:
            raise UnknownNameError("class", given, [f"indices 0 to {self.number - 1}"])
        if self.are_imagenet:
            called = imagenet_classes_called(given)
            if len(called) > 1:
                choices = [
                    f"{found.name!r} (index {found.index}, {found.wordnet_id})" for found in called
                ]
                raise AmbiguousNameError("class", given, choices, "give the index or WordNet id")
            for found in imagenet_classes():
                if given == found.wordnet_id:
                    return found.index
        if given in self.labels:
            return self.labels.index(given)
        alike = [
            index
            for index, label in enumerate(self.labels)
            if str(label).casefold() == given.casefold()
        ]
        if len(alike) > 1:
            choices = [f"{self.labels[index]!r} (index {index})" for index in alike]
            raise AmbiguousNameError("class", given, choices, "write it exactly as it is")
        if not alike:
            raise UnknownNameError("class", given, map(str, self.labels))
        return alike[0]

    def _resolve_number(self, given: int) -> int:
        if self.labels is not None and not all(isinstance(label, str) for label in self.labels):
            return self._resolve_label(given)
        if not 0 <= given < self.number:
            raise UnknownNameError("class", given, [f"indices 0 to {self.number - 1}"])
        return given

    def _resolve_label(self, given: Hashable) -> int:
        if self.labels is None or given not in self.labels:
            if self.labels is not None and any(type(label) is type(given) for label in self.labels):
                raise UnknownNameError("class", given, map(str, self.labels))
            raise TypeError(
                f"a class is given by its name, its index or its WordNet id, not by {given!r}"
            )
        return self.labels.index(given)


def _imagenet_names() -> tuple[str, ...]:
    return tuple(found.name for found in imagenet_classes())
