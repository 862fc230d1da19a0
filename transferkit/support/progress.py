"""Progress bars, shown on a terminal and in a notebook unless requested otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transferkit.support.notebook_progress import NotebookProgress, is_notebook

__all__ = ["print_progress", "show_progress"]


@contextmanager
def show_progress(
    what: str,
    total: int | None,
    *,
    shown: bool | None,
    in_bytes: bool = False,
    status: Callable[[], str] | None = None,
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar during a ``with`` block.

    In a notebook it is displayed below the cell, elsewhere on standard error.

    Parameters
    ----------
    what
        The task: ``"Computing features"``.
    total
        The number of steps; None if unknown.
    shown
        Whether to show the bar; None: on a terminal and in a notebook.
    in_bytes
        Whether steps are bytes, shown as megabytes with the speed.
    status
        A function that returns what is shown after the task, such as ``", 3 skipped"``; it is
        called when the bar advances.

    Yields
    ------
    callable
        Advances the bar by a number of steps.

    Examples
    --------
    >>> from transferkit.support.progress import show_progress
    >>> with show_progress("Counting", 2, shown=False) as advance:
    ...     advance(2)
    """
    in_notebook = is_notebook()
    if not _is_shown(shown):
        yield lambda _steps: None
        return
    if in_notebook:
        notebook_progress = NotebookProgress(what, total, in_bytes=in_bytes, status=status)
        try:
            yield notebook_progress.advance
        finally:
            notebook_progress.close()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    # A separate console for each bar, so that bars in several threads do not interfere.
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)),
        TimeRemainingColumn(),
        console=console,
        # Where lines cannot be erased, only the final state is shown.
        transient=console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=total)
        if status is None:
            yield lambda steps: progress.advance(task, steps)
            return
        yield lambda steps: progress.update(task, advance=steps, description=f"{what}{status()}")


def print_progress(line: str, *, shown: bool | None) -> None:
    """Print a line about work in progress on standard error.

    Parameters
    ----------
    line
        The line, without a line break.
    shown
        Whether to print it; None: on a terminal and in a notebook.
    """
    if _is_shown(shown):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _is_shown(shown: bool | None) -> bool:
    return is_notebook() or sys.stderr.isatty() if shown is None else shown
