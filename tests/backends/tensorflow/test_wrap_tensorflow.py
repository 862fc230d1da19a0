"""User-defined models of Keras."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from keras import layers
from samples import colored, noise
from sklearn.base import clone

from transferkit import Classifier, FeatureExtractor, Preprocessing
from transferkit.backends import Program, backend_of, get_backend
from transferkit.errors import (
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)

Floats = npt.NDArray[np.float32]

SIDE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
BACKEND = get_backend("tensorflow")
PREPROCESSING = Preprocessing(SIDE, mean=MEAN, std=STD)


def randomized(model: Any, seed: int = 0) -> Any:
    """Return the model with random weights and batch norm statistics."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype == "float32":
            low = 0.1 if "variance" in variable.path else -0.5
            variable.assign(generator.uniform(low, 0.6, variable.shape).astype(np.float32))
    return model


def branched(side: int | None = SIDE, **settings: Any) -> Any:
    """Return a model with a branch, a layer called twice, a nested model and a dict as output."""
    pixels = keras.Input((side, side, 3))
    x = layers.Conv2D(8, 3, name="conv")(pixels)
    x = layers.BatchNormalization(name="norm")(x)
    shared = layers.Conv2D(8, 3, padding="same", activation="relu", name="shared", **settings)
    y = shared(shared(x))
    x = layers.Add(name="sum")([x, y])
    inner = keras.Sequential(
        [layers.Input((None, None, 8)), layers.Conv2D(6, 3, name="conv"), layers.ReLU(name="act")],
        name="inner",
    )
    x = inner(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    y = layers.Dense(5, name="head")(x)
    return randomized(keras.Model(pixels, {"logits": y, "pool": x}, name="branched"))


def classifying(activation: str | None = "softmax", side: int | None = SIDE) -> Any:
    return randomized(
        keras.Sequential(
            [
                layers.Input((side, side, 3)),
                layers.Conv2D(8, 3, strides=2, activation="relu", name="conv"),
                layers.GlobalAveragePooling2D(name="pool"),
                layers.Dense(7, activation=activation, name="head"),
            ],
            name="classifying",
        )
    )


@keras.saving.register_keras_serializable("transferkit-tests")
class Subclassed(keras.Model):
    """Layers as attributes and in a list; one is never called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.blocks = [Block(4, name="one"), Block(6, name="two")]
        self.head = layers.Dense(3, name="head")
        self.unused = layers.Dense(3, name="unused")

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(tf.reduce_mean(x, (1, 2))), x


@keras.saving.register_keras_serializable("transferkit-tests")
class Block(layers.Layer):
    def __init__(self, channels: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.conv = layers.Conv2D(channels, 3, name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.norm(self.conv(x), training=training)


def program(model: Any, **settings: Any) -> Program:
    wrapped = BACKEND.wrap(model, **{"mean": MEAN, "std": STD, **settings})
    return Program(BACKEND, wrapped.network, {}, wrapped)


def pixels_of(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def normalized_input(pixels: Floats) -> Floats:
    normalized: Floats = (pixels - np.float32(MEAN)) / np.float32(STD)
    return normalized


def state_of(model: Any) -> dict[str, Any]:
    """Return everything that a call of the model could change."""
    flat = model._flatten_layers()
    return {
        "calls": ["call" in vars(layer) for layer in flat],
        "trainable": [layer.trainable for layer in flat],
        "nodes": [len(layer._inbound_nodes) for layer in flat],
        "values": [np.asarray(variable).tolist() for variable in model.variables],
        "attributes": [sorted(vars(layer)) for layer in flat],
    }


def test_layers_have_the_names_of_keras() -> None:
    assert program(branched()).network.layers == (
        "normalize", "conv", "norm", "shared", "shared_1", "sum", "inner/conv", "inner/act",
        "inner", "pool", "drop", "embedding", "head", "logits", "output.pool",
    )  # fmt: skip


@pytest.mark.parametrize("side", [SIDE, None])
def test_outputs_equal_those_of_the_model(side: int | None) -> None:
    model = branched(side)
    requested = ["conv", "norm", "shared", "shared_1", "sum", "inner/conv", "inner", "embedding"]
    run = program(model)
    sizes = [(SIDE, SIDE)] if side else [(SIDE, SIDE), (21, 34)]
    for height, width in sizes:
        pixels = pixels_of(3, height, width)
        result = run.run(pixels, [*requested, "logits", "output.pool"])
        output = model(normalized_input(pixels), training=False)
        x = model.get_layer("conv")(normalized_input(pixels))
        expected = {"conv": x}
        expected["norm"] = x = model.get_layer("norm")(x, training=False)
        expected["shared"] = model.get_layer("shared")(x)
        expected["shared_1"] = model.get_layer("shared")(expected["shared"])
        expected["sum"] = x + expected["shared_1"]
        inner = model.get_layer("inner")
        expected["inner/conv"] = inner.get_layer("conv")(expected["sum"])
        expected["inner"] = inner(expected["sum"])
        expected |= {"logits": output["logits"], "output.pool": output["pool"]}
        expected["embedding"] = output["pool"]
        for layer, tensor in expected.items():
            assert_close(result[layer], np.asarray(tensor), ACTIVATION_TOLERANCE, layer)
            shape = run.shapes(height, width)[layer]
            assert shape == result[layer].shape[1:]


def test_subclassed_model() -> None:
    model = Subclassed(name="subclassed")
    with pytest.raises(UnsupportedError, match=r"no weights yet; .* call the model once on images"):
        program(model)
    model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    randomized(model)
    before = state_of(model)
    run = program(model, input_size=SIDE)
    assert run.network.layers == (
        "normalize", "one/conv", "one/norm", "one", "two/conv", "two/norm", "two", "embedding",
        "head", "output.0", "output.1",
    )  # fmt: skip
    pixels = pixels_of(2, SIDE, 24)
    result = run.run(pixels, ["one/norm", "two", "output.0"])
    logits, maps = model(normalized_input(pixels), training=False)
    assert_close(result["output.0"], np.asarray(logits), ACTIVATION_TOLERANCE, "output.0")
    assert_close(result["two"], np.asarray(maps), ACTIVATION_TOLERANCE, "two")
    assert result["one/norm"].shape == (2, 14, 22, 4)
    assert state_of(model) == before


def test_model_is_unchanged_after_a_run() -> None:
    model = branched(activity_regularizer="l2")
    before = state_of(model)
    run = program(model)
    assert state_of(model) == before
    run.run(pixels_of(2, SIDE, SIDE), ["logits", "shared"])
    run.shapes(SIDE, SIDE)
    assert state_of(model) == before
    # Tracing adds no regularization losses to the model.
    assert model.losses == []


@pytest.mark.parametrize("kind", [ArithmeticError, KeyboardInterrupt])
def test_model_is_unchanged_after_an_error(kind: type[BaseException]) -> None:
    class Failing(layers.Layer):
        fails = False

        def call(self, x: Any) -> Any:
            if self.fails:
                raise kind("in the middle")
            return x

    pixels = keras.Input((SIDE, SIDE, 3))
    x = Failing(name="failing")(layers.Conv2D(4, 3, name="conv")(pixels))
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    before = state_of(model)
    run = program(model)
    object.__setattr__(model.get_layer("failing"), "fails", True)
    with pytest.raises(kind, match="in the middle"):
        BACKEND.compile(run.load(["conv"]))(pixels_of(1, SIDE, SIDE))
    object.__delattr__(model.get_layer("failing"), "fails")
    assert state_of(model) == before


def test_gradients_with_respect_to_pixels() -> None:
    model = branched()
    table = BACKEND.table
    pixels = pixels_of(2, SIDE, SIDE)
    for layer in ("logits", "conv"):
        load = program(model).load([layer])

        def loss(x: Any, layer: str = layer, load: Any = load) -> Any:
            y = table.flatten(load(x)[layer])
            return table.sum(table.multiply(y, table.tanh(y)), axes=(0, 1))

        result = BACKEND.compile(BACKEND.value_and_grad(loss))(pixels)["gradient"]
        with tf.GradientTape() as tape:
            x = tf.convert_to_tensor(pixels)
            tape.watch(x)
            normalized = (x - np.float32(MEAN)) / np.float32(STD)
            if layer == "logits":
                y = model(normalized, training=False)["logits"]
            else:
                y = model.get_layer("conv")(normalized)
            value = tf.reduce_sum(y * tf.tanh(y))
        expected = np.asarray(tape.gradient(value, x))
        assert_close(result, expected, GRADIENT_TOLERANCE, layer)


@pytest.mark.parametrize("ending", ["softmax", "softmax layer", "activation layer", "linear"])
def test_logits_are_the_values_before_the_softmax(ending: str) -> None:
    model = classifying("softmax" if ending == "softmax" else None)
    if ending.endswith("layer"):
        last = layers.Softmax() if ending == "softmax layer" else layers.Activation("softmax")
        model = keras.Model(model.inputs, last(model.outputs[0]))
    pixels = pixels_of(2, SIDE, SIDE)
    result = program(model).run(pixels, ["logits", "embedding", "output"])
    expected = np.asarray(model(normalized_input(pixels)))
    assert_close(result["output"], expected, ACTIVATION_TOLERANCE, "output")
    kernel, bias = model.get_layer("head").get_weights() if ending in (
        "softmax", "linear"
    ) else [np.asarray(w) for w in model.weights[-2:]]  # fmt: skip
    logits = result["embedding"] @ kernel + bias
    assert_close(result["logits"], logits, ACTIVATION_TOLERANCE, "logits")


def test_model_that_reads_its_input_shape() -> None:
    class Rows(layers.Layer):
        def call(self, x: Any) -> Any:
            _, height, width, channels = x.shape
            return tf.reshape(x, (-1, height * width, channels))

        def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int | None, ...]:
            return (None, shape[1] * shape[2], shape[3])

    pixels = keras.Input((SIDE, SIDE, 3))
    result = program(keras.Model(pixels, Rows(name="rows")(pixels))).run(
        pixels_of(2, SIDE, SIDE), ["rows"]
    )
    assert result["rows"].shape == (2, SIDE * SIDE, 3)


def test_layers_inside_a_tf_function_are_left_out() -> None:
    class Inside(layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="inside")
            self.conv = layers.Conv2D(4, 3, name="conv")

        @tf.function
        def call(self, x: Any) -> Any:
            return self.conv(x)

        def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return self.conv.compute_output_shape(shape)

    pixels = keras.Input((SIDE, SIDE, 3))
    inside = Inside()
    inside.conv.build((None, SIDE, SIDE, 3))
    run = program(keras.Model(pixels, inside(pixels)))
    assert run.network.layers == ("normalize", "inside", "output")
    assert run.run(pixels_of(1, SIDE, SIDE), ["inside"])["inside"].shape == (1, 14, 14, 4)


def test_convolution_of_one_pixel_counts_as_linear_layer() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(6, 3, name="conv")(pixels)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Flatten()(layers.Conv2D(4, 1)(x))
    run = program(keras.Model(pixels, layers.Softmax()(x)))
    result = run.run(pixels_of(2, SIDE, SIDE), ["pool", "embedding", "logits"])
    assert run.shapes(SIDE, SIDE)["embedding"] == (6,)
    np.testing.assert_array_equal(result["embedding"], result["pool"].reshape(2, 6))
    # A convolution of more than one pixel does not.
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(pixels))
    assert program(keras.Model(pixels, x)).network.resolve("embedding") == "output"


def followed_by_convolution(*first: Any, side: int | None = SIDE) -> Any:
    """Return a model of the layers ``first`` and a small network."""
    return keras.Sequential(
        [
            layers.Input((side, side, 3)),
            *first,
            layers.Conv2D(4, 3, name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def functional(preprocess: Callable[[Any], Any]) -> Any:
    """Return a functional model that begins with operations."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, name="conv")(preprocess(pixels))
    return keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def adapted(largest: float) -> Any:
    """Return a ``Normalization`` with the statistics of pixels up to ``largest``."""
    normalization = layers.Normalization()
    normalization.adapt(pixels_of(8, SIDE, SIDE) * np.float32(largest))
    return normalization


class OwnCall(keras.Model):
    """A subclassed model that rescales in its own ``call``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.conv.build((None, SIDE, SIDE, 3))
        self.built = True

    def call(self, x: Any) -> Any:
        return keras.ops.mean(self.conv(x[..., ::-1] / 127.5 - 1), (1, 2))


def augmentation() -> list[Any]:
    return [
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.RandomContrast(0.1),
        layers.RandomBrightness(0.1),
        layers.GaussianNoise(0.1),
    ]


APPLICATIONS = keras.applications
RESCALING = layers.Rescaling
TAKES_BYTES: dict[str, Callable[[], Any]] = {
    "rescaling": lambda: followed_by_convolution(RESCALING(1 / 127.5, offset=-1)),
    "augmentation": lambda: followed_by_convolution(*augmentation(), RESCALING(1 / 255)),
    "resizing": lambda: followed_by_convolution(
        layers.Resizing(24, 20, crop_to_aspect_ratio=True), RESCALING(1 / 255)
    ),
    "crop and padding": lambda: followed_by_convolution(
        layers.CenterCrop(14, 14),
        layers.Cropping2D(1),
        layers.ZeroPadding2D(2),
        layers.RandomCrop(12, 12),
        layers.Dropout(0.1),
        layers.Identity(),
        RESCALING(1 / 255),
    ),
    "nested model": lambda: followed_by_convolution(
        keras.Sequential([layers.RandomFlip(), RESCALING(1 / 255)])
    ),
    "any size": lambda: followed_by_convolution(
        layers.Resizing(SIDE, SIDE), RESCALING(1 / 255), side=None
    ),
    "caffe mode": lambda: functional(APPLICATIONS.resnet50.preprocess_input),
    "tf mode": lambda: functional(APPLICATIONS.mobilenet_v2.preprocess_input),
    "torch mode": lambda: functional(APPLICATIONS.densenet.preprocess_input),
    "mean image": lambda: functional(lambda x: x - 255 * pixels_of(SIDE, SIDE)),
    "adapted to bytes": lambda: followed_by_convolution(adapted(255.0)),
    "lambda layer": lambda: followed_by_convolution(layers.Lambda(lambda x: x / 255.0)),
    "subclassed model": OwnCall,
}


@pytest.mark.parametrize("make", TAKES_BYTES.values(), ids=TAKES_BYTES)
def test_model_that_normalizes_bytes_gets_bytes(make: Callable[[], Any]) -> None:
    model = make()
    pixels = pixels_of(2, SIDE, SIDE)
    fx = FeatureExtractor(model, preprocessing=Preprocessing(SIDE))
    result = fx.extract(list(pixels), ["output"])["output"]
    expected = np.asarray(model(pixels * 255, training=False))
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")
    # The same without preprocessing.
    assert FeatureExtractor(model).model().preprocessing.std == (1 / 255,) * 3


@pytest.mark.parametrize(
    ("first", "largest", "mean", "std"),
    [
        (RESCALING(1 / 255), 255, (0.5,) * 3, (0.5,) * 3),
        (RESCALING(1 / 255), 255, (0.0,) * 3, (0.5,) * 3),
        (RESCALING(1 / 255), 255, MEAN, (1 / 255,) * 3),
        (RESCALING(2.0, offset=-1), 1, (0.5,) * 3, (0.5,) * 3),
        (RESCALING(2.0, offset=-1), 1, (0.0,) * 3, (1 / 255,) * 3),
    ],
)
def test_pixels_are_not_normalized_twice(
    first: Any, largest: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    model = followed_by_convolution(first)
    message = (
        rf"normalizes pixels in \[0, {largest}\] in its first operations.* omit mean and std, as "
        r"in preprocessing=Preprocessing\(size=16\)"
    )
    with pytest.raises(ParameterError, match=message):
        program(model, mean=mean, std=std)
    # Values that agree with the model change nothing.
    matching = Preprocessing(SIDE, std=(1 / largest,) * 3)
    images = list(pixels_of(2, SIDE, SIDE))
    np.testing.assert_array_equal(
        FeatureExtractor(model, preprocessing=matching).extract(images, ["output"])["output"],
        FeatureExtractor(model).extract(images, ["output"])["output"],
    )


def test_model_trained_on_normalized_pixels_is_put_behind_a_normalization() -> None:
    inner = followed_by_convolution(layers.Normalization(mean=0.02, variance=0.4**2))
    images = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(images, inner((images - np.float32(MEAN)) / np.float32(STD)))
    pixels = pixels_of(2, SIDE, SIDE)
    with pytest.raises(ParameterError, match="trained on pixels that were normalized before"):
        program(inner)
    result = FeatureExtractor(model).extract(list(pixels), ["output"])["output"]
    expected = np.asarray(inner(normalized_input(pixels)))
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")


@pytest.mark.parametrize("name", ["ConvNeXtTiny", "EfficientNetB0", "MobileNetV3Small"])
def test_application_with_preprocessing_gets_bytes(name: str) -> None:
    model = getattr(APPLICATIONS, name)(
        weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg"
    )
    assert FeatureExtractor(model).model().preprocessing.std == (1 / 255,) * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: followed_by_convolution(adapted(1.0)),
        lambda: followed_by_convolution(RESCALING(2.0, offset=-1)),
        lambda: functional(lambda x: (x - np.float32(MEAN)) / np.float32(STD)),
        lambda: functional(lambda x: x - np.float32(MEAN)),
        lambda: functional(lambda x: APPLICATIONS.resnet50.preprocess_input(x * 255)),
    ],
    ids=["adapted", "rescaling", "mean and std", "mean", "multiplied by 255"],
)
def test_model_that_normalizes_unit_pixels_gets_them(make: Callable[[], Any]) -> None:
    model = make()
    pixels = pixels_of(2, SIDE, SIDE)
    fx = FeatureExtractor(model)
    assert fx.model().preprocessing == Preprocessing(SIDE)
    result = fx.extract(list(pixels), ["output"])["output"]
    assert_close(result, np.asarray(model(pixels)), ACTIVATION_TOLERANCE, "output")


@pytest.mark.parametrize(
    "first",
    [
        [],
        [layers.BatchNormalization()],
        [layers.Normalization()],
        [RESCALING(1 / 65535)],
        [RESCALING(127.5, offset=127.5)],
        [layers.Normalization(mean=1.5, variance=0.8**2)],
        [layers.Normalization(mean=0.8, variance=0.9**2)],
        [layers.Normalization(mean=120.0, variance=300.0**2)],
        [layers.Normalization(mean=255.5, variance=60.0**2)],
        [layers.Lambda(lambda x: x - tf.reduce_mean(x, (1, 2), keepdims=True))],
    ],
    ids=[
        "none",
        "batch norm",
        "not adapted",
        "16 bits",
        "from -1 to 1",
        "mean above 1",
        "std above 0.5",
        "std above 256",
        "mean above 255",
        "own mean",
    ],
)
def test_unknown_pixel_range_requires_preprocessing(first: list[Any]) -> None:
    model = followed_by_convolution(*first)
    message = r"range of its pixels.*pass preprocessing=Preprocessing\(size=16, mean=\.\.\., std="
    with pytest.raises(UnsupportedError, match=message):
        FeatureExtractor(model).transform(noise(1))
    preprocessing = Preprocessing(SIDE, std=(1 / 255,) * 3)
    pixels = pixels_of(1, SIDE, SIDE)
    result = FeatureExtractor(model, preprocessing=preprocessing).extract(pixels, ["output"])
    expected = np.asarray(model(pixels * 255))
    assert_close(result["output"], expected, ACTIVATION_TOLERANCE, "output")


def test_unsupported_image_size_is_rejected() -> None:
    run = program(branched())
    for size in ((20, 20), (16, 20)):
        message = rf"takes only 16 x 16 images, not {size[0]} x {size[1]}"
        with pytest.raises(ShapeError, match=message):
            run.run(pixels_of(1, *size), ["logits"])
    with pytest.raises(ShapeError, match="takes only 16 x 16 images, not 24 x 24"):
        FeatureExtractor(branched(), preprocessing=Preprocessing(24)).transform(noise(1))
    with pytest.raises(ShapeError, match=r"'branched' fails on images of 4 x 4"):
        program(branched(None), input_size=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: {}, "returned a dict"),
        (lambda x: tf.argmax(x, -1), r"and dtype <dtype: 'int64'>"),
        (lambda _: None, "returned a NoneType"),
    ],
)
def test_model_without_tensor_output_is_rejected(make: Any, message: str) -> None:
    class Lambda(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(4, 3)

        def call(self, x: Any) -> Any:
            return make(self.conv(x))

    model = Lambda()
    model.conv.build((None, SIDE, SIDE, 3))
    model.built = True
    with pytest.raises(UnsupportedError, match=message):
        program(model, input_size=SIDE)


# ---- inputs -------------------------------------------------------------------------------


def gray_model(is_subclassed: bool) -> Any:
    first = [] if is_subclassed else [layers.Input((SIDE, SIDE, 1))]
    model = keras.Sequential(
        [*first, layers.Conv2D(4, 3, name="conv"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    if not is_subclassed:
        return model

    class Gray(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def call(self, x: Any) -> Any:
            return self.inner(x)

    gray = Gray()
    gray(np.zeros((1, SIDE, SIDE, 1), np.float32))
    return gray


@pytest.mark.parametrize("is_subclassed", [False, True])
def test_model_of_gray_images(is_subclassed: bool) -> None:
    model = gray_model(is_subclassed)
    pixels = pixels_of(2, SIDE, SIDE)
    preprocessing = Preprocessing(SIDE, mean=(0.13,) * 3, std=(0.31,) * 3)
    fx = FeatureExtractor(model, preprocessing=preprocessing)
    result = fx.extract(list(pixels), ["output"])["output"]
    gray = pixels @ np.float32([0.299, 0.587, 0.114])
    expected = model((gray[..., None] - np.float32(0.13)) / np.float32(0.31))
    assert_close(result, np.asarray(expected), ACTIVATION_TOLERANCE, "output")
    with pytest.raises(UnsupportedError, match=r"takes gray images, but mean is .* three times"):
        program(model, input_size=SIDE)


def test_gray_model_of_bytes_gets_bytes() -> None:
    model = keras.Sequential(
        [layers.Input((SIDE, SIDE, 1)), RESCALING(1 / 255), gray_model(is_subclassed=False)]
    )
    assert FeatureExtractor(model).model().preprocessing.std == (1 / 255,) * 3


class ImagesOnly(keras.Model):
    """A model that fixes the second input of another."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def call(self, images: Any) -> Any:
        return self.model([images, keras.ops.ones((keras.ops.shape(images)[0], 4))])


def with_inputs(*shapes: tuple[int, ...]) -> Any:
    """Return a model that adds up its inputs."""
    inputs = [keras.Input(shape, name=f"input{index}") for index, shape in enumerate(shapes)]
    sums = [layers.Dense(3)(layers.Flatten()(x)) for x in inputs]
    return keras.Model(inputs, sums[0] if len(sums) == 1 else layers.Add()(sums))


@pytest.mark.parametrize(
    ("shapes", "message", "adapt"),
    [
        (
            [(SIDE, SIDE, 3), (4,)],
            r"takes 2 inputs, of shapes .*call\(self, images\) returns self.model\(\[images, ",
            lambda model, images: ImagesOnly(model)(images),
        ),
        (
            [(3, SIDE, SIDE)],
            r"keras.Input\(\(16, 16, 3\)\); keras.Model\(images, model\(keras.ops.transpose\("
            r"images, \(0, 3, 1, 2\)\)\)\)",
            lambda model, images: model(keras.ops.transpose(images, (0, 3, 1, 2))),
        ),
        (
            [(SIDE, SIDE)],
            r"keras.Model\(images, model\(keras.ops.image.rgb_to_grayscale\(images\)\[..., 0\]",
            lambda model, images: model(keras.ops.image.rgb_to_grayscale(images)[..., 0]),
        ),
        (
            [(SIDE, SIDE, 4)],
            r"takes input of shape \(None, 16, 16, 4\); expected images of shape",
            lambda model, images: model(keras.ops.concatenate([images, images[..., :1]], -1)),
        ),
        (
            [(SIDE * SIDE * 3,)],
            r"takes input of shape \(None, 768\); expected images of shape",
            lambda model, images: model(keras.ops.reshape(images, (-1, 768))),
        ),
    ],
    ids=["two inputs", "channels first", "no channels", "four channels", "vector"],
)
def test_other_inputs_are_rejected_with_a_remedy(
    shapes: list[tuple[int, ...]], message: str, adapt: Callable[[Any, Any], Any]
) -> None:
    model = with_inputs(*shapes)
    with pytest.raises(UnsupportedError, match=message):
        program(model)
    images = keras.Input((SIDE, SIDE, 3))
    adapted_model = keras.Model(images, adapt(model, images))
    pixels = pixels_of(1, SIDE, SIDE)
    result = program(adapted_model).run(pixels, ["output"])["output"]
    expected = np.asarray(adapted_model(normalized_input(pixels)))
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")


class TwoArguments(keras.Model):
    def call(self, x: Any, other: Any) -> Any:
        return x + other


class NeedsMapping(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs["image"]


def test_subclassed_model_with_other_arguments_is_rejected() -> None:
    pixels = np.zeros((1, SIDE, SIDE, 3), np.float32)
    model = TwoArguments(name="two")
    model(pixels, pixels)
    with pytest.raises(UnsupportedError, match="'two' also takes other; expected one input"):
        program(model, input_size=SIDE)
    model = NeedsMapping(name="mapping")
    model({"image": pixels})
    message = r"fails on images of 16 x 16, a tensor of shape \(n, 16, 16, 3\): TypeError: Only int"
    with pytest.raises(ShapeError, match=message):
        program(model, input_size=SIDE)


@pytest.mark.parametrize("kind", [dict, list])
def test_single_input_in_a_structure(kind: type, recwarn: pytest.WarningsRecorder) -> None:
    images = keras.Input((SIDE, SIDE, 3), name="images")
    output = layers.Dense(3)(layers.GlobalAveragePooling2D()(images))
    model = keras.Model({"images": images} if kind is dict else [images], output)
    assert program(model).run(pixels_of(1, SIDE, SIDE), ["output"])["output"].shape == (1, 3)
    assert not [warning for warning in recwarn if "structure" in str(warning.message)]


def test_layer_without_weights_is_rejected() -> None:
    model = Subclassed(name="partly")
    model.blocks[0].build((None, SIDE, SIDE, 3))
    model.built = True
    message = r"layer 'conv' of model 'partly' has no weights yet; .*zeros\(\(1, 16, 16, 3\)"
    with pytest.raises(UnsupportedError, match=message):
        program(model, input_size=SIDE)
    assert model.variables == []
    # It can still be built.
    model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    assert "embedding" in program(model, input_size=SIDE).network.layers


# ---- outputs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        layers.GlobalAveragePooling2D(),
        layers.GlobalMaxPooling2D(keepdims=True),
        lambda x: layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x)),
        lambda x: layers.Identity()(layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))),
        # A linear layer that an activation or normalization follows is no head.
        lambda x: layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x)),
        lambda x: layers.UnitNormalization()(layers.Dense(4)(layers.GlobalAveragePooling2D()(x))),
        lambda x: {"map": x, "pooled": layers.GlobalAveragePooling2D()(x)},
    ],
    ids=["pooled", "one pixel", "flattened", "identity", "relu", "unit norm", "dict"],
)
def test_output_that_no_linear_layer_computes_is_the_embedding(make: Callable[[Any], Any]) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    model = randomized(keras.Model(pixels, make(layers.Conv2D(4, 3, name="conv")(pixels))))
    run = program(model)
    images = pixels_of(3, SIDE, SIDE)
    result = run.run(images, ["embedding"])["embedding"]
    assert run.shapes(SIDE, SIDE)["embedding"] == (4,)
    output = model(normalized_input(images))
    output = output["pooled"] if isinstance(output, dict) else output
    assert_close(result, np.asarray(output).reshape(3, 4), ACTIVATION_TOLERANCE, "embedding")


