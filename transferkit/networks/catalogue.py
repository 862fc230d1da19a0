"""The networks that can be asked for by name: one table to add a row to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

from transferkit.errors import UnknownNameError
from transferkit.networks.graph import Network
from transferkit.networks.mobilenet_v1 import mobilenet_v1
from transferkit.networks.mobilenet_v2 import mobilenet_v2
from transferkit.networks.mobilenet_v3 import mobilenet_v3
from transferkit.networks.resnet import resnet
from transferkit.networks.vgg import vgg

__all__ = ["NETWORKS", "NetworkEntry", "build_network", "find_network"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of the ImageNet pixels that torchvision trains on, RGB in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviation."""

_VGG = "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition"
_RESNET = "He et al., Deep Residual Learning for Image Recognition"
_V1 = "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision"
_V2 = "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks"
_V3 = "Howard et al., Searching for MobileNetV3"


class Architecture(Protocol):
    """A function that builds a network."""

    def __call__(
        self,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channel_order: str,
        classes: int,
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
    variants
        The source of weights, ``"torchvision"`` or ``"keras"``, to what makes the network as
        they expect it. The first is the one that is meant where none is named.
    """

    name: str
    family: str
    year: int
    paper: str
    variants: Mapping[str, Architecture]

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", MappingProxyType(dict(self.variants)))


def _both(architecture: partial[Network]) -> dict[str, Architecture]:
    """The two variants of a network that both sources have weights for."""
    return {variant: partial(architecture, variant=variant) for variant in ("torchvision", "keras")}


NETWORKS: Mapping[str, NetworkEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            NetworkEntry("vgg11", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 11)}),
            NetworkEntry(
                "vgg11_bn", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 11, batch_norm=True)}
            ),
            NetworkEntry("vgg13", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 13)}),
            NetworkEntry(
                "vgg13_bn", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 13, batch_norm=True)}
            ),
            NetworkEntry("vgg16", "VGG", 2014, _VGG, _both(partial(vgg, 16))),
            NetworkEntry(
                "vgg16_bn", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 16, batch_norm=True)}
            ),
            NetworkEntry("vgg19", "VGG", 2014, _VGG, _both(partial(vgg, 19))),
            NetworkEntry(
                "vgg19_bn", "VGG", 2014, _VGG, {"torchvision": partial(vgg, 19, batch_norm=True)}
            ),
            NetworkEntry("resnet18", "ResNet", 2015, _RESNET, {"torchvision": partial(resnet, 18)}),
            NetworkEntry("resnet34", "ResNet", 2015, _RESNET, {"torchvision": partial(resnet, 34)}),
            NetworkEntry("resnet50", "ResNet", 2015, _RESNET, _both(partial(resnet, 50))),
            NetworkEntry("resnet101", "ResNet", 2015, _RESNET, _both(partial(resnet, 101))),
            NetworkEntry("resnet152", "ResNet", 2015, _RESNET, _both(partial(resnet, 152))),
            NetworkEntry("mobilenet_v1", "MobileNet", 2017, _V1, {"keras": mobilenet_v1}),
            NetworkEntry(
                "mobilenet_v1_075",
                "MobileNet",
                2017,
                _V1,
                {"keras": partial(mobilenet_v1, alpha=0.75)},
            ),
            NetworkEntry(
                "mobilenet_v1_050",
                "MobileNet",
                2017,
                _V1,
                {"keras": partial(mobilenet_v1, alpha=0.5)},
            ),
            NetworkEntry(
                "mobilenet_v1_025",
                "MobileNet",
                2017,
                _V1,
                {"keras": partial(mobilenet_v1, alpha=0.25)},
            ),
            NetworkEntry("mobilenet_v2", "MobileNet", 2018, _V2, _both(partial(mobilenet_v2))),
            NetworkEntry(
                "mobilenet_v3_small", "MobileNet", 2019, _V3, _both(partial(mobilenet_v3, "small"))
            ),
            NetworkEntry(
                "mobilenet_v3_large", "MobileNet", 2019, _V3, _both(partial(mobilenet_v3, "large"))
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
    variant: str | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """A network of the catalogue, as data.

    Parameters
    ----------
    name
        One of `NETWORKS`.
    variant
        Whose weights it is to take, ``"torchvision"`` or ``"keras"``: networks of the same
        name differ in padding, strides or epsilon. None means the row's first.
    mean, std
        What its first node subtracts from and divides the pixels by: of red, green and blue,
        for pixels in [0, 1], in whatever order the network takes the colours.
    channel_order
        ``"rgb"``, or ``"bgr"`` for weights that expect blue first.
    classes
        Number of outputs of the classifier.

    Raises
    ------
    UnknownNameError
        If there is no such network, or no such variant of it or order of channels.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> build_network("mobilenet_v2").number_of_parameters
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
