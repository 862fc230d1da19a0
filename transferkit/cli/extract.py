"""``transferkit extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import list_files
from transferkit.cli.console import report_skipped, say
from transferkit.cli.options import DEFAULT_NETWORK, Backend, BatchSize, Network, Quiet, Weights

__all__ = ["extract"]


def extract(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A layer to extract; may be given several times. [default: embedding]"),
    ] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Write layers' activations to a NumPy file: an array for each, and 'sources'.

    Interrupted, it keeps what is done; called again with the same output, it goes on there.
    """
    from transferkit.features.extractor import FeatureExtractor
    from transferkit.features.output_file import extract_to_file

    extractor = FeatureExtractor(
        network,
        weights=weights,
        backend=backend,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    layers = layer or ["embedding"]
    found = extract_to_file(extractor, list_files(paths), layers, output)
    shapes = ", ".join(f"{name} {found[name].shape}" for name in layers)
    say(f"saved {output}: {shapes}")
    report_skipped(found.skipped)
