"""Output of the commands: lines, tables, JSON, CSV, warnings."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from transferkit.images import Skipped

__all__ = [
    "EXIT_CODE_INTERRUPTED",
    "escape_control_characters",
    "format_count",
    "print_json",
    "print_line",
    "print_skipped",
    "print_table",
    "print_warning",
    "skipped_to_dicts",
    "write_csv",
]

EXIT_CODE_INTERRUPTED = 130
"""The exit code of an interrupted command, as in shells: 128 + SIGINT."""


def escape_control_characters(text: str) -> str:
    r"""Return the text in one line, with unprintable characters written as ``\x1b``.

    The name of a file may contain line breaks, control sequences of terminals, and bytes that
    cannot be decoded.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def format_count(number: int, noun: str) -> str:
    """Return ``"1 file"`` or ``"2 files"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_line(text: str) -> None:
    """Print a line on standard output, without wrapping or markup."""
    Console().print(escape_control_characters(text), markup=False, highlight=False, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a line on standard error: errors in red, warnings in yellow."""
    style = "red" if text.startswith("error") else "yellow"
    Console(stderr=True).print(
        escape_control_characters(text), style=style, markup=False, highlight=False, soft_wrap=True
    )


def print_skipped(skipped: Sequence[Skipped], limit: int | None = None) -> None:
    """Print what was skipped, images or classes, on standard error, each with the reason.

    Parameters
    ----------
    skipped
        All that was skipped.
    limit
        The number of images to list; None: all.
    """
    if skipped:
        print_warning(f"{len(skipped)} skipped:")
    for item in skipped[:limit]:
        print_warning(f"  {item.source}: {item.reason}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output."""
    # Folded: where a terminal is too narrow, long names are wrapped rather than cut.
    table = Table(*(Column(heading, overflow="fold") for heading in columns))
    for row in rows:
        table.add_row(*(Text(escape_control_characters(str(cell))) for cell in row))
    # In a file or a pipe, rows may have any length: names are never wrapped there.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def print_json(content: Mapping[str, object]) -> None:
    """Print an object as indented JSON on standard output."""
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")


def write_csv(file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV to a file or to standard output."""
    if isinstance(file, io.TextIOWrapper):
        # The name of a file need not be valid text; its bytes are written unchanged.
        file.reconfigure(errors="surrogateescape")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def skipped_to_dicts(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    """Return the skipped images as JSON objects."""
    return [{"source": item.source, "reason": item.reason} for item in skipped]
