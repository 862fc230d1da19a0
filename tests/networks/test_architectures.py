"""The networks of the catalog, compared with the figures that their publishers state."""

from __future__ import annotations

from collections import Counter

import pytest

from transferkit.backends.macs import count_macs
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ShapeError, UnknownNameError
from transferkit.networks import NETWORKS, build_network, network_from_json, network_to_json

# From torchvision's documentation: parameters, and 10^9 multiply-adds at 224 x 224.
_TORCHVISION = {
    "vgg11": (132_863_336, 7.609),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16": (138_357_544, 15.47),
    "vgg16_bn": (138_365_992, 15.47),
    "vgg19": (143_667_240, 19.632),
    "vgg19_bn": (143_678_248, 19.632),
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_small": (2_542_856, 0.057),
    "mobilenet_v3_large": (5_483_032, 0.217),
}
# From `keras.Model.count_params`, which counts the statistics of batch norm too.
_KERAS = {
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet50": 25_636_712,
    "resnet101": 44_707_176,
    "resnet152": 60_419_944,
    "mobilenet_v1_025": 475_544,
    "mobilenet_v1_050": 1_342_536,
    "mobilenet_v1_075": 2_601_976,
    "mobilenet_v1": 4_253_864,
    "mobilenet_v2": 3_538_984,
    "mobilenet_v3_small": 2_554_968,
    "mobilenet_v3_large": 5_507_432,
}
_VARIANTS = [(name, variant) for name, entry in NETWORKS.items() for variant in entry.variants]


def test_variants_of_the_catalog() -> None:
    variants = set(_VARIANTS)
    assert {name for name, variant in variants if variant == "torchvision"} == _TORCHVISION.keys()
    assert {name for name, variant in variants if variant == "keras"} == _KERAS.keys()
    assert {variant for _, variant in variants} == {"torchvision", "keras"}
    # The first variant is the default.
    assert build_network("resnet50") == build_network("resnet50", variant="torchvision")
    assert build_network("mobilenet_v1") == build_network("mobilenet_v1", variant="keras")


@pytest.mark.parametrize("name", _TORCHVISION)
def test_parameters_and_cost_of_the_torchvision_variant(name: str) -> None:
    network = build_network(name, variant="torchvision")
    parameters, billions = _TORCHVISION[name]
    assert network.num_parameters == parameters
    assert round(count_macs(network, 224, 224) / 1e9, 3) == billions


@pytest.mark.parametrize("name", _KERAS)
def test_parameters_of_the_keras_variant(name: str) -> None:
    network = build_network(name, variant="keras")
    statistics = sum(
        shape[0]
        for parameter, shape in network.parameters.items()
        if parameter.endswith((".running_mean", ".running_var"))
    )
    assert network.num_parameters + statistics == _KERAS[name]


@pytest.mark.parametrize(("name", "variant"), _VARIANTS)
def test_every_network_has_logits_and_an_embedding(name: str, variant: str) -> None:
    network = build_network(name, variant=variant, classes=7)
    assert network.name == name
    shapes = infer_shapes(network, 224, 224)
    assert shapes["logits"] == (7,)
    # The embedding is the input of the last layer.
    last = network.node("logits")
    assert last.operation == "linear"
    assert last.inputs == (network.resolve("embedding"),)
    assert shapes["embedding"] == network.parameters[last.parameters[0]][1:]
    assert len(set(network.layers)) == len(network.layers)
    # Every parameter is used once, by the layer whose name it begins with.
    used = Counter(parameter for node in network.nodes for parameter in node.parameters)
    assert used == Counter(list(network.parameters))
    for node in network.nodes:
        assert all(parameter.rpartition(".")[0] == node.name for parameter in node.parameters)
    assert network_from_json(network_to_json(network)) == network


@pytest.mark.parametrize(
    "name", [name for name, entry in NETWORKS.items() if len(entry.variants) > 1]
)
def test_both_variants_have_the_same_names(name: str) -> None:
    torchvision, keras = (
        build_network(name, variant=variant) for variant in ("torchvision", "keras")
    )
    assert torchvision != keras
    assert set(torchvision.parameters) <= set(keras.parameters)
    for parameter, shape in torchvision.parameters.items():
        assert keras.parameters[parameter] == shape
    added = {parameter.rpartition(".")[2] for parameter in keras.parameters} - {
        parameter.rpartition(".")[2] for parameter in torchvision.parameters
    }
    assert not added
    assert set(keras.layers) >= set(torchvision.layers) - {"avgpool"}
    if not name.startswith("resnet"):
        assert list(torchvision.parameters) == list(keras.parameters)


