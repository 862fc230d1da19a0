"""The catalog of published weights: one table with a row for each file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import UnknownNameError
from transferkit.images import Preprocessing
from transferkit.networks import Network, build_network, find_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.weights.checksum import Checksum

__all__ = ["WEIGHTS", "PackagedFile", "Rename", "WeightsEntry", "find_weights"]

Rename: TypeAlias = Callable[
    [Mapping[str, npt.NDArray[np.float32]], Network], dict[str, npt.NDArray[np.float32]]
]
"""A function from the arrays in a publisher's file to the parameters of a network.

It returns the arrays under the names, and in the shapes, of the network's parameters. Arrays that
the network has no parameter for should keep their names, so that an error can list them.
"""


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A converted weights file that is part of the package.

    Attributes
    ----------
    name
        The name of the safetensors file.
    checksum
        The SHA-256 of that file.
    source_checksum
        The SHA-256 of the publisher's file that it was converted from.
    """

    name: str
    checksum: Checksum
    source_checksum: Checksum


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """A row of the catalog: one published weights file.

    Attributes
    ----------
    network
        The name of the network that the weights are for.
    name
        The name of the weights, unique among those of the network.
    source
        The publisher: ``"torchvision"`` or ``"keras"``.
    variant
        The variant of the network that the weights are for, ``"torchvision"`` or ``"keras"``,
        which differ in padding, epsilon and the like.
    published_as
        The name of the weights in the publisher's package.
    url
        The URL of the publisher's file.
    size
        The size of that file in MiB as the publisher states it; None if not stated.
    checksum
        The checksum of that file as the publisher states it; None if not stated. A file
        without a checksum is only checked to have the length that the server announces and to
        be a complete HDF5 file.
    preprocessing
        The preprocessing that the weights expect.
    license
        The SPDX identifier of the license that the weights were published under.
    license_stated_at
        The source of the license.
    top1
        The stated top-1 accuracy on ImageNet's validation set, in [0, 1].
    top1_stated_at
        The source of the accuracy.
    packaged
        The converted file in the package, if there is one; nothing is downloaded then.
    rename
        Maps the names in the file to those of the network's parameters. None if the file has
        these names already, or is a file of Keras, whose layers are mapped by
        `transferkit.weights.keras_names` for all files in its formats.
    """

    network: str
    name: str
    source: str
    variant: str
    published_as: str
    url: str
    size: float | None
    checksum: Checksum | None
    preprocessing: Preprocessing
    license: str
    license_stated_at: str
    top1: float
    top1_stated_at: str
    packaged: PackagedFile | None = None
    rename: Rename | None = None

    @property
    def file(self) -> str:
        """The name of the publisher's file, also in the caches of PyTorch's hub and of Keras."""
        return self.url.rpartition("/")[2]

    def build(self, classes: int = 1000) -> Network:
        """Build the network of the weights, with the normalization that they expect."""
        return build_network(
            self.network,
            variant=self.variant,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            channel_order=self.preprocessing.channel_order,
            classes=classes,
        )

    def __str__(self) -> str:
        return f"the weights {self.name!r} of {self.network}"


_TORCHVISION_FILES = "https://download.pytorch.org/models/"
_KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications/"
_KERAS_PAGE = "https://keras.io/api/applications/"
# The sources of Keras's weights according to its documentation, by license.
_KERAS_LICENSES = {
    "CC-BY-4.0": "https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
    "MIT": "https://github.com/KaimingHe/deep-residual-networks/blob/master/LICENSE",
    "Apache-2.0": "https://github.com/tensorflow/models/blob/master/LICENSE",
}

_TORCHVISION_NAMES = {
    "vgg": "VGG",
    "resnet": "ResNet",
    "mobilenet_v2": "MobileNet_V2",
    "mobilenet_v3_small": "MobileNet_V3_Small",
    "mobilenet_v3_large": "MobileNet_V3_Large",
}


