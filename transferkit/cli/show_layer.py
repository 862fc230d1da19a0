"""``transferkit show-layer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.console import say
from transferkit.cli.options import DEFAULT_NETWORK, Backend, Network, Weights
from transferkit.errors import OutputError

__all__ = ["show_layer"]


def show_layer(
    image: Annotated[Path, typer.Argument(help="An image.")],
    layer: Annotated[str, typer.Option(help="The layer; 'transferkit layers' lists them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .png file to write.")],
    channel: Annotated[
        list[int] | None,
        typer.Option(help="A channel, from 0; may be given several times. [default: all]"),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Colour each 'channel' by itself, or the 'layer' alike.")
    ] = "channel",
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
) -> None:
    """Draw a layer's channels for an image, each as a tile with its number."""
    from transferkit.features.extractor import FeatureExtractor
    from transferkit.support.atomic_write import check_writable, write_atomically

    if output.suffix != ".png":
        raise OutputError(f"{output}: the picture is a PNG file; end its name in .png")
    check_writable(output)
    extractor = FeatureExtractor(network, weights=weights, backend=backend)
    picture = extractor.show_layer(image, layer, channels=channel, scale=scale)
    with write_atomically(output) as file:
        picture.save(file, "PNG")
    say(f"saved {output}: {picture.width} x {picture.height} pixels")