@pytest.mark.parametrize("pooling", ["avg", "max", None])
def test_application_without_top(pooling: str | None) -> None:
    model = APPLICATIONS.MobileNetV2(
        weights=None, include_top=False, pooling=pooling, input_shape=(32, 32, 3), alpha=0.35
    )
    run = program(model)
    if pooling is None and run.shapes(32, 32)["output"] != (1280,):
        # 32 x 32 pixels become one pixel, whose 1,280 values are the embedding.
        assert run.shapes(32, 32)["output"] == (1, 1, 1280)
    assert run.shapes(32, 32)["embedding"] == (1280,)
    images = pixels_of(1, 32, 32)
    expected = np.asarray(model(normalized_input(images), training=False)).reshape(1, 1280)
    result = run.run(images, ["embedding"])["embedding"]
    assert_close(result, expected, ACTIVATION_TOLERANCE, "embedding")


def test_feature_map_is_no_embedding() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    run = program(keras.Model(pixels, layers.Conv2D(4, 3, name="conv")(pixels)))
    with pytest.raises(UnknownNameError, match=r"'embedding'.*no vector for each image; choose"):
        run.run(pixels_of(1, SIDE, SIDE), ["embedding"])


def two_heads(kind: type, is_shared: bool) -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(pixels))
    first = layers.Dense(5, name="first")(x)
    second = layers.Dense(2, name="second", activation="softmax")(x if is_shared else x + 1)
    output = {"kind": first, "color": second} if kind is dict else [first, second]
    return randomized(keras.Model(pixels, output))


