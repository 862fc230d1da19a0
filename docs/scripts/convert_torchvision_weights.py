"""Turn a weights file that torchvision publishes into the file that transferkit ships.

``python docs/scripts/convert_torchvision_weights.py SOURCE.pth DESTINATION.safetensors``

This is how the files in ``transferkit/weights/data`` were made, and how they can be made
again, byte for byte. Nothing else in transferkit calls it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.support.atomic_write import write_atomically
from transferkit.weights.files import serialize
from transferkit.weights.torch_file import read_torch

__all__ = ["convert", "main", "read_published"]

_PUBLISHED_AT = "https://download.pytorch.org/models/"
_PUBLISHED_NAME = re.compile(r"(?P<network>\w+)-(?P<digest>[0-9a-f]{8,64})\.pth")


def convert(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> str:
    """Write the weights of a published file as float32 safetensors.

    Parameters
    ----------
    source
        The file as torchvision publishes it, under its published name, which ends in the first
        digits of its SHA-256: ``mobilenet_v2-b0353104.pth``.
    destination
        The file to write. It is the same, byte for byte, whenever it is made. Its metadata
        tells the network, the source with its SHA-256, and the licence; how pictures are to be
        prepared is told by the catalogue, not by the file.

    Returns
    -------
    str
        The SHA-256 of the file that was written.

    Raises
    ------
    FileFormatError
        If the source is not what its name says, or cannot be read.
    OutputError
        If the destination cannot be written.
    """
    network, digest, weights = read_published(Path(source))
    metadata = {
        "licence": "BSD-3-Clause",
        "network": network,
        "source": _PUBLISHED_AT + Path(source).name,
        "source_sha256": digest,
    }
    data = serialize(weights, metadata)
    with write_atomically(Path(destination)) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def read_published(source: Path) -> tuple[str, str, dict[str, npt.NDArray[np.float32]]]:
    """Check and read a published file.

    Parameters
    ----------
    source
        As for `convert`.

    Returns
    -------
    network
        The network that the name tells.
    digest
        The SHA-256 of the file.
    weights
        Parameter name to array.

    Raises
    ------
    FileFormatError
        If the name is not of the published variant, or the file is not the one it names.
    """
    name = _PUBLISHED_NAME.fullmatch(source.name)
    if name is None:
        raise FileFormatError(
            f"{source}: the name of a published file ends in the first digits of its SHA-256, as "
            "in mobilenet_v2-b0353104.pth"
        )
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if not digest.startswith(name["digest"]):
        raise FileFormatError(
            f"{source}: its SHA-256 is {digest}, which does not begin with {name['digest']}: the "
            "file is damaged, or another one; download it again"
        )
    return name["network"], digest, read_torch(source)


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert the file that the command line names, and print the SHA-256 of the result."""
    parser = argparse.ArgumentParser(
        prog="python docs/scripts/convert_torchvision_weights.py",
        description="Turn a weights file of torchvision into a safetensors file.",
    )
    parser.add_argument("source", type=Path, help="as published: mobilenet_v2-b0353104.pth")
    parser.add_argument("destination", type=Path, help="the .safetensors file to write")
    chosen = parser.parse_args(arguments)
    digest = convert(chosen.source, chosen.destination)
    print(f"{digest}  {chosen.destination}")  # noqa: T201 - this is a command


if __name__ == "__main__":
    main()