def _torchvision(
    network: str,
    version: int,
    digits: str,
    size: float,
    top1: float,
    packaged: PackagedFile | None = None,
) -> WeightsEntry:
    """Return a row of ``torchvision.models``. Version 1 resizes images to 256, version 2 to 232."""
    name = f"imagenet1k_v{version}"
    stem = network.rstrip("_bn0123456789") if network.startswith(("vgg", "resnet")) else network
    enumeration = _TORCHVISION_NAMES[stem] + network[len(stem) :].upper() + "_Weights"
    return WeightsEntry(
        network=network,
        name=name,
        source="torchvision",
        variant="torchvision",
        published_as=f"torchvision.models.{enumeration}.{name.upper()}",
        url=f"{_TORCHVISION_FILES}{network}-{digits}.pth",
        size=size,
        checksum=Checksum("sha256", digits),
        preprocessing=Preprocessing(
            size=224, resize={1: 256, 2: 232}[version], mean=IMAGENET_MEAN, std=IMAGENET_STD
        ),
        license="BSD-3-Clause",
        license_stated_at="https://github.com/pytorch/vision/blob/main/LICENSE",
        top1=top1,
        top1_stated_at=f"torchvision.models.{enumeration}.{name.upper()}.meta",
        packaged=packaged,
    )


def _keras(
    network: str,
    model: str,
    path: str,
    md5: str | None,
    spdx: str,
    top1: float,
    *,
    caffe: bool = False,
    top1_stated_at: str = _KERAS_PAGE,
) -> WeightsEntry:
    """Return a row of ``keras.applications``, with the preprocessing of its documentation.

    ``caffe`` weights expect BGR in [0, 255], minus the channel means; the others expect RGB
    scaled to [-1, 1].
    """
    mean = (123.68 / 255, 116.779 / 255, 103.939 / 255) if caffe else (0.5, 0.5, 0.5)
    std = 1 / 255 if caffe else 0.5
    return WeightsEntry(
        network=network,
        name="keras",
        source="keras",
        variant="keras",
        published_as=f"keras.applications.{model}",
        url=_KERAS_FILES + path,
        size=None,
        checksum=None if md5 is None else Checksum("md5", md5),
        preprocessing=Preprocessing(
            size=224,
            interpolation="nearest",
            crop=False,
            mean=mean,
            std=(std, std, std),
            channel_order="bgr" if caffe else "rgb",
        ),
        license=spdx,
        license_stated_at=_KERAS_LICENSES[spdx],
        top1=top1,
        top1_stated_at=top1_stated_at,
    )


_MOBILENETS_PAPER = "https://arxiv.org/abs/1704.04861 (table 6)"
_MOBILENET_V3_DOCS = "keras.applications.mobilenet_v3"
_TF = "weights_tf_dim_ordering_tf_kernels"

