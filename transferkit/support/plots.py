"""Plots in PNG files, drawn by matplotlib, which is imported when a plot is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transferkit.errors import UnsupportedError
from transferkit.support.atomic_write import check_writable, png_path, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot", "plot_file"]

_DOTS_PER_INCH = 120


def check_plot(path: str | os.PathLike[str]) -> Path:
    """Return the path of a plot that is to be written, after checking that it can be.

    Parameters
    ----------
    path
        Ends in ``.png``.

    Raises
    ------
    UnsupportedError
        If matplotlib is not installed.
    OutputError
        If the file cannot be written, or its name does not end in ``.png``.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            'plots need matplotlib, which is not installed; pip install "transferkit[plots]"'
        ) from error
    target = png_path(path)
    check_writable(target)
    return target


@contextmanager
def plot_file(path: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """Create a figure that is written to a PNG file when the block ends without an error.

    The figure does not use pyplot, so that its global state and the backend that the user chose
    stay as they are.

    Parameters
    ----------
    path
        Ends in ``.png``. An existing file is replaced when the new one is complete.
    width, height
        The size of the figure in inches.

    Yields
    ------
    matplotlib.figure.Figure
        Empty, with constrained layout.

    Raises
    ------
    UnsupportedError
        If matplotlib is not installed.
    OutputError
        If the file cannot be written, or its name does not end in ``.png``.
    """
    target = check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with write_atomically(target) as file:
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
