"""A user's own file of weights for a network of the catalogue."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.networks import Network, find_network
from transferkit.weights.catalogue import WEIGHTS, WeightsEntry
from transferkit.weights.files import check_weights, read_safetensors
from transferkit.weights.mapped import in_memory
from transferkit.weights.reading import classes_of, read_arrays, variant_of

__all__ = ["RANDOM", "is_weights_file", "load_weights_file"]

RANDOM = "random"
"""What is given as weights for them to be drawn."""

_ENDINGS = (".pth", ".pt", ".h5", ".keras", ".safetensors")


def is_weights_file(weights: object) -> bool:
    """Whether what somebody gave as weights is the path of a file, and not a name.

    Examples
    --------
    >>> from transferkit.weights.own_file import is_weights_file
    >>> is_weights_file("~/resnet50-0676ba61.pth"), is_weights_file("keras")
    (True, False)
    """
    if isinstance(weights, str):
        if weights == RANDOM or any(weights in {row.name, row.source} for row in WEIGHTS):
            return False
        path = Path(weights)
        return weights.endswith(_ENDINGS) or path.name != weights or path.exists()
    return isinstance(weights, os.PathLike)


def load_weights_file(
    network: str, path: str | os.PathLike[str]
) -> tuple[Network, dict[str, npt.NDArray[np.float32]], WeightsEntry, bool]:
    """A network of the catalogue with the weights of a file.

    Parameters
    ----------
    network
        Its name.
    path
        A file of PyTorch, Keras or safetensors; ``~`` means the home folder. Its format tells
        the variant of the network: Keras's files are for Keras's, PyTorch's for torchvision's.
        Safetensors hold either: the entry ``variant`` of their metadata tells which, and without
        one it is the network's first. Its classifier may have any number of classes.

    Returns
    -------
    network, weights
        That go together. The file is not needed any more, and may be written over.
    entry
        The row of the catalogue that the file is; where it is none that is known, the first
        row of the same variant, which tells how pictures are prepared.
    is_published
        Whether the file is the row's.

    Raises
    ------
    UnknownNameError
        If there is no such network.
    FileFormatError
        If there is no such file, it cannot be read, is for a variant that the network does not
        have, or holds the weights of another network.
    """
    try:
        path = Path(path).expanduser()
    except RuntimeError as error:
        raise FileFormatError(f"{os.fspath(path)}: there is no such home folder") from error
    variants = find_network(network).variants
    variant = variant_of(path) or read_safetensors(path)[1].get("variant") or next(iter(variants))
    if variant not in variants:
        raise FileFormatError(
            f"{path}: holds a network in the variant that {variant} publishes, but {network} is "
            f"only known as published by {', '.join(variants)}"
        )
    rows = [row for row in WEIGHTS if row.network == network and row.variant == variant]
    published = [row for row in rows if row.checksum is not None and row.checksum.matches(path)]
    entry = (published or rows)[0]

    built = entry.build()
    arrays = read_arrays(path, built, variant)
    if set(arrays) == set(built.parameters):
        built = entry.build(classes_of(arrays, built))
    check_weights(str(path), arrays, built)
    return built, in_memory(arrays), entry, bool(published)
