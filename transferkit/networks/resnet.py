"""ResNet (He et al., 2015): blocks that add to what they are given."""

from __future__ import annotations

from transferkit.networks.graph import Network, NetworkBuilder

__all__ = ["resnet"]

# He et al., 2015, "Deep Residual Learning for Image Recognition", table 1: the number of blocks
# in each of the four stages. Each stage but the first halves the feature map.
_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_CHANNELS = (64, 128, 256, 512)
# From this depth on blocks are bottlenecks: 1 x 1, 3 x 3, and 1 x 1 to four times the channels.
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
    """ResNet, with the names that torchvision gives its modules.

    torchvision calls all activations of a block ``relu``, and that name means the last of
    them; those within are ``relu1`` and, in a bottleneck, ``relu2``.

    Parameters
    ----------
    depth
        How many layers have weights: 18, 34, 50, 101 or 152.
    variant
        Which weights it is for. ``"torchvision"`` halves the feature map in the 3 x 3
        convolution of a bottleneck and has convolutions without biases; ``"keras"``, which
        has bottlenecks only, in the 1 x 1 before it as the paper does, has biases, and a
        slightly larger epsilon.
    mean, std, channel_order
        Of the pixels the weights were trained on; see `NetworkBuilder.normalize`.
    classes
        Number of outputs of the classifier.
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
        channels_out = hidden * _EXPANSION if is_bottleneck else hidden
        for repeat in range(repeats):
            name = f"layer{stage}.{repeat}"
            stride = 2 if stage > 1 and repeat == 0 else 1
            block = blocks.bottleneck if is_bottleneck else blocks.basic
            x = block(name, x, channels, hidden, channels_out, stride)
            channels = channels_out
        net.alias(f"layer{stage}", x)
    x = net.add_node("avgpool", "mean", x, axes=(1, 2), keepdims=True)
    x = net.add_node("embedding", "flatten", x)
    x = net.linear("fc", x, channels, classes)
    net.alias("logits", x)
    return net.build()


class _Blocks:
    """Adds blocks to a network, in one of the two variants."""

    def __init__(self, net: NetworkBuilder, variant: str) -> None:
        self._net = net
        self._is_keras = variant == "keras"
        self._epsilon = _EPSILON[variant]

    def convolution(
        self,
        name: str,
        norm: str,
        x: str,
        channels_in: int,
        channels_out: int,
        *,
        size: int,
        stride: int = 1,
    ) -> str:
        """A convolution that keeps the size but for its stride, and its batch norm."""
        x = self._net.conv2d(
            name,
            x,
            channels_in,
            channels_out,
            size=size,
            stride=stride,
            padding=size // 2,
            bias=self._is_keras,
        )
        return self._net.batch_norm(norm, x, channels_out, epsilon=self._epsilon)

    def basic(
        self, name: str, x: str, channels_in: int, hidden: int, channels_out: int, stride: int
    ) -> str:
        y = self.convolution(
            f"{name}.conv1", f"{name}.bn1", x, channels_in, hidden, size=3, stride=stride
        )
        y = self._net.add_node(f"{name}.relu1", "relu", y)
        y = self.convolution(f"{name}.conv2", f"{name}.bn2", y, hidden, channels_out, size=3)
        return self._add(name, x, y, channels_in, channels_out, stride)

    def bottleneck(
        self, name: str, x: str, channels_in: int, hidden: int, channels_out: int, stride: int
    ) -> str:
        strides = (stride, 1) if self._is_keras else (1, stride)
        y = self.convolution(
            f"{name}.conv1", f"{name}.bn1", x, channels_in, hidden, size=1, stride=strides[0]
        )
        y = self._net.add_node(f"{name}.relu1", "relu", y)
        y = self.convolution(
            f"{name}.conv2", f"{name}.bn2", y, hidden, hidden, size=3, stride=strides[1]
        )
        y = self._net.add_node(f"{name}.relu2", "relu", y)
        y = self.convolution(f"{name}.conv3", f"{name}.bn3", y, hidden, channels_out, size=1)
        return self._add(name, x, y, channels_in, channels_out, stride)

    def _add(
        self, name: str, x: str, y: str, channels_in: int, channels_out: int, stride: int
    ) -> str:
        """``x``, made to fit where it does not, and ``y``."""
        if stride != 1 or channels_in != channels_out:
            shortcut = f"{name}.downsample"
            x = self.convolution(
                f"{shortcut}.0",
                f"{shortcut}.1",
                x,
                channels_in,
                channels_out,
                size=1,
                stride=stride,
            )
            self._net.alias(shortcut, x)
        x = self._net.add_node(f"{name}.add", "add", x, y)
        x = self._net.add_node(name, "relu", x)
        self._net.alias(f"{name}.relu", x)
        return x
