"""``transferkit extract``: write the activations of layers to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import list_files, parse_path
from transferkit.cli.console import print_line, print_skipped
from transferkit.cli.options import DEFAULT_NETWORK, Backend, BatchSize, Network, Quiet, Weights

__all__ = ["extract"]


def extract(
    images: Annotated[
        list[Path],
        typer.Argument(parser=parse_path, metavar="IMAGE", help="Images, or folders of images."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=parse_path, metavar="FILE", help="The .npz file to write."
        ),
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A layer; 'transferkit layers' lists them. May be given several times.",
            show_default="embedding",
        ),
    ] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Write the activations of layers to a NumPy file.

    The file contains one array for each layer, and the array 'sources' with the paths of the
    images. If interrupted, it keeps its results, and resumes when called again with the same
    output.
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
    features = extract_to_file(extractor, list_files(images), layers, output)
    shapes = ", ".join(f"{name} {features[name].shape}" for name in layers)
    print_line(f"saved {output}: {shapes}")
    print_skipped(features.skipped)
