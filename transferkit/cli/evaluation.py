"""Output of an evaluation, shared by ``fit`` and ``evaluate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import parse_path
from transferkit.cli.console import format_count, print_line, print_skipped, print_table

if TYPE_CHECKING:
    from transferkit.classification import Evaluation

__all__ = ["Report", "format_accuracy", "print_evaluation", "write_report"]

Report = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path,
        metavar="FILE",
        help="Write a page with the evaluation: one .html file with everything in it.",
    ),
]


def format_accuracy(accuracy: float, number: int) -> str:
    """Return an accuracy on ``number`` images with its 95% confidence interval."""
    from transferkit.classification.evaluation import wilson_interval

    low, high = wilson_interval(accuracy, number)
    return f"{accuracy:.4f} (95% interval {low:.4f} to {high:.4f})"


def print_evaluation(evaluation: Evaluation, where: str) -> None:
    """Print the accuracy, the most frequent confusions, and the images that were skipped."""
    number = len(evaluation.label_indices)
    print_line(
        f"accuracy on {format_count(number, 'image')} {where}: "
        f"{format_accuracy(evaluation.accuracy, number)}"
    )
    confusions = evaluation.worst_pairs()
    if confusions:
        print_line("most frequent confusions:")
        print_table(("true class", "predicted class", "images"), confusions)
    print_skipped(evaluation.skipped)


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the report of an evaluation, with the command that is running."""
    evaluation.report(path, command=shlex.join(["transferkit", *sys.argv[1:]]))
    print_line(f"saved {path}")