@pytest.mark.parametrize("kind", [dict, list])
def test_two_heads_have_the_embedding_in_common(kind: type) -> None:
    model = two_heads(kind, is_shared=True)
    run = program(model)
    result = run.run(pixels_of(2, SIDE, SIDE), ["embedding", "first"])
    expected = np.asarray(model.get_layer("first")(result["embedding"]))
    assert_close(result["first"], expected, ACTIVATION_TOLERANCE, "first")
    with pytest.raises(UnknownNameError, match=r"'logits'.*entry 'logits' of a dict"):
        run.run(pixels_of(2, SIDE, SIDE), ["logits"])


def test_two_heads_with_different_inputs_have_no_embedding() -> None:
    run = program(two_heads(list, is_shared=False))
    with pytest.raises(UnknownNameError, match=r"different inputs.*choose a layer"):
        run.run(pixels_of(1, SIDE, SIDE), ["embedding"])


@pytest.mark.parametrize(
    "last",
    [
        keras.ops.softmax,
        keras.ops.log_softmax,
        keras.ops.sigmoid,
        lambda x: keras.ops.log(keras.ops.clip(keras.ops.softmax(x), 1e-9, 1)),
        layers.Lambda(tf.nn.softmax),
        layers.Softmax(dtype="float64"),
        lambda x: {"probabilities": layers.Activation("sigmoid")(x)},
    ],
)
def test_logits_are_before_the_last_activation(last: Callable[[Any], Any]) -> None:
    pixels = pixels_of(3, SIDE, SIDE)
    model = classifying(None)
    expected = program(model).run(pixels, ["logits", "embedding"])
    result = program(keras.Model(model.inputs, last(model.outputs[0]))).run(
        pixels, ["logits", "embedding"]
    )
    for layer, values in result.items():
        assert_close(values, expected[layer], ACTIVATION_TOLERANCE, layer)


