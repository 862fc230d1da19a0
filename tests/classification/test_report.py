"""The report of an evaluation: its content, and that it is complete, small and accessible."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from samples import DEMO, colored, tiny_classifier

from transferkit import Classifier, Evaluation
from transferkit.errors import OutputError
from transferkit.images import Skipped
from transferkit.training import Candidate, EpochRecord, History, StepRecord

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

_VOID = {"meta", "img", "br", "link", "input", "hr"}
_MAX_BYTES = 5_000_000


class Page(HTMLParser):
    """The elements of a page, and the text of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.open: list[str] = []
        self.section = "top"
        self.size = path.stat().st_size
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "h2":
            self.section = dict(attrs)["id"] or ""
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self.section] = self.sections.get(self.section, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(page: Page) -> None:
    """Check what every report must have."""
    assert page.size < _MAX_BYTES
    tags = Counter(tag for tag, _ in page.elements)
    assert not tags.keys() & {"script", "iframe", "link", "object", "embed", "form"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/"))
    assert not re.search(r"url\((?!#)|@import", page.text)
    # Headings without a gap, and no name twice.
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.all("a")]
    assert links
    assert {f"#{name}" for name in ids} >= set(links)
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") and svg["role"] == "img" for svg in page.all("svg"))
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert tags["caption"] == tags["table"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Evaluation]:
    """Return the page of an evaluation with mistakes, an unreadable image, and a history."""
    folder = tmp_path_factory.mktemp("report")
    numbers = [0, 1, 2, 3, 4] * 6
    names = [f"{'<b>&' if number == 0 else ''}color {number}" for number in numbers]
    images = [*colored(numbers, spread=230, seed=2)]
    classifier = tiny_classifier(C=0.3).fit(images, names)
    found = classifier.evaluate(colored(numbers, spread=250, seed=3), names)
    assert len(found.mistakes) > 3
    step = StepRecord(1, 1, 1.0, 0.5, 1e-3, 1.0, 1.0)
    epoch = EpochRecord(1, 1.0, 0.5, 0.9, 0.6, 1e-3, 1.0, 1.0)
    candidates = (Candidate("probe", 1.0, 0.5), Candidate("epoch 1", 0.9, 0.6))
    history = History((step,), (epoch,), candidates, best="epoch 1")
    object.__setattr__(found, "history", history)
    found.skipped.append(Skipped("photos/bad.jpg", "truncated"))
    found.report(folder / "report.html", command="transferkit evaluate 'a b.safetensors' x")
    return Page(folder / "report.html"), found


def test_the_page_is_complete_and_accessible(report: tuple[Page, Evaluation]) -> None:
    check_page(report[0])


def test_the_page_has_what_was_measured(report: tuple[Page, Evaluation]) -> None:
    page, found = report
    low, high = (f"{100 * end:.1f}%" for end in found.interval)
    top = page.sections["top"]
    assert f"{100 * found.accuracy:.1f}% accuracy" in top
    assert f"{low} and {high}" in top
    assert f"{30 - len(found.mistakes)} of 30 images of 5 classes" in top
    for value in (found.balanced_accuracy, found.macro_f1, found.log_loss, found.top_k(3)):
        assert f"{value:.4f}" in page.sections["metrics"]
    assert f"{found.calibration.ece:.4f}" in page.sections["reliability"]
    assert f"{found.calibration.ece_by_chance:.4f}" in page.sections["reliability"]
    for label, score in found.per_class.items():
        assert str(label) in page.sections["classes"]
        assert f"{score.recall:.3f}" in page.sections["classes"]
    assert f"All {len(found.mistakes)} mistakes" in page.sections["mistakes"]
    assert "photos/bad.jpg" in page.sections["skipped"]
    assert "truncated" in page.sections["skipped"]
    provenance = found.provenance
    assert provenance is not None
    for text in (
        provenance.weights_digest,
        provenance.versions["numpy"],
        "transferkit evaluate 'a b.safetensors' x",
    ):
        assert text is not None
        assert text in page.sections["provenance"]
    assert "<b>&color" not in page.text
    assert len([svg for svg in page.all("svg") if "chart" in (svg["class"] or "")]) == 2
    assert "Training" in page.sections["top"]
    assert {"training", "skipped"} <= {attributes.get("id") for attributes in page.all("h2")}
    # A thumbnail for each mistake, and for each of the least confident.
    assert len(page.all("img")) == len(found.mistakes) + 24


def test_the_confusion_matrix_is_a_table(report: tuple[Page, Evaluation]) -> None:
    page, found = report
    table = page.text.split('<table class="matrix')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    cells = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in rows]
    numbers = [[int(cell or 0) for cell in row] for row in cells]
    np.testing.assert_array_equal(numbers, found.confusion_matrix)


def test_a_thousand_images_fit_into_5_megabytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(40), 1000)
    images = generator.integers(0, 256, (1000, 160, 160, 3), dtype=np.uint8)
    found = Evaluation(
        np.array([f"a class with a long name {index}" for index in range(40)]),
        generator.integers(0, 40, 1000),
        probabilities,
        [f"images[{index}]" for index in range(1000)],
        [],
        images=list(images),
    )
    found.report(tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    check_page(page)
    assert "Unknown." in page.sections["provenance"]
    assert "The 24 most confident of" in page.sections["mistakes"]


def test_photos_are_read_from_their_paths(tmp_path: Path) -> None:
    found = Classifier(backend="onnxruntime", C=10.0).fit(DEMO / "train").evaluate(DEMO / "test")
    object.__setattr__(found, "images", None)
    found.report(tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    check_page(page)
    assert "There are none." in page.sections["mistakes"]
    assert page.sections["skipped"].strip().endswith("None.")
    assert len(page.all("img")) == 24
    assert all((image["src"] or "").startswith("data:image/webp") for image in page.all("img"))


def test_other_file_names_are_rejected(tmp_path: Path) -> None:
    found = Evaluation(np.array(["a", "b"]), np.array([0]), np.array([[0.9, 0.1]]), ["x"], [])
    with pytest.raises(OutputError, match=r"report\.pdf"):
        found.report(tmp_path / "report.pdf")


def _luminance(color: np.ndarray) -> float:
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_has_enough_contrast_on_every_background(report: tuple[Page, Evaluation]) -> None:
    """At least 4.5, which WCAG 2.2 requires (success criterion 1.4.3)."""
    light, dark = re.findall(r":root \{(.*?)\}", report[0].text, re.DOTALL)
    for scheme in (light, dark):
        colors = {
            name: np.array([int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)])
            for name, value in re.findall(r"--(\w+): #(\w{6})", scheme)
        }
        paper = colors["paper"]
        pairs = [(colors[name], paper) for name in ("ink", "soft", "accent", "bad")]
        pairs += [(colors["ink"], colors["fill"])]
        # The cells of the confusion matrix.
        pairs += [(colors["ink"], 0.35 * colors[name] + 0.65 * paper) for name in ("accent", "bad")]
        for text, background in pairs:
            high, low = sorted((_luminance(text), _luminance(background)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5
