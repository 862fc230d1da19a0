"""``transferkit visualize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import load_optimizer, parse_class
from transferkit.cli.console import INTERRUPTED, printable, say, show_table, warn
from transferkit.cli.options import DEFAULT_NETWORK, Backend, NetworkOrClassifier, Quiet, Weights
from transferkit.errors import OutputError

if TYPE_CHECKING:
    from transferkit.optimization.objectives import Objective

__all__ = ["visualize"]

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def visualize(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")],
    classes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CLASS...", help="Classes, by name, index or WordNet id; a picture of each."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Instead: a layer; 'transferkit layers' lists them.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Channels of the layer, a picture of each: 7, or 0:16 for the first 16."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="An image to start from.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 256,
    size: Annotated[
        int | None, typer.Option(min=1, help="The side in pixels. By default: the network's.")
    ] = None,
    octaves: Annotated[
        int | None,
        typer.Option(min=1, help="How many sizes. By default: 3 from noise, 1 from an image."),
    ] = None,
    animation: Annotated[Path | None, typer.Option(help="A .gif of how they came about.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For all that is drawn.")] = 0,
    network: NetworkOrClassifier = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Make pictures of what a network sees in classes or layers.

    Interrupted, it writes what it has.
    """
    from transferkit.support.atomic_write import check_writable

    for path, suffixes in ((output, _PICTURE_SUFFIXES), (animation, (".gif",))):
        if path is not None:
            if path.suffix.lower() not in suffixes:
                raise OutputError(f"{path}: end its name in {', '.join(suffixes)}")
            check_writable(path)
    optimizer = load_optimizer(network, weights, backend, seed, quiet)
    found = optimizer.visualize(
        _objectives(classes or [], layer, channels),
        start=start,
        steps=steps,
        size=size,
        octaves=octaves,
        frames=0 if animation is None else 24,
    )
    found.save(output)
    if animation is not None:
        found.animation(animation)
    say(f"saved {output}: {len(found.history)} steps in {found.seconds:.1f} s")
    if any(target is not None for target in found.targets):
        rows = [
            (printable(label), f"{probability:.4f}", f"{robustness:.4f}")
            for label, probability, robustness in zip(
                found.labels, found.probability, found.robustness, strict=True
            )
        ]
        show_table(("class", "probability", "robustness"), rows)
    if found.interrupted:
        warn(f"interrupted after {len(found.history)} of {steps} steps")
        raise typer.Exit(INTERRUPTED)


def _objectives(classes: Sequence[str], layer: str | None, channels: str | None) -> list[Objective]:
    """What the arguments of 'visualize' ask for."""
    from transferkit.optimization.objectives import Channel, Class, Layer

    if bool(classes) == (layer is not None):
        raise typer.BadParameter("name either classes or a --layer")
    if channels is not None and layer is None:
        raise typer.BadParameter("--channels needs a --layer")
    found: list[Objective] = [Class(parse_class(name), "distinct") for name in classes]
    if layer is not None and channels is None:
        found = [Layer(layer)]
    elif layer is not None and channels is not None:
        first, colon, last = channels.partition(":")
        if not (first or "0").isdecimal() or not (last.isdecimal() if colon else first):
            raise typer.BadParameter(f"--channels {channels!r}: give one, as 7, or some, as 0:16")
        start = int(first or 0)
        numbers = range(start, int(last) if colon else start + 1)
        if not numbers:
            raise typer.BadParameter(f"--channels {channels!r} names none")
        found = [Channel(layer, number) for number in numbers]
    return found