def test_probabilities_without_known_logits_are_rejected() -> None:
    model = classifying(None)
    scores = model.outputs[0]
    exponentials = keras.ops.exp(scores)
    for probabilities in (
        exponentials / keras.ops.sum(exponentials, -1, keepdims=True),
        (keras.ops.softmax(scores) + keras.ops.softmax(2 * scores)) / 2,
    ):
        run = program(keras.Model(model.inputs, probabilities))
        with pytest.raises(UnknownNameError, match=r"returns probabilities.* return the logits"):
            run.run(pixels_of(1, SIDE, SIDE), ["logits"])


def test_single_sigmoid_has_the_logits_of_two_classes() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(pixels))
    model = randomized(keras.Model(pixels, layers.Dense(1, activation="sigmoid")(x)))
    run = program(model)
    images = pixels_of(3, SIDE, SIDE)
    result = run.run(images, ["logits", "embedding", "output"])
    assert run.shapes(SIDE, SIDE)["logits"] == (2,)
    probabilities = np.asarray(tf.nn.softmax(result["logits"]))
    assert_close(probabilities[:, 1:], result["output"], ACTIVATION_TOLERANCE, "output")
    assert result["embedding"].shape == (3, 4)


def test_keras_with_another_framework_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UnsupportedError, match="KERAS_BACKEND=tensorflow before"):
        program(classifying())


