"""VGG (Simonyan and Zisserman, 2014): plain stacks of 3 x 3 convolutions."""

from __future__ import annotations

from transferkit.networks.graph import Network, NetworkBuilder

__all__ = ["vgg"]

# Simonyan and Zisserman, 2014, "Very Deep Convolutional Networks for Large-Scale Image
# Recognition", table 1, columns A, B, D and E: the number of convolutions in each of the five
# stages between the pools. All convolutions of a stage have as many channels.
_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)
_HIDDEN = 4096
_EPSILON = 1e-5


def vgg(
    depth: int,
    *,
    variant: str = "torchvision",
    batch_norm: bool = False,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    classes: int = 1000,
) -> Network:
    """VGG, with the names that torchvision gives its modules.

    Its ``embedding`` is what the last linear layer takes, as of every network here: the 4,096
    numbers after the second ReLU of the classifier, which the literature calls fc7. The
    pooled feature map, ``avgpool``, is 25,088 numbers that still say where things are.

    Parameters
    ----------
    depth
        How many layers have weights: 11, 13, 16 or 19.
    variant
        ``"torchvision"`` averages the last feature map to 7 x 7, so that pictures of any size
        from 32 x 32 fit, and flattens it in the order channels, rows, columns. ``"keras"``
        flattens it as it is, in the order rows, columns, channels: its classifier fits
        pictures of 224 x 224 alone, its feature maps are there for any.
    batch_norm
        Whether a batch norm follows each convolution, as in torchvision's ``_bn``.
    mean, std, channel_order
        Of the pixels the weights were trained on; see `NetworkBuilder.normalize`.
    classes
        Number of outputs of the classifier.
    """
    net = NetworkBuilder(f"vgg{depth}_bn" if batch_norm else f"vgg{depth}", input_size=224)
    x = net.normalize(mean, std, channel_order)
    channels = 3
    index = 0
    for channels_out, convolutions in zip(_CHANNELS, _STAGES[depth], strict=True):
        for _ in range(convolutions):
            x = net.conv2d(f"features.{index}", x, channels, channels_out, size=3, padding=1)
            if batch_norm:
                index += 1
                x = net.batch_norm(f"features.{index}", x, channels_out, epsilon=_EPSILON)
            x = net.add_node(f"features.{index + 1}", "relu", x)
            channels = channels_out
            index += 2
        no_padding = ((0, 0), (0, 0))
        x = net.add_node(
            f"features.{index}", "max_pool2d", x, size=(2, 2), stride=(2, 2), padding=no_padding
        )
        index += 1
    net.alias("features", x)
    if variant == "torchvision":
        x = net.add_node("avgpool", "adaptive_average_pool2d", x, height=7, width=7)
    else:
        net.alias("avgpool", x)
    x = net.add_node("flatten", "flatten", x, channels_first=variant == "torchvision")
    x = net.linear("classifier.0", x, 7 * 7 * channels, _HIDDEN)
    x = net.add_node("classifier.1", "relu", x)
    # Dropout does nothing at inference, but people ask for it by name.
    net.alias("classifier.2", x)
    x = net.linear("classifier.3", x, _HIDDEN, _HIDDEN)
    x = net.add_node("classifier.4", "relu", x)
    net.alias("classifier.5", x)
    net.alias("embedding", x)
    x = net.linear("classifier.6", x, _HIDDEN, classes)
    net.alias("classifier", x)
    net.alias("logits", x)
    return net.build()