# Layer names from the literature, and shapes from the tables of the papers.
_SHAPES = {
    "vgg16": {
        "features.3": (224, 224, 64),
        "features.30": (7, 7, 512),
        "avgpool": (7, 7, 512),
        "classifier.1": (4096,),
        "embedding": (4096,),
        "classifier": (1000,),
    },
    "resnet50": {
        "conv1": (112, 112, 64),
        "layer1": (56, 56, 256),
        "layer2.0.downsample.1": (28, 28, 512),
        "layer2": (28, 28, 512),
        "layer3": (14, 14, 1024),
        "layer4.2.conv3": (7, 7, 2048),
        "avgpool": (1, 1, 2048),
        "embedding": (2048,),
        "fc": (1000,),
    },
    "mobilenet_v1": {
        "conv1": (112, 112, 32),
        "conv_dw_2_relu": (56, 56, 64),
        "conv_pw_5_relu": (28, 28, 256),
        "conv_pw_11_relu": (14, 14, 512),
        "conv_pw_13_relu": (7, 7, 1024),
        "embedding": (1024,),
    },
    "mobilenet_v3_large": {
        "features.0": (112, 112, 16),
        "features.4.block.2.fc1": (1, 1, 24),
        "features.6": (28, 28, 40),
        "features.16": (7, 7, 960),
        "avgpool": (1, 1, 960),
        "embedding": (1280,),
    },
}


@pytest.mark.parametrize(("name", "variant"), [row for row in _VARIANTS if row[0] in _SHAPES])
def test_shapes_are_those_of_the_papers(name: str, variant: str) -> None:
    shapes = infer_shapes(build_network(name, variant=variant), 224, 224)
    assert {layer: shapes[layer] for layer in _SHAPES[name]} == _SHAPES[name]


@pytest.mark.parametrize("name", ["resnet50", "resnet152"])
def test_bottlenecks_halve_the_feature_map_in_the_right_convolution(name: str) -> None:
    for variant, halves in (("torchvision", "conv2"), ("keras", "conv1")):
        network = build_network(name, variant=variant)
        strided = {
            node.name
            for node in network.nodes
            if node.operation == "conv2d" and node.attributes["stride"] == (2, 2)
        }
        blocks = {f"layer{stage}.0" for stage in (2, 3, 4)}
        assert strided == (
            {"conv1"}
            | {f"{block}.{halves}" for block in blocks}
            | {f"{block}.downsample.0" for block in blocks}
        )


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_keras_pads_unevenly_at_stride_2(name: str) -> None:
    for node in build_network(name, variant="keras").nodes:
        if node.operation == "conv2d":
            (before, after), columns = node.attributes["padding"]  # type: ignore[misc]
            assert columns == (before, after)
            assert after - before == node.attributes["stride"][0] - 1  # type: ignore[index]


def test_keras_vgg_accepts_one_size_only() -> None:
    network = build_network("vgg16", variant="keras")
    for height, width in ((64, 96), (448, 448), (20, 20)):
        with pytest.raises(ShapeError, match="vgg16 accepts only 224 x 224 images, not"):
            infer_shapes(network, height, width)
    # torchvision's accepts any size that is large enough.
    network = build_network("vgg16")
    assert infer_shapes(network, 64, 96)["logits"] == (1000,)
    with pytest.raises(ShapeError, match="vgg16 does not accept 20 x 20 images"):
        infer_shapes(network, 20, 20)


def test_unknown_variants_are_rejected() -> None:
    with pytest.raises(
        UnknownNameError, match="vgg11 has no variant 'keras'; available: torchvision"
    ):
        build_network("vgg11", variant="keras")
    with pytest.raises(UnknownNameError, match=r"mobilenet_v1 has no variant 'torchvision'.*keras"):
        build_network("mobilenet_v1", variant="torchvision")
    with pytest.raises(UnknownNameError, match="did you mean 'keras'"):
        build_network("resnet50", variant="Keras")


def test_channel_order() -> None:
    network = build_network("resnet18", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert [node.operation for node in network.nodes[:2]] == ["normalize", "conv2d"]
    assert dict(network.nodes[0].attributes) == {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    network = build_network("resnet18", channel_order="bgr")
    assert [node.name for node in network.nodes[:3]] == ["normalize", "reverse_channels", "conv1"]
    with pytest.raises(UnknownNameError, match="unknown channel order 'brg'; did you mean"):
        build_network("resnet18", channel_order="brg")


def test_the_cost_is_that_of_the_given_size() -> None:
    network = build_network("resnet18")
    whole, quarter = (count_macs(network, side, side) for side in (448, 224))
    last = 512 * 1000
    assert whole - last == 4 * (quarter - last)
