"""The API reference: it lists every public method and property of the classes in it."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "api"
_CLASS = re.compile(r"^\.\. autoclass:: (?P<name>\S+)\n(?P<options>(?:   :.*\n)*)", re.MULTILINE)
_MEMBERS = re.compile(r":members: (?P<names>.+)")
_DOCUMENTED = (property, functools.cached_property, classmethod, staticmethod)
CLASSES = {
    match["name"]: match["options"]
    for page in sorted(PAGES.glob("*.md"))
    for match in _CLASS.finditer(page.read_text(encoding="utf-8") + "\n")
}


def class_named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_classes_are_found() -> None:
    assert len(CLASSES) > 30
    assert "transferkit.Classifier" in CLASSES


@pytest.mark.parametrize(
    "name", [name for name, options in CLASSES.items() if "members:\n" not in options]
)
def test_all_members_of_a_class_are_listed(name: str) -> None:
    listed = _MEMBERS.search(CLASSES[name])
    members = {
        member
        for member, value in vars(class_named(name)).items()
        if not member.startswith("_")
        and (callable(value) or isinstance(value, _DOCUMENTED))
        # `set_fit_request` and the like are made by scikit-learn.
        and not member.endswith("_request")
    }
    assert members <= set(listed["names"].split(", ") if listed else ())
