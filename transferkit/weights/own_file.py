"""Weights files given by path, for networks of the catalog."""

from __future__ import annotations

import logging
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

_LOGGER = logging.getLogger(__name__)

RANDOM = "random"
"""The value of ``weights`` for random weights."""

_ENDINGS = (".pth", ".pt", ".h5", ".keras", ".safetensors")


def is_weights_file(weights: object) -> bool:
    """Return whether a value of ``weights`` is the path of a file, as opposed to a name.

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
        return weights.endswith(_ENDINGS) or path.name != weights or os.path.exists(path)
    return isinstance(weights, os.PathLike)


def load_weights_file(
    network: str, path: str | os.PathLike[str]
) -> tuple[Network, dict[str, npt.NDArray[np.float32]], WeightsEntry, bool]:
    """Return a network of the catalog with the weights in a file.

    Parameters
    ----------
    network
        The name of the network.
    path
        A file of PyTorch, Keras or safetensors; ``~`` is expanded. The format determines the
        variant of the network: Keras's for Keras files, torchvision's for PyTorch files. For
        safetensors it is the entry ``variant`` of the metadata, or else the network's first
        variant. The classifier may have any number of classes, or be missing: the network then
        has no layer ``logits``.

    Returns
    -------
    network, weights
        The network in that variant, and its weights. They no longer refer to the file, which
        may be overwritten.
    entry
        The row of the catalog for the file; if the file is not in the catalog, the first row
        of the same variant, for its preprocessing.
    is_published
        Whether the file is in the catalog.

    Raises
    ------
    UnknownNameError
        If the network is unknown.
    FileFormatError
        If the file does not exist, cannot be read, is for a variant that the network does not
        have, or has the weights of another network.
    """
    try:
        path = Path(path).expanduser()
    except RuntimeError as error:
        raise FileFormatError(f"{os.fspath(path)}: no such home folder") from error
    variants = find_network(network).variants
    variant = variant_of(path) or read_safetensors(path)[1].get("variant") or next(iter(variants))
    if variant not in variants:
        raise FileFormatError(
            f"{path}: has weights of the variant {variant!r}, which {network} does not have; "
            f"available: {', '.join(variants)}"
        )
    rows = [row for row in WEIGHTS if row.network == network and row.variant == variant]
    published = [row for row in rows if row.checksum is not None and row.checksum.matches(path)]
    entry = (published or rows)[0]

    built = entry.build()
    is_known = bool(published)
    rename = entry.rename if is_known else None
    arrays = read_arrays(path, built, variant, rename, is_known=is_known)
    head = set(built.node("logits").parameters)
    if not head & set(arrays):
        built = _without_head(built, path)
    elif set(arrays) == set(built.parameters):
        built = entry.build(classes_of(arrays, built))
    check_weights(str(path), arrays, built)
    _LOGGER.info("loaded %s from %s", entry if is_known else f"weights of {network}", path)
    return built, in_memory(arrays), entry, is_known


def _without_head(network: Network, path: Path) -> Network:
    """Return a network that ends before its last linear layer, ``logits``."""
    head = network.node("logits")
    hint = f"{path.name} has no weights for the classifier ({head.name})"
    return Network(
        network.name,
        tuple(node for node in network.nodes if node.name != head.name),
        {name: s for name, s in network.parameters.items() if name not in head.parameters},
        {alias: name for alias, name in network.aliases.items() if name != head.name},
        network.input_size,
        {**network.hints, "logits": hint, head.name: hint},
    )
