"""Padding of convolutions as torchvision and as Keras pad them."""

from __future__ import annotations

from transferkit.networks.graph import Padding

__all__ = ["variant_padding"]


def variant_padding(variant: str, size: int, stride: int) -> Padding:
    """Return the zero padding of a convolution that keeps or halves the feature map.

    ``"torchvision"`` pads all sides equally. So does ``"keras"`` at stride 1; at stride 2 it
    pads one pixel less at the top and left, so that a feature map with even sides is halved
    with no pixel left over. Keras's own models pad so at the size they were trained with, and
    at all sizes that are multiples of 32. (For an odd side, a Keras model built for that size
    would pad both sides equally.)

    Parameters
    ----------
    variant
        ``"torchvision"`` or ``"keras"``.
    size
        The side of the kernel, an odd number.
    stride
        1 or 2.

    Examples
    --------
    >>> from transferkit.networks.padding import variant_padding
    >>> variant_padding("keras", size=3, stride=2)
    ((0, 1), (0, 1))
    """
    after = size // 2
    before = after - 1 if variant == "keras" and stride == 2 else after
    return ((before, after), (before, after))
