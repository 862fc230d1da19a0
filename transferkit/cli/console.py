"""What commands print: lines, tables and warnings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from transferkit.images import Skipped

__all__ = ["INTERRUPTED", "printable", "report_skipped", "say", "show_table", "warn"]

INTERRUPTED = 130
"""The exit code of an interrupted command."""


def report_skipped(skipped: Sequence[Skipped], what: str = "read") -> None:
    """Print the images that were skipped, and why, on standard error."""
    if skipped:
        images = "1 image" if len(skipped) == 1 else f"{len(skipped)} images"
        warn(f"skipped {images} that cannot be {what}:")
    for left_out in skipped:
        warn(f"  {left_out.source}: {left_out.reason}")


def say(text: str) -> None:
    """A line on standard output, as it is: neither wrapped nor read as markup."""
    Console().print(printable(text), markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line on standard error."""
    style = "red" if text.startswith("error") else "yellow"
    Console(stderr=True).print(
        printable(text), style=style, markup=False, highlight=False, soft_wrap=True
    )


def printable(text: str) -> str:
    r"""The text in one line, with what no terminal should be sent written as in ``\x1b``.

    The name of a file may hold line breaks, a terminal's commands, and bytes that are no text.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Into a file or a pipe, lines are as long as they are; no name is cut in two.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
