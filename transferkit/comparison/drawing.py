"""The plot of a comparison: accuracy over speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from transferkit.comparison.table import ComparedNetwork, label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HEIGHT", "WIDTH", "draw_comparison"]

WIDTH, HEIGHT = 7.0, 4.5
"""The size of the plot in inches."""

_COLOR = "#3b82c4"
# Above and below, in turn, so that the names of networks of nearly equal speed do not overlap.
_OFFSETS = (("bottom", 6), ("top", -6))


def draw_comparison(figure: Figure, rows: Sequence[ComparedNetwork], chance: float) -> None:
    """Draw the accuracy of networks over their speed, with the intervals.

    Parameters
    ----------
    figure
        Empty.
    rows
        With results.
    chance
        The accuracy of a classifier that always predicts the most frequent class, in [0, 1].
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axes = figure.subplots()
    rows = sorted(rows, key=lambda row: row.images_per_second or 0.0)
    for position, row in enumerate(rows):
        speed, accuracy, low, high = (row.images_per_second, row.accuracy, row.low, row.high)
        if speed is None or accuracy is None or low is None or high is None:
            continue
        margins = np.array([[accuracy - low], [high - accuracy]])
        axes.errorbar(speed, accuracy, margins, fmt="o", color=_COLOR, capsize=3)
        anchor, offset = _OFFSETS[position % 2]
        axes.annotate(
            label_of(row),
            (speed, high if anchor == "bottom" else low),
            (0, offset),
            textcoords="offset points",
            horizontalalignment="center",
            verticalalignment=anchor,
            fontsize="small",
        )
    axes.axhline(chance, color="0.5", linestyle="--", linewidth=1)
    axes.annotate(
        "most frequent class",
        (0.01, chance),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize="small",
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("images per second")
    axes.set_ylabel("cross-validated accuracy")
    axes.margins(x=0.2, y=0.15)
    # Room for names, but no accuracies outside of [0, 1].
    limits = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 1])
    axes.set_ylim(limits)
    axes.grid(alpha=0.3)