# ---- threads ------------------------------------------------------------------------------


class Paused(layers.Layer):
    """Pauses each call in another thread until it is resumed."""

    def __init__(self) -> None:
        super().__init__()
        # Not as attributes: Keras copies those of some types.
        self.events = {"reached": threading.Event(), "resumed": threading.Event()}
        self.owner = threading.get_ident()
        self.was_resumed = False

    def call(self, x: Any) -> Any:
        if threading.get_ident() != self.owner:
            self.events["reached"].set()
            object.__setattr__(self, "was_resumed", self.events["resumed"].wait(30))
        return x


def paused_model(conv: Any) -> tuple[Any, Paused]:
    """Return a model with the layer ``conv`` that pauses while it is traced."""
    paused = Paused()
    return followed_by_convolution(conv, paused), paused


def test_models_without_common_layers_do_not_wait_for_each_other() -> None:
    model, paused = paused_model(layers.Conv2D(4, 3))
    first, second = program(model), program(classifying())
    pixels = pixels_of(1, SIDE, SIDE)
    thread = threading.Thread(target=lambda: first.run(pixels, ["conv"]))
    thread.start()
    assert paused.events["reached"].wait(30)
    second.run(pixels, ["conv"])
    assert thread.is_alive()
    paused.events["resumed"].set()
    thread.join()
    assert paused.was_resumed


