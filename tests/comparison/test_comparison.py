"""How a comparison is shown: text, HTML, plot, page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferkit.comparison import ComparedNetwork, Comparison
from transferkit.comparison.timing import TimedProgram
from transferkit.images import Skipped

EVIL = "<b>evil</b> & co"
BEST = ComparedNetwork(
    "resnet50", "probe", "imagenet1k_v2", 0.95, 0.9, 0.975, 0.0, 0.0, 0.0, 0.5, 20.0,
    "torch", 25_557_032, 102.228, "BSD-3-Clause", 200,
)  # fmt: skip
EQUAL = BEST._replace(
    network="mobilenet_v2",
    method="fine-tuned",
    accuracy=0.94,
    difference=-0.01,
    difference_low=-0.03,
    difference_high=0.01,
    logme=None,
    images_per_second=123.4,
)
WORSE = BEST._replace(
    network=EVIL,
    accuracy=0.6,
    low=0.53,
    high=0.66,
    difference=-0.35,
    difference_low=-0.42,
    difference_high=-0.28,
    license=None,
)
FAILED = ComparedNetwork("vgg16", "probe", "keras", error=f"offline {EVIL}")
COMPARISON = Comparison(
    [BEST, EQUAL, WORSE, FAILED],
    {EVIL: 150, "b": 50},
    5,
    7,
    [Skipped("photos/1.jpg", "the file is empty")],
)


def test_parts() -> None:
    assert COMPARISON.best is BEST
    assert COMPARISON.finished == [BEST, EQUAL, WORSE]
    assert COMPARISON.failed == [FAILED]
    assert COMPARISON.not_worse == [EQUAL]
    assert COMPARISON.chance == 0.75


def test_text() -> None:
    lines = str(COMPARISON).splitlines()
    assert lines[0] == "200 images of 2 classes, 5-fold cross-validation"
    assert lines[1] == "resnet50: accuracy 0.9500 (0.9000 to 0.9750)"
    assert lines[2] == "mobilenet_v2, fine-tuned: accuracy 0.9400 (0.9000 to 0.9750)"
    assert lines[4] == f"vgg16: offline {EVIL}"
    assert repr(COMPARISON) == f"<Comparison of 4 rows: {lines[0]}>"


def cells(html: str) -> list[str]:
    """Return the text of the cells of all tables."""
    return [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[dh][ >].*?</t[dh]>", html)]


def test_notebooks_show_escaped_tables() -> None:
    html = COMPARISON._repr_html_()
    assert "<b>" not in html
    shown = cells(html)
    for text in ("0.9500", "best", "-0.0300 to +0.0100", "123", "25.6 M", "102.2", "BSD-3-Clause"):
        assert text in shown
    assert "offline &lt;b&gt;" in html


def test_page(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    COMPARISON.report(tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "<b>" not in html
    assert "Comparison of 4 networks" in html
    assert "resnet50: 95.0%" in html
    assert re.search(r"do not suffice.*<strong>mobilenet_v2, fine-tuned</strong>:", html, re.DOTALL)
    assert "offline &lt;b&gt;" in html
    shown = cells(html)
    for text in ("0.9000 to 0.9750", "-0.35" + "00", "imagenet1k_v2", "torch", "the file is empty"):
        assert text in shown
    assert 'role="img"' in html
    # Self-contained: no scripts, nothing that is loaded.
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html.split("<svg")[0])
    assert "interrupted" not in html


def test_page_of_a_single_network(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    single = Comparison([BEST], {"a": 1, "b": 1}, 2, 0, interrupted=True)
    single.report(tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "was interrupted" in html
    assert "do not suffice" not in html
    assert "All others" not in html


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    COMPARISON.plot(tmp_path / "compare.png")
    with Image.open(tmp_path / "compare.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    # The color of the points is on it.
    assert (np.abs(pixels.astype(int) - [0x3B, 0x82, 0xC4]).max(axis=2) < 10).sum() > 100


def test_the_first_run_is_not_timed() -> None:
    program = object.__new__(TimedProgram)
    program._runs = []
    assert program.images_per_second is None
    program._runs.append((4, 2.0))
    assert program.images_per_second == 2.0
    program._runs += [(4, 0.5), (2, 0.25)]
    assert program.images_per_second == 8.0
