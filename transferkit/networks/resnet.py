"""ResNet (He et al., 2015): residual blocks."""

from __future__ import annotations

from functools import partial

from transferkit.networks.entry import Family, both_variants
from transferkit.networks.graph import Network, NetworkBuilder

__all__ = ["RESNET", "resnet"]

# He et al., 2015, "Deep Residual Learning for Image Recognition", table 1: the number of blocks
# in each of the four stages. Each stage after the first halves the feature map.
_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_CHANNELS = (64, 128, 256, 512)
# From this depth on, blocks are bottlenecks: 1 x 1, 3 x 3, and 1 x 1 to four times the channels.
_BOTTLENECK_DEPTH = 50
_EXPANSION = 4
_EPSILON = {"torchvision": 1e-5, "keras": 1.001e-5}


def resnet(
    depth: int,
    *,
    variant: str = "torchvision",
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """Build a ResNet, with layers named as in torchvision.

    torchvision uses one module, ``relu``, for all activations of a block; here ``relu`` is the
    last of them, and the earlier ones are ``relu1`` and, in a bottleneck, ``relu2``.

    Parameters
    ----------
    depth
        The number of layers with weights: 18, 34, 50, 101 or 152.
    variant
        The publisher of the weights. ``"torchvision"`` halves the feature map in the 3 x 3
        convolution of a bottleneck; its convolutions have no biases. ``"keras"``, which has
        bottlenecks only, halves it in the first 1 x 1 convolution, as in the paper; its
        convolutions have biases, and its epsilon is slightly larger.
    mean, std, channel_order
        The normalization that the weights expect; see `NetworkBuilder.normalize`.
    classes
        The number of logits.
    """
    net = NetworkBuilder(f"resnet{depth}", input_size=224)
    x = net.normalize(mean, std, channel_order)
    blocks = _Blocks(net, variant)
    x = blocks.convolution("conv1", "bn1", x, 3, 64, size=7, stride=2)
    x = net.add_node("relu", "relu", x)
    x = net.add_node(
        "maxpool", "max_pool2d", x, size=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1))
    )
    is_bottleneck = depth >= _BOTTLENECK_DEPTH
    channels = 64
    stages = zip(_CHANNELS, _STAGES[depth], strict=True)
    for stage, (hidden, repeats) in enumerate(stages, start=1):
        out_channels = hidden * _EXPANSION if is_bottleneck else hidden
        for repeat in range(repeats):
            name = f"layer{stage}.{repeat}"
            stride = 2 if stage > 1 and repeat == 0 else 1
            block = blocks.bottleneck if is_bottleneck else blocks.basic
            x = block(name, x, channels, hidden, out_channels, stride)
            channels = out_channels
        net.alias(f"layer{stage}", x)
    x = net.add_node("avgpool", "mean", x, axes=(1, 2), keepdims=True)
    x = net.add_node("embedding", "flatten", x)
    x = net.linear("fc", x, channels, classes)
    net.alias("logits", x)
    return net.build()


class _Blocks:
    """Adds the blocks of one variant to a network."""

    def __init__(self, net: NetworkBuilder, variant: str) -> None:
        self._net = net
        self._is_keras = variant == "keras"
        self._epsilon = _EPSILON[variant]

    def convolution(
        self,
        name: str,
        norm: str,
        x: str,
        in_channels: int,
        out_channels: int,
        *,
        size: int,
        stride: int = 1,
    ) -> str:
        """Add a convolution, padded to keep the size at stride 1, and a batch norm."""
        x = self._net.conv2d(
            name,
            x,
            in_channels,
            out_channels,
            size=size,
            stride=stride,
            padding=size // 2,
            bias=self._is_keras,
        )
        return self._net.batch_norm(norm, x, out_channels, epsilon=self._epsilon)

    def basic(
        self, name: str, x: str, in_channels: int, hidden: int, out_channels: int, stride: int
    ) -> str:
        y = self.convolution(
            f"{name}.conv1", f"{name}.bn1", x, in_channels, hidden, size=3, stride=stride
        )
        y = self._net.add_node(f"{name}.relu1", "relu", y)
        y = self.convolution(f"{name}.conv2", f"{name}.bn2", y, hidden, out_channels, size=3)
        return self._add(name, x, y, in_channels, out_channels, stride)

    def bottleneck(
        self, name: str, x: str, in_channels: int, hidden: int, out_channels: int, stride: int
    ) -> str:
        strides = (stride, 1) if self._is_keras else (1, stride)
        y = self.convolution(
            f"{name}.conv1", f"{name}.bn1", x, in_channels, hidden, size=1, stride=strides[0]
        )
        y = self._net.add_node(f"{name}.relu1", "relu", y)
        y = self.convolution(
            f"{name}.conv2", f"{name}.bn2", y, hidden, hidden, size=3, stride=strides[1]
        )
        y = self._net.add_node(f"{name}.relu2", "relu", y)
        y = self.convolution(f"{name}.conv3", f"{name}.bn3", y, hidden, out_channels, size=1)
        return self._add(name, x, y, in_channels, out_channels, stride)

    def _add(
        self, name: str, x: str, y: str, in_channels: int, out_channels: int, stride: int
    ) -> str:
        """Add the shortcut to ``y``; it is a convolution of ``x`` if their shapes differ."""
        if stride != 1 or in_channels != out_channels:
            shortcut = f"{name}.downsample"
            x = self.convolution(
                f"{shortcut}.0",
                f"{shortcut}.1",
                x,
                in_channels,
                out_channels,
                size=1,
                stride=stride,
            )
            self._net.alias(shortcut, x)
        x = self._net.add_node(f"{name}.add", "add", x, y)
        x = self._net.add_node(name, "relu", x)
        self._net.alias(f"{name}.relu", x)
        return x


RESNET = Family(
    name="ResNet",
    year=2015,
    paper="He et al., Deep Residual Learning for Image Recognition",
    members={
        "resnet18": {"torchvision": partial(resnet, 18)},
        "resnet34": {"torchvision": partial(resnet, 34)},
        "resnet50": both_variants(partial(resnet, 50)),
        "resnet101": both_variants(partial(resnet, 101)),
        "resnet152": both_variants(partial(resnet, 152)),
    },
)
"""The members of the family."""
