"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "DEFAULT_NETWORK",
    "MODEL_SUFFIX",
    "Backend",
    "BatchSize",
    "Network",
    "NetworkOrClassifier",
    "Quiet",
    "Weights",
]

DEFAULT_NETWORK = "mobilenet_v2"
MODEL_SUFFIX = ".safetensors"

Network = Annotated[str, typer.Option(help="The network; 'transferkit networks' lists them.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Its weights: the name of published ones, torchvision, keras, a file, or random. By "
        "default: the first that 'transferkit networks' lists."
    ),
]
NetworkOrClassifier = Annotated[
    str,
    typer.Option(
        help="The network; 'transferkit networks' lists them. Or the file of a classifier of "
        "one's own, whose classes are then the ones to name."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What computes; 'transferkit backends' lists them. By default: the one in "
        "TRANSFERKIT_BACKEND, or the first installed."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="How many images the network gets at once.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
