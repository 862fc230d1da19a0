"""Write the names of ImageNet's classes as transferkit ships them.

``python docs/scripts/make_imagenet_classes.py CLASSES.json SYNONYMS.json DESTINATION.json``

``CLASSES.json`` is a list of ``{"index": 0, "wnid": "n01440764", "name": "tench"}``, and
``SYNONYMS.json`` a list of ``{"index": 0, "wnid": "n01440764", "synonyms": ["tench", ...]}`` with
all names that WordNet 3.0 has for the synset, each with one row for each of the 1,000 classes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["convert", "main"]

# WordNet's name for both classes. ImageNet's lists of names add a word to tell the bird from the
# machine, which the list of synonyms repeats.
_ADDED = {"n02012849": "crane"}


def convert(classes: Path, synonyms: Path, destination: Path) -> None:
    """Write a JSON object: the WordNet id of each class to its name, followed by its synonyms.

    Parameters
    ----------
    classes, synonyms
        The files described above.
    destination
        The file to write, with one line for each class, in the order of their indices.

    Raises
    ------
    ValueError
        If the two files have different classes.
    """
    rows = []
    pairs = zip(_read(classes), _read(synonyms), strict=True)
    for index, (row, other) in enumerate(pairs):
        wordnet_id = row["wnid"]
        if not index == row["index"] == other["index"] or wordnet_id != other["wnid"]:
            raise ValueError(f"row {index} is {row} in one file and {other} in the other")
        # A dictionary removes duplicates and keeps the order.
        names = dict.fromkeys([row["name"], *other["synonyms"]])
        if wordnet_id in _ADDED:
            names[_ADDED[wordnet_id]] = None
        rows.append(f"{json.dumps(wordnet_id)}: {json.dumps(list(names), ensure_ascii=False)}")
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    destination.write_text(text, encoding="utf-8", newline="\n")


def _read(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python docs/scripts/make_imagenet_classes.py",
        description="Write the names of ImageNet's classes as transferkit ships them.",
    )
    parser.add_argument("classes", type=Path, help="JSON: index, WordNet id and name")
    parser.add_argument("synonyms", type=Path, help="JSON: index, WordNet id and synonyms")
    parser.add_argument("destination", type=Path, help="the JSON file to write")
    chosen = parser.parse_args(arguments)
    convert(chosen.classes, chosen.synonyms, chosen.destination)


if __name__ == "__main__":
    main()
