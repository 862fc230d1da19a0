"""The command-line program: its commands, and how errors and interruptions are reported."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from transferkit.cli.attack import attack
from transferkit.cli.backends import backends
from transferkit.cli.cache import cache
from transferkit.cli.console import INTERRUPTED, say, warn
from transferkit.cli.demo import demo
from transferkit.cli.download import download
from transferkit.cli.extract import extract
from transferkit.cli.fit import fit
from transferkit.cli.layers import layers
from transferkit.cli.networks import networks
from transferkit.cli.predict import predict
from transferkit.cli.show_layer import show_layer
from transferkit.cli.visualize import visualize
from transferkit.errors import TransferkitError
from transferkit.support.version import __version__

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """The commands, with the library's errors told in a line instead of a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            with warnings.catch_warnings():
                # In a line too, and not with the place in the source that gave it.
                warnings.showwarning = lambda message, *_: warn(f"warning: {message}")
                found = super().invoke(ctx)
            # What waits to be written may fail yet, if its reader has gone.
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            raise
        except (TransferkitError, ValueError, OSError) as error:
            warn(f"error: {error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interruption:
            keeps_what_is_done = ctx.invoked_subcommand in {"extract", "download"}
            again = "; call it again to go on from there" if keeps_what_is_done else ""
            warn(f"interrupted{again}")
            raise typer.Exit(INTERRUPTED) from interruption


app = typer.Typer(
    cls=_Commands,
    help="Transfer learning for images: the same numbers on PyTorch, TensorFlow and ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"transferkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Transfer learning for images: the same numbers on PyTorch, TensorFlow, ONNX Runtime."""


for _command in (
    demo,
    fit,
    predict,
    extract,
    show_layer,
    visualize,
    attack,
    networks,
    download,
):
    app.command()(_command)
app.add_typer(cache, name="cache")
for _command in (layers, backends):
    app.command()(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Parameters
    ----------
    arguments
        What follows the program's name; None: what it was called with.

    Notes
    -----
    Exit codes: 0, done; 1, an error, told on standard error; 2, wrong usage; 130, interrupted.
    """
    # TensorFlow tells of its compilation on standard error; nothing of that is an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app(arguments, prog_name="transferkit")
