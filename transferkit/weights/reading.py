"""Reading of a network's weights from a file of any supported format."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.networks.graph import Network
from transferkit.weights.catalogue import Rename
from transferkit.weights.files import check_weights, read_safetensors, without_prefixes
from transferkit.weights.isolated import read_keras_isolated
from transferkit.weights.keras_file import HDF5_START, is_keras_archive, read_keras
from transferkit.weights.keras_names import rename_keras
from transferkit.weights.mapped import map_file
from transferkit.weights.torch_file import is_torch_file, read_torch

__all__ = ["classes_of", "read_arrays", "read_weights", "variant_of"]


def variant_of(path: str | os.PathLike[str]) -> str | None:
    """Return the variant of a network that a file's format belongs to.

    The format is detected from the first bytes of the file.

    Returns
    -------
    str or None
        ``"torchvision"`` for a PyTorch file, ``"keras"`` for a Keras file, None for
        safetensors, which can have weights of either variant.

    Raises
    ------
    FileFormatError
        If the file does not exist or has another format.

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
    # A safetensors file: eight bytes with the length of the header, then JSON.
    if start[8:9] == b"{":
        return None
    raise FileFormatError(
        f"{os.fspath(path)}: not a weights file; expected .pth or .pt from PyTorch, .h5, "
        ".weights.h5 or .keras from Keras, or .safetensors"
    )


def read_arrays(
    path: str | os.PathLike[str],
    network: Network,
    variant: str | None = None,
    rename: Rename | None = None,
    *,
    is_known: bool = False,
) -> dict[str, npt.NDArray[np.float32]]:
    """Read the arrays of a file under the names of a network's parameters, without checks.

    If the number of classes in the file is unknown, get it with `classes_of`, build the network
    with that number, and then call `transferkit.weights.files.check_weights`.

    Parameters
    ----------
    path, network, variant, rename, is_known
        As for `read_weights`.

    Raises
    ------
    FileFormatError
        If the file does not exist, has an unknown format, is damaged, or is for another
        variant.
    """
    file_variant = variant_of(path)
    if file_variant == "keras":
        if variant != "keras":
            raise FileFormatError(
                f"{os.fspath(path)}: a Keras file; Keras's networks differ from those of "
                f"{variant or 'torchvision'} with the same name; build {network.name} with "
                "variant='keras'"
            )
        read = read_keras if is_known else read_keras_isolated
        return rename_keras(read(path), network)
    arrays = (
        read_torch(path)
        if file_variant == "torchvision"
        else without_prefixes(read_safetensors(path)[0])
    )
    return arrays if rename is None else rename(arrays, network)


def read_weights(
    path: str | os.PathLike[str],
    network: Network,
    variant: str | None = None,
    rename: Rename | None = None,
    *,
    is_known: bool = False,
) -> dict[str, npt.NDArray[np.float32]]:
    """Read the weights of a network from a file.

    Parameters
    ----------
    path
        A file of PyTorch (``.pth``, ``.pt``), Keras (``.h5``, ``.weights.h5``, ``.keras``) or
        safetensors. The format is detected from the first bytes, not from the file name. No
        code in the file is executed.
    network
        The network whose weights to read.
    variant
        The variant of the network. The shapes of the weights are the same in both variants but
        the outputs are not, so a Keras file is read for ``"keras"`` only. A PyTorch or
        safetensors file can have weights of either variant.
    rename
        Maps the names in a PyTorch or safetensors file to those of the network's parameters;
        None: they are the same.
    is_known
        Whether the file's digest is that of a published file. All other Keras files are read in
        a child process, since damaged ones can make libhdf5 loop forever.

    Returns
    -------
    dict of str to array
        Exactly the network's parameters, float32. The arrays may be read-only and mapped from
        the file.

    Raises
    ------
    FileFormatError
        If the file does not exist, has an unknown format, is damaged, is for another variant,
        or does not have exactly the network's weights; the message then names at most ten
        tensors that are missing, unexpected or of another shape.

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
    arrays = read_arrays(path, network, variant, rename, is_known=is_known)
    check_weights(os.fspath(path), arrays, network)
    return {name: arrays[name] for name in network.parameters}


def classes_of(arrays: dict[str, npt.NDArray[np.float32]], network: Network) -> int:
    """Return the number of classes of the classifier in these weights.

    Parameters
    ----------
    arrays
        From `read_arrays`.
    network
        The network, with any number of classes.

    Raises
    ------
    FileFormatError
        If the weights of the classifier are missing.
    """
    name = network.node("logits").parameters[0]
    if name not in arrays or arrays[name].ndim == 0:
        raise FileFormatError(f"not the weights of {network.name}: missing: {name}")
    return int(arrays[name].shape[0])
