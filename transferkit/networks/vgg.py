"""VGG (Simonyan and Zisserman, 2014): stacks of 3 x 3 convolutions."""

from __future__ import annotations

from functools import partial

from transferkit.networks.entry import Family, both_variants
from transferkit.networks.graph import Network, NetworkBuilder

__all__ = ["VGG", "vgg"]

# Simonyan and Zisserman, 2014, "Very Deep Convolutional Networks for Large-Scale Image
# Recognition", table 1, columns A, B, D and E: the number of convolutions in each of the five
# stages, which end with a max pool. All convolutions of a stage have the same number of channels.
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
    """Build a VGG, with layers named as in torchvision.

    As in every network here, ``embedding`` is the input of the last linear layer: the 4,096
    activations after the second ReLU of the classifier, called fc7 in the literature. The
    pooled feature map, ``avgpool``, has 25,088 values and keeps spatial information.

    Parameters
    ----------
    depth
        The number of layers with weights: 11, 13, 16 or 19.
    variant
        ``"torchvision"`` averages the last feature map to 7 x 7, so that images of any size
        from 32 x 32 are accepted, and flattens it in the order channels, rows, columns.
        ``"keras"`` flattens it without pooling, in the order rows, columns, channels: its
        classifier accepts images of 224 x 224 only, its feature maps can have any size.
    batch_norm
        Whether a batch norm follows each convolution, as in torchvision's ``_bn`` networks.
    mean, std, channel_order
        The normalization that the weights expect; see `NetworkBuilder.normalize`.
    classes
        The number of logits.
    """
    net = NetworkBuilder(f"vgg{depth}_bn" if batch_norm else f"vgg{depth}", input_size=224)
    x = net.normalize(mean, std, channel_order)
    channels = 3
    index = 0
    for out_channels, convolutions in zip(_CHANNELS, _STAGES[depth], strict=True):
        for _ in range(convolutions):
            x = net.conv2d(f"features.{index}", x, channels, out_channels, size=3, padding=1)
            if batch_norm:
                index += 1
                x = net.batch_norm(f"features.{index}", x, out_channels, epsilon=_EPSILON)
            x = net.add_node(f"features.{index + 1}", "relu", x)
            channels = out_channels
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
    # Dropout does nothing at inference; the alias is for users who know the layer by its name.
    net.alias("classifier.2", x)
    x = net.linear("classifier.3", x, _HIDDEN, _HIDDEN)
    x = net.add_node("classifier.4", "relu", x)
    net.alias("classifier.5", x)
    net.alias("embedding", x)
    x = net.linear("classifier.6", x, _HIDDEN, classes)
    net.alias("classifier", x)
    net.alias("logits", x)
    return net.build()


VGG = Family(
    name="VGG",
    year=2014,
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
    "Recognition",
    members={
        "vgg11": {"torchvision": partial(vgg, 11)},
        "vgg11_bn": {"torchvision": partial(vgg, 11, batch_norm=True)},
        "vgg13": {"torchvision": partial(vgg, 13)},
        "vgg13_bn": {"torchvision": partial(vgg, 13, batch_norm=True)},
        "vgg16": both_variants(partial(vgg, 16)),
        "vgg16_bn": {"torchvision": partial(vgg, 16, batch_norm=True)},
        "vgg19": both_variants(partial(vgg, 19)),
        "vgg19_bn": {"torchvision": partial(vgg, 19, batch_norm=True)},
    },
)
"""The members of the family."""
