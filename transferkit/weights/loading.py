"""Loading of a network with the weights of a catalog row."""

from __future__ import annotations

import logging
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

_LOGGER = logging.getLogger(__name__)


def load_weights(
    entry: WeightsEntry, *, progress: bool | None = None
) -> tuple[Network, dict[str, npt.NDArray[np.float32]]]:
    """Return a network and its weights, with the file and the weights checked.

    Parameters
    ----------
    entry
        A row of the catalog. Its file is downloaded unless it is in the package or on disk.
    progress
        Whether to show the progress of a download; None: on a terminal or in a
        notebook.

    Returns
    -------
    network
        In the variant of the weights.
    weights
        Parameter name to float32 array.

    Raises
    ------
    FileFormatError
        If the file does not match its row of the catalog.
    DownloadError
        If the download fails.

    Examples
    --------
    >>> from transferkit.weights import find_weights, load_weights
    >>> network, weights = load_weights(find_weights("mobilenet_v2"))
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    network = entry.build()
    if entry.packaged is not None:
        _LOGGER.info("loading %s from the package", entry)
        return network, _read_packaged(entry.packaged, network)
    path = fetch(entry, progress=progress)
    _LOGGER.info("loading %s from %s", entry, path)
    is_known = entry.checksum is not None
    return network, read_weights(path, network, entry.variant, entry.rename, is_known=is_known)


def _read_packaged(packaged: PackagedFile, network: Network) -> dict[str, npt.NDArray[np.float32]]:
    folder = resources.files("transferkit.weights") / "data"
    with resources.as_file(folder / packaged.name) as path:
        digest = packaged.checksum.of(path)
        if digest != packaged.checksum.digits:
            raise FileFormatError(
                f"{path}: its SHA-256 is {digest}; expected {packaged.checksum.digits}; reinstall "
                "transferkit"
            )
        tensors, _ = read_safetensors(path)
    check_weights(str(path), tensors, network)
    return tensors
