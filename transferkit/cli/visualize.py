"""``transferkit visualize``: optimize images for classes or layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import load_optimizer, parse_class, parse_path
from transferkit.cli.console import EXIT_CODE_INTERRUPTED, print_line, print_table, print_warning
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    Backend,
    NetworkOrClassifier,
    Quiet,
    Seed,
    Weights,
)
from transferkit.errors import OutputError, shorten

if TYPE_CHECKING:
    from transferkit.optimization import ImageOptimizer
    from transferkit.optimization.objectives import Objective

__all__ = ["visualize"]

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def visualize(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FILE",
            help="The image file to write: .png, .jpg or .webp.",
        ),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CLASS",
            help="Classes, by name, index or WordNet id; one image is optimized for each.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A layer instead of classes; 'transferkit layers' lists them.",
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="N|N:N",
            help="Channels of the layer, one image for each: 7, or 0:16 for the first 16.",
            show_default="the whole layer",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="IMAGE", help="An image to start from.", show_default="noise"
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of optimization steps.")
    ] = 256,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Width and height of each image in pixels.",
            show_default="the network's input size",
        ),
    ] = None,
    octaves: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of sizes at which an image is optimized, from small to large.",
            show_default="3 from noise, 1 from an image",
        ),
    ] = None,
    animation: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="A .gif file to write with the intermediate images.",
        ),
    ] = None,
    seed: Seed = 0,
    network: NetworkOrClassifier = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Optimize images for classes or layers of a network.

    The images show what the classes, channels or layers respond to. For classes, prints the
    probability of each image's class, and its mean over 32 slightly moved, scaled and rotated
    copies of the image (robustness). Requires a backend with gradients: torch or tensorflow.
    If interrupted, it saves the images of the last completed step.
    """
    from transferkit.support.atomic_write import check_writable

    for path, suffixes in ((output, _IMAGE_SUFFIXES), (animation, (".gif",))):
        if path is not None:
            if path.suffix.lower() not in suffixes:
                raise OutputError(
                    f"{path}: expected a file name that ends in {' or '.join(suffixes)}"
                )
            check_writable(path)
    optimizer = load_optimizer(network, weights, backend, seed, quiet)
    result = optimizer.visualize(
        _parse_objectives(optimizer, classes or [], layer, channels),
        start=start,
        steps=steps,
        size=size,
        octaves=octaves,
        frames=0 if animation is None else 24,
    )
    result.save(output)
    if animation is not None:
        result.animation(animation)
    print_line(f"saved {output}: {len(result.history)} steps in {result.seconds:.1f} s")
    if any(target is not None for target in result.targets):
        rows = [
            (label, f"{probability:.4f}", f"{robustness:.4f}")
            for label, probability, robustness in zip(
                result.labels, result.probability, result.robustness, strict=True
            )
        ]
        print_table(("class", "probability", "robustness"), rows)
    if result.interrupted:
        print_warning(f"interrupted after {len(result.history)} of {steps} steps")
        raise typer.Exit(EXIT_CODE_INTERRUPTED)


def _parse_objectives(
    optimizer: ImageOptimizer, classes: Sequence[str], layer: str | None, channels: str | None
) -> list[Objective]:
    from transferkit.optimization.objectives import Channel, Class, Layer

    if bool(classes) == (layer is not None):
        raise typer.BadParameter("give either classes or --layer")
    if layer is None:
        if channels is not None:
            raise typer.BadParameter("--channels requires --layer")
        return [Class(parse_class(name, optimizer), "distinct") for name in classes]
    if channels is None:
        return [Layer(layer)]
    return [Channel(layer, number) for number in _parse_channels(channels)]


def _parse_channels(text: str) -> range:
    """Return the channels that ``7``, ``0:16`` or ``:16`` stands for."""
    first, colon, last = text.partition(":")
    if not (first or "0").isdecimal() or not (last.isdecimal() if colon else first):
        raise typer.BadParameter(
            f"--channels is {shorten(text)}; expected a number or a range like 0:16"
        )
    start = int(first or 0)
    channels = range(start, int(last) if colon else start + 1)
    if not channels:
        raise typer.BadParameter(f"--channels is {shorten(text)}, an empty range")
    return channels
