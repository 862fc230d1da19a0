"""Convert a weights file published by torchvision to the file in the package.

``python docs/scripts/convert_torchvision_weights.py SOURCE.pth DESTINATION.safetensors``

The weights in ``transferkit/weights/data`` were converted by this script, which reproduces them
byte for byte. The package does not use it.
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
        The published file under its published name, which ends with the first digits of its
        SHA-256: ``mobilenet_v2-b0353104.pth``.
    destination
        The file to write; its bytes are the same each time. Its metadata has the network, the
        source with its SHA-256, and the license. The preprocessing is in the catalog, not in
        the file.

    Returns
    -------
    str
        The SHA-256 of the written file.

    Raises
    ------
    FileFormatError
        If the source does not match its name or cannot be read.
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
        The network in the name.
    digest
        The SHA-256 of the file.
    weights
        Parameter name to array.

    Raises
    ------
    FileFormatError
        If the name does not have the published form, or the file does not match it.
    """
    name = _PUBLISHED_NAME.fullmatch(source.name)
    if name is None:
        raise FileFormatError(
            f"{source}: expected the name of a published file, which ends with the first digits of "
            "its SHA-256, such as mobilenet_v2-b0353104.pth"
        )
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if not digest.startswith(name["digest"]):
        raise FileFormatError(
            f"{source}: its SHA-256 is {digest}, which does not begin with {name['digest']}; the "
            "file is damaged or another one; download it again"
        )
    return name["network"], digest, read_torch(source)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: convert a file and print the SHA-256 of the result."""
    parser = argparse.ArgumentParser(
        prog="python docs/scripts/convert_torchvision_weights.py",
        description="Convert a weights file of torchvision to safetensors.",
    )
    parser.add_argument("source", type=Path, help="as published: mobilenet_v2-b0353104.pth")
    parser.add_argument("destination", type=Path, help="the .safetensors file to write")
    chosen = parser.parse_args(arguments)
    digest = convert(chosen.source, chosen.destination)
    print(f"{digest}  {chosen.destination}")  # noqa: T201 - this is a command


if __name__ == "__main__":
    main()
