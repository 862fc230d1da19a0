"""Progress in a Jupyter notebook, as text below the cell."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable

__all__ = ["NotebookProgress", "is_notebook"]

# In seconds; every update is a message to the browser.
_INTERVAL = 0.2


def is_notebook() -> bool:
    """Return whether the program runs in the kernel of a notebook."""
    # IPython is imported by the kernel, and not for this check.
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


class NotebookProgress:
    """The progress of a task, displayed below the cell that runs.

    Parameters
    ----------
    what
        The task: ``"Computing features"``.
    total
        The number of steps; None if unknown.
    in_bytes
        Whether steps are bytes, shown as megabytes.
    status
        A function that returns what is shown after the task.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        in_bytes: bool = False,
        status: Callable[[], str] | None = None,
    ) -> None:
        from IPython.display import display

        self._what = what
        self._total = total
        self._in_bytes = in_bytes
        self._status = status
        self._steps = 0
        self._start = self._shown = time.monotonic()
        self._is_complete = False
        self._handle = display(self, display_id=True)

    def advance(self, steps: int) -> None:
        """Add completed steps."""
        self._steps += steps
        now = time.monotonic()
        if now - self._shown >= _INTERVAL:
            self._shown = now
            self._handle.update(self)

    def close(self) -> None:
        """Remove the display, as a bar on a terminal is removed."""
        self._is_complete = True
        self._handle.update(self)

    def __repr__(self) -> str:
        if self._is_complete:
            return ""
        unit, scale = (" MB", 1e6) if self._in_bytes else ("", 1)
        form = ".1f" if self._in_bytes else ".0f"
        status = "" if self._status is None else self._status()
        text = f"{self._what}{status}: {self._steps / scale:{form}}"
        if self._total is None:
            return f"{text}{unit}"
        text += f" of {self._total / scale:{form}}{unit}"
        if 0 < self._steps < self._total:
            elapsed = time.monotonic() - self._start
            seconds = round(elapsed * (self._total - self._steps) / self._steps)
            text += f", {seconds // 60}:{seconds % 60:02} left"
        return text

    def _repr_html_(self) -> str:
        text = repr(self)
        if not text or self._total is None:
            return html.escape(text)
        bar = f'<progress max="{self._total}" value="{self._steps}"></progress>'
        return f"{bar} {html.escape(text)}"
