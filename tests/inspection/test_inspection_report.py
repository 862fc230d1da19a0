"""The page of an inspection: what it shows, escaped, self-contained and of bounded size."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferkit.errors import OutputError
from transferkit.inspection import Finding, Inspection

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def inspection(folder: Path, number: int) -> Inspection:
    files = []
    for index in range(number):
        path = folder / f"<b>{index}.jpg"
        Image.effect_noise((64, 64), 50 + index).convert("RGB").save(path)
        files.append(str(path))
    findings = [Finding(file, "dark", 0.1, 0.2) for file in files]
    findings += [Finding(files[1], "near-duplicate", 0.97, 0.93, files[0])]
    findings += [Finding("<i>cat", "imbalance", 12.0, 10.0, "dog")]
    return Inspection(
        findings=findings,
        label_ranking=[],
        sources=files,
        labels=np.array(["<i>cat", "dog"] * (number // 2)),
        splits=None,
        notes=["most images are <small>"],
        skipped=[],
        network="mobilenet_v2",
        root=folder,
        images=files,
        digests=[b""] * number,
    )


class Links(HTMLParser):
    """The images and links of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.targets: set[str] = set()
        self.ids: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag == "img":
            assert found["alt"]
            self.images.append(str(found["src"]))
        if "href" in found:
            self.targets.add(str(found["href"]))
        if "id" in found:
            self.ids.add(str(found["id"]))


def test_the_page_shows_pairs_and_says_how_many_are_left_out(tmp_path: Path) -> None:
    inspection(tmp_path, 30).report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert len(page.images) == 24 + 2
    assert all(source.startswith("data:image/webp;base64,") for source in page.images)
    assert "and 6 more" in text
    assert "similarity 0.97" in text
    assert page.targets == {"#dark", "#near-duplicate", "#imbalance"}
    assert {target.removeprefix("#") for target in page.targets} <= page.ids
    assert not {"b", "i", "small", "script", "link"} & page.tags
    assert len(text) < 200_000


def test_a_page_without_findings(tmp_path: Path) -> None:
    found = inspection(tmp_path, 2)
    found.findings.clear()
    found.report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "0 findings" in text
    assert "Nothing was found." in text


def test_the_file_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.html"):
        inspection(tmp_path, 2).report(tmp_path / "page.txt")
