"""The words of package and documentation are those of the field, as far as a list can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import transferkit

PACKAGE = Path(transferkit.__file__).parent
PROJECT = Path(__file__).parents[1]

# What not to write, as a regular expression, and what to write instead.
REPLACEMENTS = {
    r"pictures?": "image",
    # Not the image processors of transformers.
    r"(?:on|by|for) (?:a |the |its )?processors?|processor's": "CPU",
    r"graphics cards?": "GPU",
    r"of one's own": "user-defined, or your own",
    r"gone on with|go on with|goes on with": "resumed",
    r"come[s]? about|came about": "are made",
    r"by (?:itself|themselves)(?! alone)": "alone",
    r"told apart": "distinguished",
    r"are let go|is let go": "freed",
    r"as far as it takes": "until it succeeds",
    r"the 1 images": "the image",
    r"pictures_at_once": "micro_batch_size",
    r"slopes": "gradients",
    r"graphics": "GPU",
    r"(?:optimi|normali|initiali|regulari|visuali|generali|minimi|maximi|penali)"
    r"s(?:e[ds]?|ing|ation|er|ers)": "American spelling: -ize",
    r"colours?|coloured|greys?|behaviours?|centres?": "American spelling",
    r"licences?|labelled|labelling|modelled": "American spelling",
    r"perforce|thereof|wherein|whereof|hitherto": "plain English",
}  # fmt: skip

# Names and quotations that contain such words.
ALLOWED = (
    "networks/catalogue",
    "networks.catalogue",
    "weights/catalogue",
    "weights.catalogue",
    "AutoImageProcessor",
    "labelled_images",
    '"grey"',
    '"licence"',
    'metadata["licence"]',
)

FILES = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(PACKAGE.rglob("*.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "docs").rglob("*.py")),
    *sorted((PROJECT / "examples").rglob("*.py")),
    PROJECT / "README.md",
]


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return text


@pytest.mark.parametrize("pattern", REPLACEMENTS)
def test_word_is_not_used(pattern: str) -> None:
    word = re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE)
    found = [
        f"{path.relative_to(path.parents[2])}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if word.search(line)
    ]
    assert not found, f"write {REPLACEMENTS[pattern]!r}:\n" + "\n".join(found)