def test_models_with_common_layers_wait_for_each_other() -> None:
    shared = layers.Conv2D(4, 3, name="shared")
    model, paused = paused_model(shared)
    other = followed_by_convolution(shared)
    before = state_of(model), state_of(other)
    first, second = program(model), program(other)
    pixels = pixels_of(1, SIDE, SIDE)
    results: dict[int, Floats] = {}

    def run(number: int, chosen: Program) -> None:
        results[number] = chosen.run(pixels, ["shared"])["shared"]

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate([first, second])]
    threads[0].start()
    assert paused.events["reached"].wait(30)
    threads[1].start()
    threads[1].join(1)
    assert threads[1].is_alive()
    paused.events["resumed"].set()
    for thread in threads:
        thread.join()
    assert (state_of(model), state_of(other)) == before
    for result in results.values():
        expected = np.asarray(shared(normalized_input(pixels)))
        assert_close(result, expected, ACTIVATION_TOLERANCE, "shared")


def test_number_of_traces_is_bounded() -> None:
    counts = Counter[int]()

    def function(x: Any) -> Any:
        counts[x.shape[-1]] += 1
        return x + 1

    run = BACKEND.compile_tensors(function)
    for size in [*range(1, 100), 99, 50, 1]:
        np.testing.assert_array_equal(np.asarray(run(tf.zeros((1, size)))), np.ones((1, size)))
    # The first was traced again; the last ones were not.
    assert (counts[1], counts[50], counts[99]) == (2, 1, 1)


