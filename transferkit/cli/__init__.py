"""The command line: one module per command, each a thin layer over the public classes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXIT_CODE_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; see `transferkit.cli.app.main`."""
    try:
        # Imported here, so that Ctrl-C in the meantime does not print a traceback.
        from transferkit.cli.app import main as run

        run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(_EXIT_CODE_INTERRUPTED)
