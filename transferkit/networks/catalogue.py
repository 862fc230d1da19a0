"""The networks that can be built by name: one row for each family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transferkit.errors import UnknownNameError
from transferkit.networks.entry import NetworkEntry
from transferkit.networks.graph import Network
from transferkit.networks.mobilenet_v1 import MOBILENET_V1
from transferkit.networks.mobilenet_v2 import MOBILENET_V2
from transferkit.networks.mobilenet_v3 import MOBILENET_V3
from transferkit.networks.resnet import RESNET
from transferkit.networks.vgg import VGG

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NETWORKS",
    "NetworkEntry",
    "build_network",
    "find_network",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean that torchvision normalizes ImageNet pixels with; RGB, for pixels in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""The standard deviation that it normalizes them with."""

_FAMILIES = (
    VGG,
    RESNET,
    MOBILENET_V1,
    MOBILENET_V2,
    MOBILENET_V3,
)

NETWORKS: Mapping[str, NetworkEntry] = MappingProxyType(
    {entry.name: entry for family in _FAMILIES for entry in family.entries}
)
"""The name of each network to its entry."""


def find_network(name: str) -> NetworkEntry:
    """Return the catalog entry of a network.

    Raises
    ------
    UnknownNameError
        If the network is unknown; the message has close matches.
    """
    try:
        return NETWORKS[name]
    except (KeyError, TypeError):
        raise UnknownNameError("network", name, NETWORKS) from None


def build_network(
    name: str,
    *,
    variant: str | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """Build a network of the catalog.

    Parameters
    ----------
    name
        A key of `NETWORKS`.
    variant
        The publisher whose weights the network is for, ``"torchvision"`` or ``"keras"``:
        variants of a network differ in padding, strides or epsilon. None: the first variant of
        the entry.
    mean, std
        The normalization in the first node: red, green and blue, for pixels in [0, 1],
        whatever the channel order.
    channel_order
        ``"rgb"``, or ``"bgr"`` for weights that expect blue first.
    classes
        The number of logits.

    Raises
    ------
    UnknownNameError
        If the network, the variant or the channel order is unknown.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> build_network("mobilenet_v2").num_parameters
    3504872
    >>> caffe = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    >>> network = build_network(
    ...     "vgg16", variant="keras", mean=caffe, std=(1 / 255,) * 3, channel_order="bgr"
    ... )
    >>> network.layers[:3]
    ('normalize', 'reverse_channels', 'features.0')
    """
    variants = find_network(name).variants
    if variant is None:
        variant = next(iter(variants))
    if variant not in variants:
        raise UnknownNameError("variant", variant, variants, of=name)
    return variants[variant](mean=mean, std=std, channel_order=channel_order, classes=classes)
