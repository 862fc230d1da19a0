"""``transferkit layers``: list the layers of a network."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import print_table
from transferkit.cli.options import DEFAULT_NETWORK

__all__ = ["layers"]


def layers(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="The network.")
    ] = DEFAULT_NETWORK,
) -> None:
    """List the layers of a network with their output shapes.

    Shapes are height x width x channels, for an image of the network's input size.
    """
    from transferkit.backends.shapes import infer_shapes
    from transferkit.networks import build_network

    built = build_network(network)
    rows = []
    for name, shape in infer_shapes(built, built.input_size, built.input_size).items():
        target = built.resolve(name)
        operation = built.node(name).operation if target == name else f"alias of {target}"
        rows.append((name, " x ".join(map(str, shape)), operation))
    print_table(("layer", "shape", "operation"), rows)
