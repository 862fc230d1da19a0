"""``transferkit show-layer``: draw the channels of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import parse_path
from transferkit.cli.console import print_line
from transferkit.cli.options import DEFAULT_NETWORK, Backend, Network, Weights
from transferkit.errors import OutputError

__all__ = ["show_layer"]


def show_layer(
    image: Annotated[Path, typer.Argument(parser=parse_path, metavar="IMAGE", help="An image.")],
    layer: Annotated[
        str, typer.Option(metavar="NAME", help="The layer; 'transferkit layers' lists them.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=parse_path, metavar="FILE", help="The .png file to write."
        ),
    ],
    channel: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="A channel, counted from 0. May be given several times.",
            show_default="all channels",
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="SCALE",
            help="Range of values that is mapped to colors: that of each 'channel', or one of the "
            "whole 'layer', so that channels can be compared.",
        ),
    ] = "channel",
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
) -> None:
    """Draw the channels of a layer for an image.

    Each channel is a tile that is labeled with its number.
    """
    from transferkit.features.extractor import FeatureExtractor
    from transferkit.support.atomic_write import check_writable, write_atomically

    if output.suffix != ".png":
        raise OutputError(f"{output}: expected a file name that ends in .png")
    check_writable(output)
    extractor = FeatureExtractor(network, weights=weights, backend=backend)
    grid = extractor.show_layer(image, layer, channels=channel, scale=scale)
    with write_atomically(output) as file:
        grid.save(file, "PNG")
    print_line(f"saved {output}: {grid.width} x {grid.height} pixels")
