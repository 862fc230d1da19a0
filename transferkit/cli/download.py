"""``transferkit download``: download published weights."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import print_line, print_warning
from transferkit.cli.options import Quiet
from transferkit.errors import TransferkitError

__all__ = ["download"]


def download(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="NETWORK", help="Networks; 'transferkit networks' lists them."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The weights: a name that 'transferkit networks' lists, torchvision or keras.",
            show_default="the first that 'transferkit networks' lists",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download published weights into the cache folder.

    Downloaded files are verified. If interrupted, it keeps what it has received, and resumes when
    called again.
    """
    from transferkit.weights import fetch, find_weights

    has_failed = False
    # All names are checked before the first download.
    for entry in [find_weights(network, weights) for network in networks]:
        if entry.packaged is not None:
            print_line(f"{entry.network}, {entry.name}: included in the package")
            continue
        try:
            path = fetch(entry, progress=False if quiet else None)
        except TransferkitError as error:
            # The other files are downloaded nevertheless.
            print_warning(f"error: {error}")
            has_failed = True
        else:
            print_line(f"{entry.network}, {entry.name}: {path}")
    if has_failed:
        raise typer.Exit(1)
