"""`Comparison`: the result of `compare`."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from transferkit.comparison.drawing import HEIGHT, WIDTH, draw_comparison
from transferkit.comparison.table import (
    ACCURACY_COLUMNS,
    SIZE_COLUMNS,
    ComparedNetwork,
    format_accuracy,
    format_size,
    label_of,
)
from transferkit.images import Skipped
from transferkit.reports import chart, write_page
from transferkit.support.atomic_write import write_atomically
from transferkit.support.data_frames import import_pandas
from transferkit.support.plots import plot_file
from transferkit.support.version import __version__

__all__ = ["Comparison"]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of `transferkit.compare`.

    Attributes
    ----------
    table
        A row for each network and method: first those with results, the most accurate first.
    counts
        Each class with its number of images.
    cv
        The number of folds of the cross-validation.
    random_state
        The seed of the folds and of random weights, also if None was given.
    skipped
        The images and folders that were left out, and why.
    interrupted
        Whether Ctrl-C ended the comparison; what was finished is in the table.

    Examples
    --------
    >>> from transferkit.comparison import ComparedNetwork, Comparison
    >>> row = ComparedNetwork("resnet18", "probe", "imagenet1k_v1", 0.9, 0.86, 0.93, images=300)
    >>> comparison = Comparison([row], {"cat": 200, "dog": 100}, cv=5, random_state=0)
    >>> comparison.best.network, round(comparison.chance, 3)
    ('resnet18', 0.667)
    """

    table: list[ComparedNetwork]
    counts: Mapping[Hashable, int]
    cv: int
    random_state: int
    skipped: list[Skipped] = field(default_factory=list)
    interrupted: bool = False

    @property
    def finished(self) -> list[ComparedNetwork]:
        """The rows that have a result."""
        return [row for row in self.table if row.accuracy is not None]

    @property
    def failed(self) -> list[ComparedNetwork]:
        """The rows that have none; their ``error`` says why."""
        return [row for row in self.table if row.accuracy is None]

    @property
    def best(self) -> ComparedNetwork:
        """The row with the highest accuracy."""
        return self.finished[0]

    @property
    def not_worse(self) -> list[ComparedNetwork]:
        """The other rows whose difference to the best has an interval that contains 0.

        These images cannot tell them from the best one.
        """
        return [row for row in self.finished[1:] if (row.difference_high or 0.0) >= 0]

    @property
    def chance(self) -> float:
        """The accuracy of a classifier that always predicts the most frequent class."""
        return max(self.counts.values()) / sum(self.counts.values())

    def to_pandas(self) -> Any:
        """Return the table as a data frame, with the columns of `ComparedNetwork`.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.
        """
        return import_pandas().DataFrame(self.table, columns=ComparedNetwork._fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, as in the file that `to_json` writes."""
        return {
            "images": sum(self.counts.values()),
            "classes": {str(label): count for label, count in self.counts.items()},
            "chance": self.chance,
            "cv": self.cv,
            "random_state": self.random_state,
            "interrupted": self.interrupted,
            "networks": [row._asdict() for row in self.table],
            "skipped": [{"source": item.source, "reason": item.reason} for item in self.skipped],
            "transferkit": __version__,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the comparison to a JSON file.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        with write_atomically(Path(path)) as file:
            file.write(f"{text}\n".encode())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot the accuracy over the images per second, with the intervals, to a PNG file.

        Parameters
        ----------
        path
            Ends in ``.png``. An existing file is replaced when the new one is complete.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        with plot_file(path, WIDTH, HEIGHT) as figure:
            draw_comparison(figure, self.finished, self.chance)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the table and the plot: one HTML file that needs no network.

        Parameters
        ----------
        path
            Ends in ``.html``.

        Raises
        ------
        UnsupportedError
            If Jinja or matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.html``.
        """
        draw = partial(draw_comparison, rows=self.finished, chance=self.chance)
        content = {
            "comparison": self,
            "accuracy_columns": ACCURACY_COLUMNS,
            "accuracies": [format_accuracy(row) for row in self.finished],
            "size_columns": SIZE_COLUMNS,
            "sizes": [format_size(row) for row in self.finished],
            "label_of": label_of,
            "skipped": [(item.source, item.reason) for item in self.skipped],
            "plot": chart(
                draw,
                width=WIDTH,
                height=HEIGHT,
                title="Accuracy over images per second; the table has the numbers",
            ),
        }
        write_page(path, "comparison.html", content)

    def __str__(self) -> str:
        images, classes = sum(self.counts.values()), len(self.counts)
        lines = [f"{images} images of {classes} classes, {self.cv}-fold cross-validation"]
        for row in self.finished:
            interval = f"{row.low:.4f} to {row.high:.4f}"
            lines.append(f"{label_of(row)}: accuracy {row.accuracy:.4f} ({interval})")
        lines += [f"{label_of(row)}: {row.error}" for row in self.failed]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.table)} rows: {str(self).splitlines()[0]}>"

    def _repr_html_(self) -> str:
        tables = _html_table(ACCURACY_COLUMNS, map(format_accuracy, self.finished))
        tables += _html_table(SIZE_COLUMNS, map(format_size, self.finished))
        failed = "".join(
            f"<p>{escape(label_of(row))}: {escape(str(row.error))}</p>" for row in self.failed
        )
        return f"<p>{escape(str(self).splitlines()[0])}</p>{tables}{failed}"


def _html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    headings = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table>"
