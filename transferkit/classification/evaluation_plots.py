"""Plots of an evaluation: the confusion matrix and the reliability diagram."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transferkit.classification.calibration import Calibration
from transferkit.support.plots import plot_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_calibration", "plot_calibration", "plot_confusion_matrix"]

# In inches: of a cell, and of the labels around the matrix.
_CELL = 0.3
_MIN_SIDE = 3.0
_LABELS = 2.2
_MAX_LABEL = 30
# Above this share, text in a cell is white.
_DARK = 0.5


def plot_confusion_matrix(
    path: str | os.PathLike[str], matrix: npt.NDArray[np.intp], classes: npt.NDArray[Any]
) -> None:
    """Draw a confusion matrix to a PNG file; see `Evaluation.plot_confusion_matrix`.

    Parameters
    ----------
    path
        Ends in ``.png``.
    matrix
        (c, c) numbers of images: rows are true classes, columns predicted ones.
    classes
        (c,) the classes.
    """
    side = max(_MIN_SIDE, _CELL * len(classes))
    labels = [_shorten(str(label)) for label in classes.tolist()]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    with plot_file(path, side + _LABELS, side + _LABELS - 0.4) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ticks = range(len(labels))
        # Names of more than a few classes overlap unless they are upright.
        rotation = 0 if len(labels) < 4 else 90
        # Not as formulas: a dollar sign is a dollar sign.
        axes.set_xticks(ticks, labels, rotation=rotation, fontsize=9, parse_math=False)
        axes.set_yticks(ticks, labels, fontsize=9, parse_math=False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_xticks(np.arange(-0.5, len(labels)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(labels)), minor=True)
        axes.grid(which="minor", color="0.85", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
        largest = len(str(matrix.max()))
        size = min(14.0, 11 * side / len(labels) / (_CELL * max(largest, 2)))
        for row, column in zip(*np.nonzero(matrix), strict=True):
            axes.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center",
                fontsize=size,
                color="white" if shares[row, column] > _DARK else "black",
            )


def plot_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Draw a reliability diagram to a PNG file; see `Evaluation.plot_calibration`."""
    with plot_file(path, 5, 5) as figure:
        draw_calibration(figure, calibration)


def draw_calibration(figure: Figure, calibration: Calibration) -> None:
    """Draw a reliability diagram, and below it the number of images in each bin."""
    used = [entry for entry in calibration.bins if entry.images]
    diagram, numbers = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    diagram.plot([0, 1], [0, 1], "--", color="0.5", label="calibrated")
    confidences = [entry.confidence for entry in used]
    accuracies = [entry.accuracy for entry in used]
    diagram.plot(confidences, accuracies, "o-", color="C0", label="this classifier")
    diagram.set_ylabel("accuracy")
    diagram.set_ylim(-0.03, 1.03)
    diagram.legend(frameon=False, loc="upper left")
    numbers.bar(
        [(entry.low + entry.high) / 2 for entry in used],
        [entry.images for entry in used],
        width=0.09,
        color="C0",
        alpha=0.6,
    )
    numbers.set_ylabel("images")
    numbers.set_xlabel("probability of the predicted class")
    numbers.set_xlim(0, 1)
    diagram.grid(alpha=0.3)


def _shorten(label: str) -> str:
    # The name of a folder need not be valid text.
    label = label.encode("utf-8", "replace").decode("utf-8")
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 3]}..."
