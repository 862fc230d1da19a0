"""``transferkit dataset``: download a published data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import parse_path
from transferkit.cli.console import format_count, print_line, print_skipped
from transferkit.cli.options import Quiet
from transferkit.errors import UnknownNameError

__all__ = ["dataset"]

_PETS = "oxford-iiit-pet"
_CATS = "cats-vs-dogs"


def dataset(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"The data set: {_PETS} or {_CATS}.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FOLDER",
            help="The folder to write, which must be new or empty.",
        ),
    ],
    archive: Annotated[
        list[Path] | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="A downloaded archive of the data set, to be used instead of downloading it; may "
            "be repeated.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"The classes of {_PETS}: breed or species.",
            show_default="breed",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help=f"Seed of the split of {_CATS} into training and test images.",
            show_default="0",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download a published data set into a folder.

    The folder gets train/CLASS/FILE and test/CLASS/FILE. Archives are verified and kept in the
    cache folder. If interrupted, a download is resumed when the command is called again. A folder
    that is complete is not changed.
    """
    from transferkit.datasets import cats_vs_dogs, oxford_iiit_pet

    progress = False if quiet else None
    if name == _PETS:
        if seed is not None:
            raise typer.BadParameter(f"{_PETS} has an official split; --seed cannot be used")
        train, test = oxford_iiit_pet(
            output, target="breed" if target is None else target, archive=archive, progress=progress
        )
    elif name == _CATS:
        if target is not None:
            raise typer.BadParameter(
                f"{_CATS} has the classes cat and dog only; leave --target out"
            )
        train, test = cats_vs_dogs(
            output, random_state=0 if seed is None else seed, archive=archive, progress=progress
        )
    else:
        raise UnknownNameError("data set", name, [_PETS, _CATS])
    print_skipped(train.skipped)
    for part, data in (("train", train), ("test", test)):
        images = format_count(len(data), "image")
        print_line(f"{output / part}: {images} of {len(data.counts)} classes")
