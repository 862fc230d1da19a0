"""``transferkit download``."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import say, warn
from transferkit.cli.options import Quiet
from transferkit.errors import TransferkitError

__all__ = ["download"]


def download(
    names: Annotated[list[str], typer.Argument(help="Networks.", metavar="NETWORK...")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Which weights, or whose: torchvision or keras. By default: each network's first."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch networks' published weights, check them, and keep them in the cache.

    Interrupted, it keeps what has arrived; called again, it goes on there.
    """
    from transferkit.weights import fetch, find_weights

    failed = 0
    # Every name is looked up before the first file is fetched.
    for entry in [find_weights(name, weights) for name in names]:
        if entry.packaged is not None:
            say(f"{entry.network}, {entry.name}: in the package")
        else:
            try:
                path = fetch(entry, progress=False if quiet else None)
            except TransferkitError as error:
                # One that cannot be had is no reason to leave out the others.
                warn(f"error: {error}")
                failed += 1
            else:
                say(f"{entry.network}, {entry.name}: {path}")
    if failed:
        raise typer.Exit(1)
