"""A user's own keras.Model."""

from __future__ import annotations

import copy
import pickle
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
from transferkit.errors import ShapeError, UnknownNameError, UnsupportedError
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)

Floats = npt.NDArray[np.float32]

SIDE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
BACKEND = get_backend("tensorflow")


def randomized(model: Any, seed: int = 0) -> Any:
    """The model with statistics that batch norm has to do something with."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype == "float32":
            low = 0.1 if "variance" in variable.path else -0.5
            variable.assign(generator.uniform(low, 0.6, variable.shape).astype(np.float32))
    return model


def branched(side: int | None = SIDE, **settings: Any) -> Any:
    """A branch, a layer that runs twice, a model in the model and a mapping as output."""
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
    """Layers as attributes and in a list, of which one is never run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.blocks = [Block(4, name="one"), Block(6, name="two")]
        self.head = layers.Dense(3, name="head")
        self.never = layers.Dense(3, name="never")

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


def as_trained_on(pixels: Floats) -> Floats:
    normalized: Floats = (pixels - np.float32(MEAN)) / np.float32(STD)
    return normalized


def state_of(model: Any) -> dict[str, Any]:
    """All of a model that a call could change."""
    flat = model._flatten_layers()
    return {
        "calls": ["call" in vars(layer) for layer in flat],
        "trainable": [layer.trainable for layer in flat],
        "nodes": [len(layer._inbound_nodes) for layer in flat],
        "values": [np.asarray(variable).tolist() for variable in model.variables],
        "attributes": [sorted(vars(layer)) for layer in flat],
    }


def test_layers_are_called_as_keras_calls_them() -> None:
    assert program(branched()).network.layers == (
        "normalize", "conv", "norm", "shared", "shared_1", "sum", "inner/conv", "inner/act",
        "inner", "pool", "drop", "embedding", "head", "logits", "output.pool",
    )  # fmt: skip


@pytest.mark.parametrize("side", [SIDE, None])
def test_same_as_calling_it(side: int | None) -> None:
    model = branched(side)
    found_layers = ["conv", "norm", "shared", "shared_1", "sum", "inner/conv", "inner", "embedding"]
    run = program(model)
    sizes = [(SIDE, SIDE)] if side else [(SIDE, SIDE), (21, 34)]
    for height, width in sizes:
        pixels = pixels_of(3, height, width)
        found = run.run(pixels, [*found_layers, "logits", "output.pool"])
        output = model(as_trained_on(pixels), training=False)
        x = model.get_layer("conv")(as_trained_on(pixels))
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
            assert_close(found[layer], np.asarray(tensor), ACTIVATION_TOLERANCE, layer)
            shape = run.shapes(height, width)[layer]
            assert shape == found[layer].shape[1:]


def test_a_subclassed_model() -> None:
    model = Subclassed(name="subclassed")
    with pytest.raises(UnsupportedError, match="no weights yet"):
        program(model)
    model(np.zeros((1, SIDE, SIDE, 3), np.float32))
    randomized(model)
    before = state_of(model)
    run = program(model, input_size=SIDE)
    assert run.network.layers == (
        "normalize", "one/conv", "one/norm", "one", "two/conv", "two/norm", "two", "head",
        "output.0", "output.1",
    )  # fmt: skip
    pixels = pixels_of(2, SIDE, 24)
    found = run.run(pixels, ["one/norm", "two", "output.0"])
    logits, maps = model(as_trained_on(pixels), training=False)
    assert_close(found["output.0"], np.asarray(logits), ACTIVATION_TOLERANCE, "output.0")
    assert_close(found["two"], np.asarray(maps), ACTIVATION_TOLERANCE, "two")
    assert found["one/norm"].shape == (2, 14, 22, 4)
    assert state_of(model) == before


def test_the_model_is_afterwards_what_it_was() -> None:
    model = branched(activity_regularizer="l2")
    before = state_of(model)
    run = program(model)
    assert state_of(model) == before
    run.run(pixels_of(2, SIDE, SIDE), ["logits", "shared"])
    run.shapes(SIDE, SIDE)
    assert state_of(model) == before
    # Nothing of a trace is left in what training would sum up.
    assert model.losses == []


@pytest.mark.parametrize("kind", [ArithmeticError, KeyboardInterrupt])
def test_so_it_is_after_an_error(kind: type[BaseException]) -> None:
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

        found = BACKEND.compile(BACKEND.value_and_grad(loss))(pixels)["gradient"]
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
        assert_close(found, expected, GRADIENT_TOLERANCE, layer)


@pytest.mark.parametrize("ending", ["softmax", "softmax layer", "activation layer", "linear"])
def test_logits_are_what_probabilities_are_made_of(ending: str) -> None:
    model = classifying("softmax" if ending == "softmax" else None)
    if ending.endswith("layer"):
        last = layers.Softmax() if ending == "softmax layer" else layers.Activation("softmax")
        model = keras.Model(model.inputs, last(model.outputs[0]))
    pixels = pixels_of(2, SIDE, SIDE)
    found = program(model).run(pixels, ["logits", "embedding", "output"])
    expected = np.asarray(model(as_trained_on(pixels)))
    assert_close(found["output"], expected, ACTIVATION_TOLERANCE, "output")
    kernel, bias = model.get_layer("head").get_weights() if ending in (
        "softmax", "linear"
    ) else [np.asarray(w) for w in model.weights[-2:]]  # fmt: skip
    logits = found["embedding"] @ kernel + bias
    assert_close(found["logits"], logits, ACTIVATION_TOLERANCE, "logits")


