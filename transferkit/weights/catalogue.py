"""The published weights that can be asked for: one table to add a row to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, UnknownNameError
from transferkit.images import Preprocessing
from transferkit.networks import Network, build_network, find_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.weights.files import check_weights, read_safetensors

__all__ = ["WEIGHTS", "WeightsEntry", "find_weights", "load_weights"]


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """A row of the table of weights.

    Attributes
    ----------
    network
        The network that they are for.
    name
        What they are asked for by, among that network's weights.
    file
        Their file in the package.
    sha256
        Of that file.
    preprocessing
        How they expect pictures.
    publisher
        Who published them, and under which name.
    published_sha256
        Of the publisher's file, of which the package's is a conversion.
    licence
        SPDX identifier of the licence that they were published under.
    top1
        The accuracy on ImageNet's validation set that the publisher states, in [0, 1].
    """

    network: str
    name: str
    file: str
    sha256: str
    preprocessing: Preprocessing
    publisher: str
    published_sha256: str
    licence: str
    top1: float


WEIGHTS: tuple[WeightsEntry, ...] = (
    WeightsEntry(
        network="mobilenet_v2",
        name="imagenet1k_v1",
        file="mobilenet_v2-imagenet1k_v1.safetensors",
        sha256="fe28605a19230e40444475dfe7f9e82e1a71cfdab11cdda0ec48f922ab7cc18c",
        preprocessing=Preprocessing(size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        publisher="torchvision, MobileNet_V2_Weights.IMAGENET1K_V1",
        published_sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        licence="BSD-3-Clause",
        top1=0.71878,
    ),
)
"""The first row of a network has the weights that are used where none are named."""


def find_weights(network: str, name: str | None = None) -> WeightsEntry:
    """The row of a network's weights.

    Parameters
    ----------
    network
        One of `transferkit.networks.NETWORKS`.
    name
        The weights' name; None means the network's first.

    Raises
    ------
    UnknownNameError
        If there is no such network, or it has no such weights.

    Examples
    --------
    >>> from transferkit.weights import find_weights
    >>> find_weights("mobilenet_v2").licence
    'BSD-3-Clause'
    """
    find_network(network)
    rows = {row.name: row for row in WEIGHTS if row.network == network}
    if name is None and rows:
        return next(iter(rows.values()))
    if name is None or name not in rows:
        raise UnknownNameError(f"weights of {network}", name, rows)
    return rows[name]


def load_weights(entry: WeightsEntry) -> tuple[Network, dict[str, npt.NDArray[np.float32]]]:
    """A network and its weights, checked against their SHA-256 and against each other.

    Raises
    ------
    FileFormatError
        If the file is not what the table says.

    Examples
    --------
    >>> from transferkit.weights import find_weights, load_weights
    >>> network, weights = load_weights(find_weights("mobilenet_v2"))
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    network = build_network(
        entry.network, mean=entry.preprocessing.mean, std=entry.preprocessing.std
    )
    with resources.as_file(resources.files("transferkit.weights") / "data" / entry.file) as path:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.sha256:
            raise FileFormatError(
                f"{path}: has SHA-256 {found}, expected {entry.sha256}; install transferkit again"
            )
        tensors, _ = read_safetensors(path)
    check_weights(str(path), tensors, network)
    return network, tensors
