"""From a row of the catalogue to a network and its weights."""

from __future__ import annotations

from importlib import resources

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.networks import Network
from transferkit.weights.catalogue import PackagedFile, WeightsEntry
from transferkit.weights.download import fetch
from transferkit.weights.files import check_weights, read_safetensors
from transferkit.weights.reading import read_weights

__all__ = ["load_weights"]


def load_weights(
    entry: WeightsEntry, *, progress: bool | None = None
) -> tuple[Network, dict[str, npt.NDArray[np.float32]]]:
    """A network and its weights, checked against what is published of them and each other.

    Parameters
    ----------
    entry
        A row of the catalogue. Unless its weights are in the package, or on disk already, they
        are downloaded.
    progress
        Of the download; None shows it on a terminal only.

    Raises
    ------
    FileFormatError
        If the file is not what the table says.
    DownloadError
        If it has to be downloaded, and cannot be.

    Examples
    --------
    >>> from transferkit.weights import find_weights, load_weights
    >>> network, weights = load_weights(find_weights("mobilenet_v2"))
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    network = entry.build()
    if entry.packaged is not None:
        return network, _read_packaged(entry.packaged, network)
    path = fetch(entry, progress=progress)
    return network, read_weights(path, network, entry.variant)


def _read_packaged(packaged: PackagedFile, network: Network) -> dict[str, npt.NDArray[np.float32]]:
    folder = resources.files("transferkit.weights") / "data"
    with resources.as_file(folder / packaged.name) as path:
        found = packaged.checksum.of(path)
        if found != packaged.checksum.digits:
            raise FileFormatError(
                f"{path}: has SHA-256 {found}, expected {packaged.checksum.digits}; install "
                "transferkit again"
            )
        tensors, _ = read_safetensors(path)
    check_weights(str(path), tensors, network)
    return tensors