def test_models_that_look_at_the_size_of_what_they_take() -> None:
    class Rows(layers.Layer):
        def call(self, x: Any) -> Any:
            _, height, width, channels = x.shape
            return tf.reshape(x, (-1, height * width, channels))

        def compute_output_shape(self, shape: tuple[int, ...]) -> tuple[int | None, ...]:
            return (None, shape[1] * shape[2], shape[3])

    pixels = keras.Input((SIDE, SIDE, 3))
    found = program(keras.Model(pixels, Rows(name="rows")(pixels))).run(
        pixels_of(2, SIDE, SIDE), ["rows"]
    )
    assert found["rows"].shape == (2, SIDE * SIDE, 3)


def test_what_is_computed_in_a_function_of_its_own_is_no_layer() -> None:
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


def test_a_convolution_of_one_pixel_is_a_linear_layer() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(6, 3, name="conv")(pixels)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Flatten()(layers.Conv2D(4, 1)(x))
    run = program(keras.Model(pixels, layers.Softmax()(x)))
    found = run.run(pixels_of(2, SIDE, SIDE), ["pool", "embedding", "logits"])
    assert run.shapes(SIDE, SIDE)["embedding"] == (6,)
    np.testing.assert_array_equal(found["embedding"], found["pool"].reshape(2, 6))
    # Of more pixels it is not.
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(pixels))
    assert "embedding" not in program(keras.Model(pixels, x)).network.layers


def test_a_model_that_takes_bytes() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(pixels)
    model = keras.Model(pixels, layers.Conv2D(4, 3, name="conv")(x))
    given = pixels_of(2, SIDE, SIDE)
    fx = FeatureExtractor(model, layer="conv")
    assert fx.model().preprocessing.std == (1 / 255,) * 3
    assert fx.model().preprocessing.size == SIDE
    expected = np.asarray(model(given * 255))
    found = fx.extract(list(given))["conv"]
    assert_close(found, expected, ACTIVATION_TOLERANCE, "conv")


def test_a_size_that_the_model_does_not_take() -> None:
    run = program(branched())
    for size in ((20, 20), (16, 20)):
        message = rf"takes only 16 x 16 pictures, not {size[0]} x {size[1]}"
        with pytest.raises(ShapeError, match=message):
            run.run(pixels_of(1, *size), ["logits"])
    with pytest.raises(ShapeError, match="takes only 16 x 16 pictures, not 24 x 24"):
        FeatureExtractor(branched(), preprocessing=Preprocessing(24)).transform(noise(1))
    with pytest.raises(ShapeError, match=r"'branched' fails on pictures of 4 x 4"):
        program(branched(None), input_size=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: {}, "gives a dict"),
        (lambda x: tf.argmax(x, -1), r"and type <dtype: 'int64'>"),
        (lambda _: None, "gives a NoneType"),
    ],
)
def test_no_tensor(make: Any, message: str) -> None:
    class Giving(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layers.Conv2D(4, 3)

        def call(self, x: Any) -> Any:
            return make(self.conv(x))

    model = Giving()
    model.conv.build((None, SIDE, SIDE, 3))
    model.built = True
    with pytest.raises(UnsupportedError, match=message):
        program(model, input_size=SIDE)


def test_more_than_one_input() -> None:
    inputs = [keras.Input((SIDE, SIDE, 3)), keras.Input((4,))]
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs[0]))
    with pytest.raises(UnsupportedError, match="expected one input of shape"):
        program(model)


def test_keras_on_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UnsupportedError, match="KERAS_BACKEND=tensorflow before"):
        program(classifying())


# ---- estimators ---------------------------------------------------------------------------


def test_extractor() -> None:
    model = branched()
    assert backend_of(model) == "tensorflow"
    fx = FeatureExtractor(model, batch_size=2)
    assert fx.native is model
    assert fx.layers["inner/conv"] == (12, 12, 6)
    pictures = noise(5)
    features = fx.transform(pictures)
    assert features.shape == (5, 6)
    np.testing.assert_allclose(clone(fx).transform(pictures), features, rtol=1e-5)
    with pytest.raises(UnknownNameError, match="did you mean 'shared'"):
        fx.extract(pictures, ["sharde"])


def test_classifier(tmp_path: Path) -> None:
    model = classifying()
    numbers = [0, 1, 2] * 4
    classifier = Classifier(model).fit(colored(numbers), numbers)
    pictures = colored(numbers, seed=1)
    assert classifier.score(pictures, numbers) == 1.0
    with pytest.raises(UnsupportedError, match="a Sequential of your own"):
        classifier.save(tmp_path / "classifier.safetensors")
    expected = classifier.predict_proba(pictures)
    for other in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        np.testing.assert_allclose(other.predict_proba(pictures), expected, rtol=1e-5)
    other = clone(classifier).fit(colored(numbers), numbers)
    assert other.network is not model
    np.testing.assert_allclose(other.predict_proba(pictures), expected, rtol=1e-5)
