"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "CLASSIFIER_SUFFIX",
    "DEFAULT_NETWORK",
    "DEFAULT_PRECISION",
    "Backend",
    "BatchSize",
    "Cache",
    "Json",
    "Network",
    "NetworkOrClassifier",
    "Precision",
    "Quiet",
    "Seed",
    "Weights",
]

DEFAULT_NETWORK = "mobilenet_v2"
DEFAULT_PRECISION = "float32"
CLASSIFIER_SUFFIX = ".safetensors"

Network = Annotated[
    str, typer.Option(metavar="NAME", help="The network; 'transferkit networks' lists them.")
]
NetworkOrClassifier = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The network; 'transferkit networks' lists them. Or a .safetensors file that 'fit' "
        "saved, to use its classes.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The weights of the network: a name that 'transferkit networks' lists, torchvision, "
        "keras, random, or a file.",
        show_default="the first that 'transferkit networks' lists",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The backend that runs the network; 'transferkit backends' lists them.",
        show_default="the value of TRANSFERKIT_BACKEND, or the first suitable one installed",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="float32, or int8 for 8-bit integers on ONNX Runtime, calibrated on up to 128 of the "
        "images: faster on CPUs, and less accurate.",
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Number of images per batch.")]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="A folder with features that were computed before: the network does not run again on "
        "an image whose features are there. It is created if it does not exist.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the random numbers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide the progress bars.")]