# ---- estimators ---------------------------------------------------------------------------


def test_extractor() -> None:
    model = branched()
    assert backend_of(model) == "tensorflow"
    fx = FeatureExtractor(model, preprocessing=PREPROCESSING, batch_size=2)
    assert fx.to_native() is model
    assert fx.layers()["inner/conv"] == (12, 12, 6)
    images = noise(5)
    features = fx.transform(images)
    assert features.shape == (5, 6)
    np.testing.assert_allclose(clone(fx).transform(images), features, rtol=1e-5)
    with pytest.raises(UnknownNameError, match="did you mean 'shared'"):
        fx.extract(images, ["sharde"])


def test_classifier(tmp_path: Path) -> None:
    model = classifying()
    labels = [0, 1, 2] * 4
    classifier = Classifier(model, preprocessing=PREPROCESSING).fit(colored(labels), labels)
    images = colored(labels, seed=1)
    assert classifier.score(images, labels) == 1.0
    with pytest.raises(UnsupportedError, match="is a Sequential"):
        classifier.save(tmp_path / "classifier.safetensors")
    expected = classifier.predict_proba(images)
    for other in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        np.testing.assert_allclose(other.predict_proba(images), expected, rtol=1e-5)
    other = clone(classifier).fit(colored(labels), labels)
    assert other.network is model
    np.testing.assert_allclose(other.predict_proba(images), expected, rtol=1e-5)
