"""Pages: escaped, self-contained, written whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transferkit.errors import OutputError
from transferkit.reports import chart, check_report, make_thumbnails

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def test_a_page_needs_a_name_that_ends_in_html(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"report\.pdf: expected a file name that ends in \.html"):
        check_report(tmp_path / "report.pdf")
    assert check_report(tmp_path / "report.HTML") == tmp_path / "report.HTML"


def test_charts_of_a_page_share_no_ids() -> None:
    charts = [
        chart(lambda figure: figure.subplots().plot([1, 2], "o"), width=3, height=2, title=title)
        for title in ("One", 'Two "2" & <3>')
    ]
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in charts]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip(charts, ids, strict=True):
        used = set(re.findall(r'(?:href="|url\()#([^")]*)', svg))
        assert used
        assert used <= known
    assert 'aria-label="Two &quot;2&quot; &amp; &lt;3&gt;"' in charts[1]


def test_a_chart_has_the_color_of_the_page_and_no_links() -> None:
    svg = chart(lambda figure: figure.subplots().set_xlabel("x"), width=3, height=2, title="Axis")
    assert "currentColor" in svg
    # Namespaces are names, not links.
    assert set(re.findall(r"https?://[^\s\"']+", svg)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_a_file_that_cannot_be_read_has_an_empty_thumbnail(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert make_thumbnails({"broken": broken})["broken"].url == ""
