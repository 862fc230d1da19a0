"""MobileNetV3 (Howard et al., 2019): V2's blocks with squeeze-and-excite and hard swish."""

from __future__ import annotations

from functools import partial

from transferkit.networks.entry import Family, both_variants
from transferkit.networks.graph import Network, NetworkBuilder
from transferkit.networks.padding import variant_padding

__all__ = ["MOBILENET_V3", "mobilenet_v3"]

# Howard et al., 2019, "Searching for MobileNetV3", tables 1 and 2: kernel size, expanded channels,
# output channels, whether the block has squeeze-and-excite, activation, stride.
_LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
_SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)
# The blocks, and the size of the embedding.
_SIZES = {"large": (_LARGE, 1280), "small": (_SMALL, 1024)}
_EPSILON = 1e-3


def mobilenet_v3(
    size: str,
    *,
    variant: str = "torchvision",
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """Build a MobileNetV3, with layers named as in torchvision.

    ``embedding`` is the input of the last linear layer; ``avgpool`` is the pooled vector
    before the first of the two linear layers.

    Parameters
    ----------
    size
        ``"small"`` or ``"large"``.
    variant
        The publisher of the weights, ``"torchvision"`` or ``"keras"``. They differ in the
        padding of convolutions with stride 2, see `variant_padding`.
    mean, std, channel_order
        The normalization that the weights expect; see `NetworkBuilder.normalize`.
    classes
        The number of logits.
    """
    blocks, width = _SIZES[size]
    net = NetworkBuilder(f"mobilenet_v3_{size}", input_size=224)
    x = net.normalize(mean, std, channel_order)
    x = _conv_batch_norm(
        net, "features.0", x, 3, 16, variant=variant, size=3, stride=2, activation="hard_swish"
    )
    channels = 16
    for index, (kernel, hidden, out_channels, has_squeeze_excite, activation, stride) in enumerate(
        blocks, start=1
    ):
        x = _block(
            net,
            f"features.{index}",
            x,
            channels,
            hidden,
            out_channels,
            variant=variant,
            size=kernel,
            has_squeeze_excite=has_squeeze_excite,
            activation=activation,
            stride=stride,
        )
        channels = out_channels
    last, hidden = f"features.{len(blocks) + 1}", 6 * channels
    x = _conv_batch_norm(
        net, last, x, channels, hidden, variant=variant, size=1, activation="hard_swish"
    )
    net.alias("features", x)
    x = net.add_node("avgpool", "mean", x, axes=(1, 2), keepdims=True)
    x = net.add_node("flatten", "flatten", x)
    x = net.linear("classifier.0", x, hidden, width)
    x = net.add_node("classifier.1", "hard_swish", x)
    # Dropout does nothing at inference; the alias is for users who know the layer by its name.
    net.alias("classifier.2", x)
    net.alias("embedding", x)
    x = net.linear("classifier.3", x, width, classes)
    net.alias("classifier", x)
    net.alias("logits", x)
    return net.build()


def _conv_batch_norm(
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
    activation: str | None,
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
    x = net.batch_norm(f"{name}.1", x, out_channels, epsilon=_EPSILON)
    if activation is not None:
        x = net.add_node(f"{name}.2", activation, x)
    net.alias(name, x)
    return x


def _block(
    net: NetworkBuilder,
    name: str,
    x: str,
    in_channels: int,
    hidden: int,
    out_channels: int,
    *,
    variant: str,
    size: int,
    has_squeeze_excite: bool,
    activation: str,
    stride: int,
) -> str:
    """Expand, convolve depthwise, squeeze and excite, project; add the input."""
    shortcut = x
    part = 0
    if hidden != in_channels:
        x = _conv_batch_norm(
            net,
            f"{name}.block.{part}",
            x,
            in_channels,
            hidden,
            variant=variant,
            size=1,
            activation=activation,
        )
        part += 1
    x = _conv_batch_norm(
        net,
        f"{name}.block.{part}",
        x,
        hidden,
        hidden,
        variant=variant,
        size=size,
        stride=stride,
        groups=hidden,
        activation=activation,
    )
    part += 1
    if has_squeeze_excite:
        x = _squeeze_and_excite(net, f"{name}.block.{part}", x, hidden)
        part += 1
    x = _conv_batch_norm(
        net,
        f"{name}.block.{part}",
        x,
        hidden,
        out_channels,
        variant=variant,
        size=1,
        activation=None,
    )
    net.alias(f"{name}.block", x)
    if stride == 1 and in_channels == out_channels:
        return net.add_node(name, "add", shortcut, x)
    net.alias(name, x)
    return x


def _squeeze_and_excite(net: NetworkBuilder, name: str, x: str, channels: int) -> str:
    """Multiply each channel by a factor in [0, 1] computed from the means of all channels."""
    squeezed = _nearest_multiple_of_8(channels // 4)
    y = net.add_node(f"{name}.avgpool", "mean", x, axes=(1, 2), keepdims=True)
    y = net.conv2d(f"{name}.fc1", y, channels, squeezed, size=1)
    y = net.add_node(f"{name}.activation", "relu", y)
    y = net.conv2d(f"{name}.fc2", y, squeezed, channels, size=1)
    y = net.add_node(f"{name}.scale_activation", "hard_sigmoid", y)
    return net.add_node(name, "multiply", x, y)


def _nearest_multiple_of_8(number: int) -> int:
    """Round a number of channels to a multiple of 8: at least 8, and at least 0.9 times it."""
    nearest = max(8, (number + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * number else nearest


MOBILENET_V3 = Family(
    name="MobileNet",
    year=2019,
    paper="Howard et al., Searching for MobileNetV3",
    members={
        "mobilenet_v3_small": both_variants(partial(mobilenet_v3, "small")),
        "mobilenet_v3_large": both_variants(partial(mobilenet_v3, "large")),
    },
)
"""The members of the family."""
