"""The types of the catalog: a family of networks, and a network that can be built by name.

To add a network of a known family, add it to the `Family` in the family's module. To add a
family, write a module with its builder function and its `Family`, and add the family to
`transferkit.networks.catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

from transferkit.networks.graph import Network

__all__ = ["Architecture", "Family", "NetworkEntry", "both_variants"]


class Architecture(Protocol):
    """A function that builds a network."""

    def __call__(
        self,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channel_order: str,
        classes: int,
    ) -> Network:
        """Build the network; the parameters are those of `build_network`."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A network of the catalog.

    Attributes
    ----------
    name
        The name that the network is built by: ``"resnet50"``.
    family
        The family it belongs to: ``"ResNet"``.
    year
        The year of the paper.
    paper
        Authors and title of the paper.
    variants
        The publisher of weights, ``"torchvision"`` or ``"keras"``, to the function that builds
        the network for them. The first is the default.
    """

    name: str
    family: str
    year: int
    paper: str
    variants: Mapping[str, Architecture]

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", MappingProxyType(dict(self.variants)))


@dataclass(frozen=True, slots=True)
class Family:
    """The networks that one paper describes.

    Attributes
    ----------
    name
        The name of the family: ``"ResNet"``.
    year
        The year of the paper.
    paper
        Authors and title of the paper.
    members
        The name of each network to its variants, as in `NetworkEntry`.

    Examples
    --------
    >>> from transferkit.networks.resnet import RESNET
    >>> [entry.name for entry in RESNET.entries][:2]
    ['resnet18', 'resnet34']
    """

    name: str
    year: int
    paper: str
    members: Mapping[str, Mapping[str, Architecture]]

    @property
    def entries(self) -> tuple[NetworkEntry, ...]:
        """The catalog entry of each member."""
        return tuple(
            NetworkEntry(name, self.name, self.year, self.paper, variants)
            for name, variants in self.members.items()
        )


def both_variants(architecture: partial[Network]) -> dict[str, Architecture]:
    """Return the variants of a network that torchvision and Keras both publish weights for.

    Parameters
    ----------
    architecture
        Builds the network; takes ``variant`` as a keyword.
    """
    return {variant: partial(architecture, variant=variant) for variant in ("torchvision", "keras")}
