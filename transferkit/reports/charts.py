"""Charts as SVG elements, drawn by matplotlib, which is imported when a chart is made."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chart"]

# In the SVG, this color of text and axes is replaced by that of the page's text.
_INK = "#010203"


def chart(draw: Callable[[Figure], None], *, width: float, height: float, title: str) -> str:
    """Return a chart as an SVG element, in the colors of the page, light or dark.

    Parameters
    ----------
    draw
        Draws on an empty figure with constrained layout.
    width, height
        The size in inches; the page scales it to its width.
    title
        The text for those who cannot see the chart.

    Returns
    -------
    str
        An ``svg`` element with the role of an image.

    Examples
    --------
    >>> from transferkit.reports import chart
    >>> svg = chart(
    ...     lambda figure: figure.subplots().plot([1, 2]), width=3, height=2, title="Line"
    ... )
    >>> svg.startswith("<svg") and 'role="img"' in svg
    True
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    draw(figure)
    _use_ink(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Metadata has links to other sites, and is of no use on a page.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Names are unique in a chart, and must be on the page.
    prefix = re.sub(r"\W+", "-", title) + "-"
    svg = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', prefix, svg)
    attributes = f'role="img" aria-label="{escape(title)}" class="chart"'
    return svg.replace("<svg ", f"<svg {attributes} ", 1)


def _use_ink(figure: Figure) -> None:
    """Draw text and axes in the color that is replaced.

    Not by settings of matplotlib, which are global.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_color(_INK)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.tick_params(colors=_INK)
        axes.spines[:].set_edgecolor(_INK)
