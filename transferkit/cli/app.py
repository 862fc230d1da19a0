"""The command-line program: its commands, and the reporting of errors and interruptions."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from transferkit.cli.attack import attack
from transferkit.cli.backends import backends
from transferkit.cli.cache import cache
from transferkit.cli.compare import compare
from transferkit.cli.console import EXIT_CODE_INTERRUPTED, print_line, print_warning
from transferkit.cli.dataset import dataset
from transferkit.cli.demo import demo
from transferkit.cli.download import download
from transferkit.cli.evaluate import evaluate
from transferkit.cli.extract import extract
from transferkit.cli.features import features
from transferkit.cli.fit import fit
from transferkit.cli.inspect import inspect, restore
from transferkit.cli.layers import layers
from transferkit.cli.networks import networks
from transferkit.cli.predict import predict
from transferkit.cli.show_layer import show_layer
from transferkit.cli.visualize import visualize
from transferkit.errors import TransferkitError
from transferkit.support.version import __version__

__all__ = ["app", "main"]

# Commands that keep their results when they are interrupted.
_RESUMABLE = frozenset(("dataset", "download", "extract"))


class _Commands(TyperGroup):
    """The group of all commands; reports errors and warnings in one line, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            with warnings.catch_warnings():
                # Without the line of source code that Python prints by default.
                warnings.showwarning = lambda message, *_: print_warning(f"warning: {message}")
                result = super().invoke(ctx)
            # Writing the rest of the output may fail if the reader of a pipe has closed it.
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            raise
        except (TransferkitError, ValueError, OSError) as error:
            print_warning(f"error: {error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interruption:
            is_resumable = ctx.invoked_subcommand in _RESUMABLE
            hint = "; run the same command again to resume" if is_resumable else ""
            print_warning(f"interrupted{hint}")
            raise typer.Exit(EXIT_CODE_INTERRUPTED) from interruption


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print_line(f"transferkit {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Transfer learning for images: the same results on PyTorch, TensorFlow and ONNX Runtime."""


# --help lists the commands in this order: first those that compute something.
for _command in (
    demo,
    inspect,
    fit,
    evaluate,
    compare,
    predict,
    extract,
    features,
    show_layer,
    visualize,
    attack,
    networks,
    layers,
    backends,
    download,
    dataset,
    restore,
):
    app.command()(_command)
app.add_typer(cache, name="cache")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments
        The arguments after the name of the program; None: those of the process.

    Notes
    -----
    Exit codes: 0, success; 1, an error, reported on standard error; 2, invalid usage; 130,
    interrupted by Ctrl-C or SIGTERM.
    """
    # TensorFlow logs information about its compilation on standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _sigterm_as_interrupt():
        app(arguments, prog_name="transferkit")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that a command keeps its results if it is terminated."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can set handlers.
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
