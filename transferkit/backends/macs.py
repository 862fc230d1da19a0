"""The computational cost of a network, in multiply-accumulate operations (MACs)."""

from __future__ import annotations

import math

from transferkit.backends.shapes import infer_shapes
from transferkit.networks.graph import Network

__all__ = ["count_macs"]


def count_macs(network: Network, height: int, width: int) -> int:
    """Return the number of multiply-accumulate operations (MACs) of a network for one image.

    Only convolutions and linear layers are counted, which are nearly all operations; biases,
    batch normalization, activations and pooling are not. Papers and torchvision count in the
    same way, although some call the number FLOPs.

    Parameters
    ----------
    network
        The network to analyze.
    height, width
        The size of the image, in pixels.

    Raises
    ------
    ShapeError
        If the network does not accept images of this size.

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
            # Each output value is a sum over all weights of its output channel.
            macs_per_output = math.prod(network.parameters[node.parameters[0]][1:])
            total += math.prod(shapes[node.name]) * macs_per_output
    return total
