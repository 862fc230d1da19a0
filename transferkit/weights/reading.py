"""Weights for a network from a file of any format that is known here."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.networks.graph import Network
from transferkit.weights.files import check_weights, read_safetensors
from transferkit.weights.keras_file import HDF5_START, is_keras_archive, read_keras
from transferkit.weights.keras_names import rename_keras
from transferkit.weights.mapped import map_file
from transferkit.weights.torch_file import is_torch_file, read_torch

__all__ = ["classes_of", "read_arrays", "read_weights", "variant_of"]


def variant_of(path: str | os.PathLike[str]) -> str | None:
    """Find which variant of a network a file's format belongs to, from its first bytes.

    Returns
    -------
    str or None
        ``"torchvision"`` for a file of PyTorch, ``"keras"`` for one of Keras, None for
        safetensors, which hold weights of either.

    Raises
    ------
    FileFormatError
        If there is no such file, or it is of no format that is known here.

    Examples
    --------
    >>> from importlib import resources
    >>> from transferkit.weights.reading import variant_of
    >>> data = resources.files("transferkit.weights") / "data"
    >>> variant_of(str(data / "mobilenet_v2-imagenet1k_v1.safetensors")) is None
    True
    """
    data = map_file(path)
    start = bytes(data[:16])
    if start.startswith(HDF5_START) or is_keras_archive(data):
        return "keras"
    if is_torch_file(start):
        return "torchvision"
    # Eight bytes of length, and then JSON.
    if start[8:9] == b"{":
        return None
    raise FileFormatError(
        f"{os.fspath(path)}: is no weights file; read are .pth and .pt of PyTorch, .h5, "
        ".weights.h5 and .keras of Keras, and .safetensors"
    )


def read_arrays(
    path: str | os.PathLike[str], network: Network, variant: str | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """What a file holds, under the names of a network's parameters; not checked against them.

    For a file whose classifier may have another number of classes than the network: ask
    `classes_of`, build the network with that many, and check with
    `transferkit.weights.files.check_weights`.

    Parameters
    ----------
    path, network, variant
        As for `read_weights`.

    Raises
    ------
    FileFormatError
        If there is no such file, it is of no known format, or damaged, or not for this variant.
    """
    found = variant_of(path)
    if found == "keras":
        if variant != "keras":
            raise FileFormatError(
                f"{os.fspath(path)}: is a file of Keras, whose networks differ from those of "
                f"{variant or 'torchvision'} of the same name; build {network.name} with "
                "variant='keras'"
            )
        return rename_keras(read_keras(path), network)
    return read_torch(path) if found == "torchvision" else read_safetensors(path)[0]


def read_weights(
    path: str | os.PathLike[str], network: Network, variant: str | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a network from a file.

    Parameters
    ----------
    path
        A file of PyTorch (``.pth``, ``.pt``), Keras (``.h5``, ``.weights.h5``, ``.keras``) or
        safetensors. What it is, is told by what it begins with, not by its ending. Nothing in
        it is ever run.
    network
        Whose weights they are to be.
    variant
        The variant that the network was built in. Weights of one variant fit the other in
        shape, and give other numbers, so a file of Keras is read for ``"keras"`` alone. A file
        of PyTorch or safetensors may hold weights of either variant.

    Returns
    -------
    dict of str to array
        Just the network's parameters, float32. The arrays may be read-only, mapped from the
        file.

    Raises
    ------
    FileFormatError
        If there is no such file, it is of no known format, or damaged, or not for this variant; or
        it holds other weights than the network's, in which case every tensor that is missing,
        unexpected or of another shape is listed.

    Examples
    --------
    >>> from importlib import resources
    >>> from transferkit.networks import build_network
    >>> from transferkit.weights.reading import read_weights
    >>> data = resources.files("transferkit.weights") / "data"
    >>> path = str(data / "mobilenet_v2-imagenet1k_v1.safetensors")
    >>> read_weights(path, build_network("mobilenet_v2"))["classifier.1.bias"].shape
    (1000,)
    """
    arrays = read_arrays(path, network, variant)
    check_weights(os.fspath(path), arrays, network)
    return {name: arrays[name] for name in network.parameters}


def classes_of(arrays: dict[str, npt.NDArray[np.float32]], network: Network) -> int:
    """How many classes the classifier of these weights tells apart.

    Parameters
    ----------
    arrays
        From `read_arrays`.
    network
        The same, with any number of classes.

    Raises
    ------
    FileFormatError
        If the weights of the classifier are not among them.
    """
    name = network.node("logits").parameters[0]
    if name not in arrays or arrays[name].ndim == 0:
        raise FileFormatError(f"these are not the weights of {network.name}: missing: {name}")
    return int(arrays[name].shape[0])
