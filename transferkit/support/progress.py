"""Progress of long work, shown on a terminal and nowhere else unless asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["show_progress"]


@contextmanager
def show_progress(
    what: str, total: int | None, *, shown: bool | None, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error for the time of a ``with`` block.

    Parameters
    ----------
    what
        What is being done: ``"Computing features"``.
    total
        How many steps there are; None if that is not known.
    shown
        None shows it only where standard error is a terminal.
    in_bytes
        The steps are bytes, shown as megabytes and with their speed.

    Yields
    ------
    callable
        To be called with the number of steps just done.

    Examples
    --------
    >>> from transferkit.support.progress import show_progress
    >>> with show_progress("Counting", 2, shown=False) as advance:
    ...     advance(2)
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda _steps: None
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

    # A console of its own: two at work in two threads do not get in each other's way.
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)),
        TimeRemainingColumn(),
        console=console,
        # Where lines cannot be taken back, the last state is all that is shown.
        transient=console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps: progress.advance(task, steps)
