"""The networks that can be asked for by name: one table to add a row to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from transferkit.errors import UnknownNameError
from transferkit.networks.graph import Network
from transferkit.networks.mobilenet import mobilenet_v2

__all__ = ["NETWORKS", "NetworkEntry", "build_network", "find_network"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of the ImageNet pixels that torchvision trains on, RGB in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviation."""


class Architecture(Protocol):
    """A function that builds a network."""

    def __call__(
        self, *, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> Network: ...


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A row of the table of networks.

    Attributes
    ----------
    name
        What the network is asked for by.
    family
        What it is a variant of.
    year
        Of the paper.
    paper
        Who described it, and where.
    build
        Makes it.
    """

    name: str
    family: str
    year: int
    paper: str
    build: Architecture


NETWORKS: Mapping[str, NetworkEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            NetworkEntry(
                "mobilenet_v2",
                "MobileNet",
                2018,
                "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
                mobilenet_v2,
            ),
        )
    }
)
"""Name to row."""


def find_network(name: str) -> NetworkEntry:
    """The row of a network.

    Raises
    ------
    UnknownNameError
        If there is none; close matches are named.
    """
    try:
        return NETWORKS[name]
    except KeyError:
        raise UnknownNameError("network", name, NETWORKS) from None


def build_network(
    name: str,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Network:
    """A network of the catalogue, as data.

    Parameters
    ----------
    name
        One of `NETWORKS`.
    mean, std
        What its first node subtracts from and divides the pixels by, per channel.

    Raises
    ------
    UnknownNameError
        If there is no such network; close matches are named.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> build_network("mobilenet_v2").number_of_parameters
    3504872
    """
    return find_network(name).build(mean=mean, std=std)
