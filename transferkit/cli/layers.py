"""``transferkit layers``."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import show_table

__all__ = ["layers"]


def layers(
    network: Annotated[str, typer.Argument(help="The network.")] = "mobilenet_v2",
) -> None:
    """List a network's layers and their shapes."""
    from transferkit.backends.shapes import infer_shapes
    from transferkit.networks import build_network

    built = build_network(network)
    rows = []
    for name, shape in infer_shapes(built, built.input_size, built.input_size).items():
        target = built.resolve(name)
        operation = built.node(name).operation if target == name else f"= {target}"
        rows.append((name, " x ".join(map(str, shape)), operation))
    show_table(("layer", "shape", "operation"), rows)
