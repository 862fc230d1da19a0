"""How much a network computes."""

from __future__ import annotations

import math

from transferkit.backends.shapes import infer_shapes
from transferkit.networks.graph import Network

__all__ = ["count_macs"]


def count_macs(network: Network, height: int, width: int) -> int:
    """The multiplications, each with its addition, that a network does for one picture.

    Those of convolutions and linear layers are counted, which are nearly all; biases, batch
    norms, activations and pools are not. Papers and torchvision count the same way, though
    some call the number FLOPs.

    Parameters
    ----------
    network
        What would be run.
    height, width
        Of the picture, in pixels.

    Raises
    ------
    ShapeError
        If the network cannot take a picture of that size.

    Examples
    --------
    >>> from transferkit.backends.macs import count_macs
    >>> from transferkit.networks import build_network
    >>> round(count_macs(build_network("mobilenet_v2"), 224, 224) / 1e6)
    301
    """
    shapes = infer_shapes(network, height, width)
    total = 0
    for node in network.nodes:
        if node.operation in ("conv2d", "linear"):
            # One for each output and each weight that it is made of.
            per_output = math.prod(network.parameters[node.parameters[0]][1:])
            total += math.prod(shapes[node.name]) * per_output
    return total
