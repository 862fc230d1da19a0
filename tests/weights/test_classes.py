"""The names and synonyms of ImageNet's classes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest
from scripts import load_script

from transferkit.weights import ImageClass, find_imagenet_classes, imagenet_classes

DATA = Path(str(resources.files("transferkit.weights") / "data"))

TWO_CLASSES = {"crane", "maillot"}
"""Names that ImageNet itself gives to two classes."""


def indices(name: str) -> list[int]:
    return [candidate.index for candidate in find_imagenet_classes(name)]


def owners() -> dict[str, set[int]]:
    """Return each name, case-folded, to the indices of the classes that have it."""
    found: dict[str, set[int]] = defaultdict(set)
    for row in imagenet_classes():
        for name in (row.name, *row.synonyms):
            found[name.casefold()].add(row.index)
    return found


def capitalizations(name: str) -> set[str]:
    return {name, name.upper(), name.lower(), name.title()}


def test_the_classes() -> None:
    classes = imagenet_classes()
    assert [row.index for row in classes] == list(range(1000))
    assert len({row.name for row in classes}) == 1000
    assert len({row.wordnet_id for row in classes}) == 1000
    for row in classes:
        names = [row.name, *row.synonyms]
        assert all(name.strip() == name != "" for name in names)
        assert len(set(names)) == len(names)
    assert [classes[index].name for index in (0, 207, 284, 999)] == [
        "tench", "golden retriever", "Siamese cat", "toilet tissue",
    ]  # fmt: skip
    assert classes[437] == ImageClass(
        437, "n02814860", "beacon", ("lighthouse", "beacon light", "pharos")
    )


def test_every_name_and_id_refers_to_its_class() -> None:
    for row in imagenet_classes():
        assert indices(row.wordnet_id) == indices(row.wordnet_id.upper()) == [row.index]
        if row.name not in TWO_CLASSES:
            assert indices(row.name) == [row.index]


def test_every_unique_name_and_synonym_refers_to_its_class_in_any_capitalization() -> None:
    unique = [(name, *found) for name, found in owners().items() if len(found) == 1]
    assert len(unique) == 1824
    by_folded_name = dict(unique)
    for row in imagenet_classes():
        for name in (row.name, *row.synonyms):
            if name.casefold() in by_folded_name:
                for given in capitalizations(name):
                    assert indices(given) == [row.index], given


def test_every_ambiguous_name_lists_all_its_classes() -> None:
    ambiguous = {name: sorted(found) for name, found in owners().items() if len(found) > 1}
    assert len(ambiguous) == 19
    names = {row.name for row in imagenet_classes()}
    for folded_name, expected in ambiguous.items():
        for given in capitalizations(folded_name):
            if given in names - TWO_CLASSES:
                # Exactly the name of one class.
                assert len(indices(given)) == 1, given
            else:
                assert indices(given) == expected, given


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crane", [134, 517]),
        ("crane bird", [134]),
        ("Crane Bird", [134]),
        ("maillot", [638, 639]),
        ("tank suit", [639]),
        ("horn", [513, 566]),
        ("missile", [657]),
        ("Missile", [657, 744]),
        ("Cardigan", [264]),
        ("cardigan", [474]),
        ("CARDIGAN", [264, 474]),
        ("lighthouse", [437]),
        ("felis domesticus", []),
        ("", []),
    ],
)
def test_examples(name: str, expected: list[int]) -> None:
    assert indices(name) == expected


def test_the_file_is_read_once() -> None:
    assert imagenet_classes() is imagenet_classes()


def test_the_notice_has_the_digest_of_the_file() -> None:
    digest = hashlib.sha256((DATA / "imagenet_classes.json").read_bytes()).hexdigest()
    assert digest in (DATA / "NOTICE.md").read_text(encoding="utf-8")


def test_the_script_writes_the_same_file_again(tmp_path: Path) -> None:
    classes = [
        {"index": row.index, "wnid": row.wordnet_id, "name": row.name} for row in imagenet_classes()
    ]
    synonyms = [
        {"index": row.index, "wnid": row.wordnet_id, "synonyms": row.synonyms}
        for row in imagenet_classes()
    ]
    for name, rows in (("classes", classes), ("synonyms", synonyms)):
        (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    script = load_script("make_imagenet_classes")
    arguments = [str(tmp_path / name) for name in ("classes", "synonyms", "new")]
    script.main(arguments)
    assert (tmp_path / "new").read_bytes() == (DATA / "imagenet_classes.json").read_bytes()
    synonyms[3]["wnid"] = "n00000000"
    (tmp_path / "synonyms").write_text(json.dumps(synonyms), encoding="utf-8")
    with pytest.raises(ValueError, match="row 3"):
        script.main(arguments)
