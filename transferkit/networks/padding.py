"""The paddings of the two sources of weights, for convolutions that keep or halve the size."""

from __future__ import annotations

from transferkit.networks.graph import Padding

__all__ = ["variant_padding"]


def variant_padding(variant: str, size: int, stride: int) -> Padding:
    """What is padded around a feature map before a convolution.

    ``"torchvision"`` pads every side alike. ``"keras"`` too where the stride is 1; where it is
    2, it pads less at the top and left, so that a feature map of an even number of pixels is
    halved without a pixel being left over. That is what Keras's own models do at the size
    they were trained at and wherever sides are multiples of 32. On a feature map of an odd
    side, a Keras model that was built for just that size would pad alike.
    """
    after = size // 2
    before = after - 1 if variant == "keras" and stride == 2 else after
    return ((before, after), (before, after))
