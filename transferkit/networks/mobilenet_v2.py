"""MobileNetV2 (Sandler et al., 2018): inverted residuals with linear bottlenecks."""

from __future__ import annotations

from functools import partial

from transferkit.networks.entry import Family, both_variants
from transferkit.networks.graph import Network, NetworkBuilder
from transferkit.networks.padding import variant_padding

__all__ = ["MOBILENET_V2", "mobilenet_v2"]

# Sandler et al., 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2:
# expansion factor, output channels, number of blocks, stride of the first block.
_INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_EPSILON = {"torchvision": 1e-5, "keras": 1e-3}


def mobilenet_v2(
    *,
    variant: str = "torchvision",
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """Build a MobileNetV2 with width multiplier 1 and layers named as in torchvision.

    Parameters
    ----------
    variant
        The publisher of the weights, ``"torchvision"`` or ``"keras"``. They differ in epsilon
        and in the padding of convolutions with stride 2, see `variant_padding`.
    mean, std, channel_order
        The normalization that the weights expect; see `NetworkBuilder.normalize`.
    classes
        The number of logits.

    Returns
    -------
    Network
        It has 3.5 million parameters and an embedding of size 1,280.
    """
    net = NetworkBuilder("mobilenet_v2", input_size=224)
    x = net.normalize(mean, std, channel_order)
    x = _conv_batch_norm_relu6(net, "features.0", x, 3, 32, variant=variant, size=3, stride=2)
    channels = 32
    block = 0
    for expansion, out_channels, repeats, first_stride in _INVERTED_RESIDUALS:
        for repeat in range(repeats):
            block += 1
            x = _inverted_residual(
                net,
                f"features.{block}",
                x,
                channels,
                out_channels,
                variant=variant,
                expansion=expansion,
                stride=first_stride if repeat == 0 else 1,
            )
            channels = out_channels
    last = f"features.{block + 1}"
    x = _conv_batch_norm_relu6(net, last, x, channels, 1280, variant=variant, size=1)
    net.alias("features", x)
    x = net.add_node("embedding", "mean", x, axes=(1, 2))
    # Dropout does nothing at inference; the alias is for users who know the layer by its name.
    net.alias("classifier.0", x)
    x = net.linear("classifier.1", x, 1280, classes)
    net.alias("classifier", x)
    net.alias("logits", x)
    return net.build()


def _conv_batch_norm_relu6(
    net: NetworkBuilder,
    name: str,
    x: str,
    in_channels: int,
    out_channels: int,
    *,
    variant: str,
    size: int,
    stride: int = 1,
    groups: int = 1,
) -> str:
    x = net.conv2d(
        f"{name}.0",
        x,
        in_channels,
        out_channels,
        size=size,
        stride=stride,
        padding=variant_padding(variant, size, stride),
        groups=groups,
        bias=False,
    )
    x = net.batch_norm(f"{name}.1", x, out_channels, epsilon=_EPSILON[variant])
    x = net.add_node(f"{name}.2", "clip", x, low=0.0, high=6.0)
    net.alias(name, x)
    return x


def _inverted_residual(
    net: NetworkBuilder,
    name: str,
    x: str,
    in_channels: int,
    out_channels: int,
    *,
    variant: str,
    expansion: int,
    stride: int,
) -> str:
    """Expand, convolve depthwise, project; add the input if the shapes are equal."""
    shortcut = x
    hidden = in_channels * expansion
    part = 0
    if expansion != 1:
        expand = f"{name}.conv.{part}"
        x = _conv_batch_norm_relu6(net, expand, x, in_channels, hidden, variant=variant, size=1)
        part += 1
    depthwise = f"{name}.conv.{part}"
    x = _conv_batch_norm_relu6(
        net, depthwise, x, hidden, hidden, variant=variant, size=3, stride=stride, groups=hidden
    )
    x = net.conv2d(f"{name}.conv.{part + 1}", x, hidden, out_channels, size=1, bias=False)
    x = net.batch_norm(f"{name}.conv.{part + 2}", x, out_channels, epsilon=_EPSILON[variant])
    net.alias(f"{name}.conv", x)
    if stride == 1 and in_channels == out_channels:
        return net.add_node(name, "add", shortcut, x)
    net.alias(name, x)
    return x


MOBILENET_V2 = Family(
    name="MobileNet",
    year=2018,
    paper="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    members={"mobilenet_v2": both_variants(partial(mobilenet_v2))},
)
"""The members of the family."""
