"""Lookup of classes by label, index, synonym and WordNet id."""

from __future__ import annotations

import pytest

from transferkit.errors import AmbiguousNameError, ArgumentTypeError, UnknownNameError
from transferkit.models.class_names import ClassNames
from transferkit.weights import find_imagenet_classes, imagenet_classes

IMAGENET = ClassNames(tuple(row.name for row in imagenet_classes()), 1000)


def test_labels_synonyms_and_ids_of_imagenet_are_resolved() -> None:
    for row in imagenet_classes():
        for name in (row.index, row.wordnet_id, row.name, *row.synonyms):
            candidates = [] if name == row.index else find_imagenet_classes(str(name))
            if len(candidates) > 1:
                with pytest.raises(AmbiguousNameError) as caught:
                    IMAGENET.resolve(name)
                assert caught.value.choices == [
                    f"{other.name!r} (index {other.index}, {other.wordnet_id})"
                    for other in candidates
                ]
            else:
                expected = candidates[0].index if candidates else row.index
                assert IMAGENET.resolve(name) == expected
                assert expected == row.index or IMAGENET.name(expected) == name


def test_synonyms_have_any_capitalization() -> None:
    assert IMAGENET.are_imagenet
    assert IMAGENET.resolve("lighthouse") == IMAGENET.resolve("LightHouse") == 437
    assert IMAGENET.resolve("Cardigan") == 264
    assert IMAGENET.resolve("cardigan") == 474


def test_ambiguous_names_list_their_candidates() -> None:
    with pytest.raises(AmbiguousNameError) as caught:
        IMAGENET.resolve("Horn")
    assert str(caught.value) == (
        "class 'Horn' is ambiguous: 'cornet' (index 513, n03110669) or "
        "'French horn' (index 566, n03394916); give the index or WordNet id"
    )


def test_unknown_names_have_suggestions() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lighthouse'"):
        IMAGENET.resolve("lighthose")
    with pytest.raises(UnknownNameError, match="'Siamese cat' or 'Egyptian cat'"):
        IMAGENET.resolve("cat")
    with pytest.raises(UnknownNameError, match="available: indices 0 to 999"):
        IMAGENET.resolve(1000)


def test_other_labels_have_no_synonyms() -> None:
    names = ClassNames(("beacon", "sea", "Sea"), 3)
    assert not names.are_imagenet
    assert names.resolve("Beacon") == 0
    assert (names.resolve("sea"), names.resolve("Sea")) == (1, 2)
    with pytest.raises(UnknownNameError, match="available: beacon, sea, Sea"):
        names.resolve("lighthouse")
    with pytest.raises(AmbiguousNameError, match=r"'sea' \(index 1\) or 'Sea' \(index 2\)"):
        names.resolve("SEA")


def test_labels_may_be_numbers_or_unknown() -> None:
    numbers = ClassNames((0.5, 2.5), 2)
    assert numbers.resolve(2.5) == 1
    with pytest.raises(UnknownNameError, match=r"unknown class 1\.5; did you mean '2\.5' or"):
        numbers.resolve(1.5)
    with pytest.raises(ArgumentTypeError, match="a class is given by its name"):
        numbers.resolve(1)
    unknown = ClassNames(None, 3)
    assert unknown.name(2) == "class 2"
    assert unknown.resolve(2) == 2
    with pytest.raises(UnknownNameError, match="available: indices 0 to 2"):
        unknown.resolve("sea")