# Sizes in MiB and accuracies, both as the publishers state them.
# fmt: off
WEIGHTS: tuple[WeightsEntry, ...] = (
    _torchvision("vgg11", 1, "8a719046", 506.84, 0.69020),
    _torchvision("vgg11_bn", 1, "6002323d", 506.881, 0.70370),
    _torchvision("vgg13", 1, "19584684", 507.545, 0.69928),
    _torchvision("vgg13_bn", 1, "abd245e5", 507.59, 0.71586),
    _torchvision("vgg16", 1, "397923af", 527.796, 0.71592),
    _keras("vgg16", "VGG16", f"vgg16/vgg16_{_TF}.h5", "64373286793e3c8b2b4e3219cbf3544b",
           "CC-BY-4.0", 0.713, caffe=True),
    _torchvision("vgg16_bn", 1, "6c64b313", 527.866, 0.73360),
    _torchvision("vgg19", 1, "dcbb9e9d", 548.051, 0.72376),
    _keras("vgg19", "VGG19", f"vgg19/vgg19_{_TF}.h5", "cbe5617147190e668d6c5d5026f83318",
           "CC-BY-4.0", 0.713, caffe=True),
    _torchvision("vgg19_bn", 1, "c79401a0", 548.143, 0.74218),
    _torchvision("resnet18", 1, "f37072fd", 44.661, 0.69758),
    _torchvision("resnet34", 1, "b627a593", 83.275, 0.73314),
    _torchvision("resnet50", 1, "0676ba61", 97.781, 0.76130),
    _torchvision("resnet50", 2, "11ad3fa6", 97.79, 0.80858),
    _keras("resnet50", "ResNet50", f"resnet/resnet50_{_TF}.h5",
           "2cb95161c43110f7111970584f804107", "MIT", 0.749, caffe=True),
    _torchvision("resnet101", 1, "63fe2227", 170.511, 0.77374),
    _torchvision("resnet101", 2, "cd907fc2", 170.53, 0.81886),
    _keras("resnet101", "ResNet101", f"resnet/resnet101_{_TF}.h5",
           "f1aeb4b969a6efcfb50fad2f0c20cfc5", "MIT", 0.764, caffe=True),
    _torchvision("resnet152", 1, "394f9c45", 230.434, 0.78312),
    _torchvision("resnet152", 2, "f82ba261", 230.474, 0.82284),
    _keras("resnet152", "ResNet152", f"resnet/resnet152_{_TF}.h5",
           "100835be76be38e30d865e96f2aaae62", "MIT", 0.766, caffe=True),
    _keras("mobilenet_v1", "MobileNet", "mobilenet/mobilenet_1_0_224_tf.h5", None,
           "Apache-2.0", 0.704),
    _keras("mobilenet_v1_075", "MobileNet (alpha 0.75)", "mobilenet/mobilenet_7_5_224_tf.h5",
           None, "Apache-2.0", 0.684, top1_stated_at=_MOBILENETS_PAPER),
    _keras("mobilenet_v1_050", "MobileNet (alpha 0.5)", "mobilenet/mobilenet_5_0_224_tf.h5",
           None, "Apache-2.0", 0.637, top1_stated_at=_MOBILENETS_PAPER),
    _keras("mobilenet_v1_025", "MobileNet (alpha 0.25)", "mobilenet/mobilenet_2_5_224_tf.h5",
           None, "Apache-2.0", 0.506, top1_stated_at=_MOBILENETS_PAPER),
    _torchvision("mobilenet_v2", 1, "b0353104", 13.555, 0.71878, PackagedFile(
        "mobilenet_v2-imagenet1k_v1.safetensors",
        Checksum("sha256", "fe28605a19230e40444475dfe7f9e82e1a71cfdab11cdda0ec48f922ab7cc18c"),
        Checksum("sha256", "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"),
    )),
    _torchvision("mobilenet_v2", 2, "7ebf99e0", 13.598, 0.72154),
    _keras("mobilenet_v2", "MobileNetV2", f"mobilenet_v2/mobilenet_v2_{_TF}_1.0_224.h5", None,
           "Apache-2.0", 0.713),
    _torchvision("mobilenet_v3_small", 1, "047dcff4", 9.829, 0.67668),
    _keras("mobilenet_v3_small", "MobileNetV3Small",
           "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float.h5",
           "8768d4c2e7dee89b9d02b2d03d65d862", "Apache-2.0", 0.681,
           top1_stated_at=_MOBILENET_V3_DOCS),
    _torchvision("mobilenet_v3_large", 1, "8738ca79", 21.114, 0.74042),
    _torchvision("mobilenet_v3_large", 2, "5c1a4163", 21.107, 0.75274),
    _keras("mobilenet_v3_large", "MobileNetV3Large",
           "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float.h5",
           "59e551e166be033d707958cf9e29a6a7", "Apache-2.0", 0.756,
           top1_stated_at=_MOBILENET_V3_DOCS),
)
# fmt: on
"""All rows; the first row of each network has its default weights."""


def find_weights(network: str, name: str | None = None) -> WeightsEntry:
    """Return the row of a network's weights.

    Parameters
    ----------
    network
        A key of `transferkit.networks.NETWORKS`.
    name
        The name of the weights; or a source, ``"torchvision"`` or ``"keras"``, for its first
        row; None: the network's first row.

    Raises
    ------
    UnknownNameError
        If the network is unknown or has no such weights; the message lists those it has.

    Examples
    --------
    >>> from transferkit.weights import find_weights
    >>> find_weights("mobilenet_v2").license
    'BSD-3-Clause'
    >>> find_weights("mobilenet_v2", "torchvision").name
    'imagenet1k_v1'
    """
    find_network(network)
    rows = [row for row in WEIGHTS if row.network == network]
    for row in rows:
        if name in (None, row.source, row.name):
            return row
    raise UnknownNameError("weights", name, [row.name for row in rows], of=network)
