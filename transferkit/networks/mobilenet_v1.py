"""MobileNet (Howard et al., 2017): depthwise separable convolutions."""

from __future__ import annotations

from functools import partial

from transferkit.networks.entry import Family
from transferkit.networks.graph import Network, NetworkBuilder
from transferkit.networks.padding import variant_padding

__all__ = ["MOBILENET_V1", "mobilenet_v1"]

# Howard et al., 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
# Applications", table 1: output channels and stride of each depthwise separable convolution.
_SEPARABLE_CONVOLUTIONS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
# The default of Keras's BatchNormalization, which its MobileNet uses.
_EPSILON = 1e-3


def mobilenet_v1(
    *,
    alpha: float = 1.0,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """Build a MobileNet, with layers named as in Keras; torchvision does not have it.

    Parameters
    ----------
    alpha
        The width multiplier: a factor for the number of channels of every layer.
    mean, std, channel_order
        The normalization that the weights expect; see `NetworkBuilder.normalize`.
    classes
        The number of logits.
    """
    name = "mobilenet_v1" if alpha == 1 else f"mobilenet_v1_{round(100 * alpha):03}"
    net = NetworkBuilder(name, input_size=224)
    x = net.normalize(mean, std, channel_order)
    channels = int(32 * alpha)
    x = _conv_batch_norm_relu6(net, "conv1", x, 3, channels, size=3, stride=2)
    for block, (full_width, stride) in enumerate(_SEPARABLE_CONVOLUTIONS, start=1):
        depthwise, pointwise = f"conv_dw_{block}", f"conv_pw_{block}"
        out_channels = int(full_width * alpha)
        x = _conv_batch_norm_relu6(
            net, depthwise, x, channels, channels, size=3, stride=stride, groups=channels
        )
        x = _conv_batch_norm_relu6(net, pointwise, x, channels, out_channels, size=1)
        channels = out_channels
    x = net.add_node("embedding", "mean", x, axes=(1, 2))
    net.alias("dropout", x)
    # In Keras a 1 x 1 convolution of the single remaining pixel, which is a linear layer.
    x = net.linear("conv_preds", x, channels, classes)
    net.alias("logits", x)
    return net.build()


def _conv_batch_norm_relu6(
    net: NetworkBuilder,
    name: str,
    x: str,
    in_channels: int,
    out_channels: int,
    *,
    size: int,
    stride: int = 1,
    groups: int = 1,
) -> str:
    x = net.conv2d(
        name,
        x,
        in_channels,
        out_channels,
        size=size,
        stride=stride,
        padding=variant_padding("keras", size, stride),
        groups=groups,
        bias=False,
    )
    x = net.batch_norm(f"{name}_bn", x, out_channels, epsilon=_EPSILON)
    return net.add_node(f"{name}_relu", "clip", x, low=0.0, high=6.0)


MOBILENET_V1 = Family(
    name="MobileNet",
    year=2017,
    paper="Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision",
    members={
        "mobilenet_v1": {"keras": mobilenet_v1},
        "mobilenet_v1_075": {"keras": partial(mobilenet_v1, alpha=0.75)},
        "mobilenet_v1_050": {"keras": partial(mobilenet_v1, alpha=0.5)},
        "mobilenet_v1_025": {"keras": partial(mobilenet_v1, alpha=0.25)},
    },
)
"""The members of the family."""
