"""Parity with keras.applications: networks, files and preprocessing.

Each network of Keras's gets random weights, is saved as Keras saves it, and read back here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from transferkit.backends import Backend, Program
from transferkit.networks import NETWORKS, Network, build_network
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.weights.keras_names import keras_layer_names
from transferkit.weights.reading import classes_of, read_arrays, read_weights, variant_of

Floats = npt.NDArray[np.float32]

_CLASSES = 11
# Subtracted from pixels in 0 to 255, in the order red, green, blue; Caffe reverses them.
_CAFFE = {
    "mean": (123.68 / 255, 116.779 / 255, 103.939 / 255),
    "std": (1 / 255, 1 / 255, 1 / 255),
    "channel_order": "bgr",
}
_MINUS_ONE_TO_ONE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

_applications = keras.applications
# The builder of Keras's model, the module with its preprocessing, and the equivalent here.
_PUBLISHED: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "vgg16": (_applications.VGG16, _applications.vgg16, _CAFFE),
    "vgg19": (_applications.VGG19, _applications.vgg19, _CAFFE),
    "resnet50": (_applications.ResNet50, _applications.resnet, _CAFFE),
    "resnet101": (_applications.ResNet101, _applications.resnet, _CAFFE),
    "resnet152": (_applications.ResNet152, _applications.resnet, _CAFFE),
    "mobilenet_v1": (_applications.MobileNet, _applications.mobilenet, _MINUS_ONE_TO_ONE),
    "mobilenet_v2": (_applications.MobileNetV2, _applications.mobilenet_v2, _MINUS_ONE_TO_ONE),
    "mobilenet_v3_small": (
        _applications.MobileNetV3Small, _applications.mobilenet_v3, _MINUS_ONE_TO_ONE,
    ),
    "mobilenet_v3_large": (
        _applications.MobileNetV3Large, _applications.mobilenet_v3, _MINUS_ONE_TO_ONE,
    ),
}  # fmt: skip
_ALPHAS = {"mobilenet_v1_025": 0.25, "mobilenet_v1_050": 0.5, "mobilenet_v1_075": 0.75}
# One network of each family, of which every layer is compared.
_EVERY_LAYER = {"vgg16", "resnet50", "mobilenet_v1_025", "mobilenet_v2", "mobilenet_v3_small"}
_KERAS_NETWORKS = [name for name, entry in NETWORKS.items() if "keras" in entry.variants]


def _made(name: str) -> tuple[Any, Any, Network]:
    """Return Keras's model, the module with its preprocessing, and the network."""
    options: dict[str, Any] = {}
    if name in _ALPHAS:
        options["alpha"] = _ALPHAS[name]
    make, module, preprocessing = _PUBLISHED["mobilenet_v1" if name in _ALPHAS else name]
    # VGG's classifier accepts one size only.
    shape = (224, 224, 3) if name.startswith("vgg") else (64, 96, 3)
    keras.utils.clear_session()
    model = make(
        weights=None,
        input_shape=shape,
        classes=_CLASSES,
        classifier_activation=None,
        **options,
    )
    return model, module, build_network(name, variant="keras", classes=_CLASSES, **preprocessing)


def _randomize(model: Any) -> None:
    """Set weights and statistics with which activations neither vanish nor explode."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.weights:
            if len(variable.shape) > 1:
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                fan_in = np.prod(variable.shape[: 2 if depthwise else -1])
                value = generator.standard_normal(variable.shape, np.float32)
                value *= np.float32(np.sqrt(2 / fan_in))
            elif is_norm and variable.name in {"gamma", "moving_variance"}:
                value = generator.uniform(0.5, 1.5, variable.shape)
            else:
                value = generator.normal(0, 0.1, variable.shape)
            variable.assign(value)


def _expected(model: Any, network: Network, name: str, inputs: Floats) -> dict[str, Floats]:
    """Return the outputs of layers of Keras's model under the names that they have here."""
    names = keras_layer_names(network)
    last = list(names)[-1]
    outputs = {"logits": model.output, "embedding": model.get_layer(last).input}
    if name in _EVERY_LAYER:
        order = [node.name for node in network.nodes]
        following = dict(pairwise(order))
        for keras_name, node_name in names.items():
            layer = model.get_layer(keras_name)
            activation = getattr(layer, "activation", None)
            # VGG's convolutions include the ReLU.
            has_relu = activation is keras.activations.relu
            outputs[following[node_name] if has_relu else node_name] = layer.output
    found = keras.Model(model.input, outputs)(inputs, training=False)
    return {layer: np.asarray(array) for layer, array in found.items()}


def _save(model: Any, folder: Path, name: str) -> list[Path]:
    """Write the model in the formats of Keras; a large one in one format only."""
    if name.startswith("vgg"):
        endings = [".h5"]
    elif name in {"resnet101", "resnet152"}:
        endings = [".weights.h5"]
    else:
        endings = [".h5", ".weights.h5", ".keras"]
    paths = [folder / f"{name}{ending}" for ending in endings]
    for path in paths:
        if path.name.endswith(".weights.h5"):
            model.save_weights(path)
        else:
            model.save(path, include_optimizer=False)
    return paths


@pytest.mark.parametrize("name", _KERAS_NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_has_the_same_outputs(
    name: str, backends: list[Backend], tmp_path: Path
) -> None:
    model, module, network = _made(name)
    _randomize(model)
    pixels = np.random.default_rng(1).random((1, *model.input_shape[1:]), np.float32)
    expected = _expected(model, network, name, module.preprocess_input(pixels * 255))
    paths = _save(model, tmp_path, name)
    del model
    weights = read_weights(paths[0], network, "keras")
    for path in paths[1:]:
        again = read_weights(path, network, "keras")
        assert all(np.array_equal(again[key], weights[key]) for key in weights)
    for path in paths:
        assert variant_of(path) == "keras"
        other = build_network(name, variant="keras", classes=5)
        assert classes_of(read_arrays(path, other, "keras"), other) == _CLASSES
    for backend in backends:
        found = Program(backend, network, weights).run(pixels, list(expected))
        for layer, array in expected.items():
            # A linear layer may be a 1 x 1 convolution in Keras.
            flat = found[layer].ndim == 2
            theirs = array.reshape(1, -1) if flat else array
            assert_close(found[layer], theirs, ACTIVATION_TOLERANCE, f"{backend.name}, {layer}")


def test_half_precision_weights_are_read(tmp_path: Path) -> None:
    """Models in bfloat16, for which HDF5 has no type, and float16."""
    for kind in ("bfloat16", "float16"):
        keras.utils.clear_session()
        model = keras.applications.MobileNet(
            weights=None, alpha=0.25, input_shape=(32, 32, 3), classes=_CLASSES
        )
        half = keras.models.clone_model(
            model, clone_function=lambda layer, kind=kind: _with_type(layer, kind)
        )
        half.save_weights(tmp_path / "half.weights.h5")
        network = build_network("mobilenet_v1_025", variant="keras", classes=_CLASSES)
        found = read_weights(tmp_path / "half.weights.h5", network, "keras")
        kernel = np.asarray(keras.ops.cast(half.get_layer("conv1").kernel, "float32"))
        np.testing.assert_array_equal(found["conv1.weight"], kernel.transpose(3, 2, 0, 1))


def _with_type(layer: Any, kind: str) -> Any:
    configuration = layer.get_config()
    configuration["dtype"] = kind
    return type(layer).from_config(configuration)
