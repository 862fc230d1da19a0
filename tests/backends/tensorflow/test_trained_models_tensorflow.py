"""Training of a user's ``keras.Model``."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from samples import SIDE, colored

from transferkit import Classifier, FineTuning, Preprocessing
from transferkit.backends import get_backend
from transferkit.backends.base import WrappedModel
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import WRAPPED
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)

NUMBERS = [0, 1, 2] * 6
IMAGES = colored(NUMBERS, spread=120)
BACKEND = get_backend("tensorflow")


def model(dropout: float = 0.0) -> Any:
    images = keras.Input((SIDE, SIDE, 3))
    seeds = [keras.initializers.GlorotUniform(seed) for seed in range(3)]
    x = keras.layers.Conv2D(6, 3, strides=2, kernel_initializer=seeds[0], name="stem")(images)
    x = keras.layers.BatchNormalization(
        moving_mean_initializer=keras.initializers.Constant(0.1), name="norm"
    )(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, depthwise_initializer=seeds[1], name="depthwise")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout, seed=3)(x)
    x = keras.layers.Dense(4, kernel_initializer=seeds[2], name="fc")(x)
    return keras.Model(images, x)


@keras.saving.register_keras_serializable("transferkit_tests")
class Subclassed(keras.Model):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.stem = keras.layers.Conv2D(6, 3, name="stem")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")
        self.drop = keras.layers.Dropout(0.5)
        self.fc = keras.layers.Dense(4, name="fc")

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.norm(self.stem(x), training=training)
        x = keras.ops.mean(x, (1, 2)) * self.scale
        return self.fc(self.drop(x, training=training))


class Unregistered(Subclassed):
    pass


def subclassed(kind: type[Subclassed] = Subclassed) -> Any:
    network = kind()
    network(pixels())
    return network


def nested() -> Any:
    """Return a model with two inner models, whose layers have the same names, and softmax."""
    images = keras.Input((SIDE, SIDE, 3))
    x = images
    for name, channels in (("first", 3), ("second", 6)):
        inner = [keras.layers.Conv2D(6, 3, name="conv"), keras.layers.BatchNormalization(name="bn")]
        inputs = keras.layers.Input((None, None, channels))
        x = keras.Sequential([inputs, *inner], name=name)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(4, activation="softmax", name="fc")(x))


def attending() -> Any:
    """Return a model with layers inside a layer, which Keras names, and one that is used twice."""
    images = keras.Input((SIDE, SIDE, 3))
    shared = keras.layers.Conv2D(3, 3, strides=2, padding="same", name="shared")
    x = keras.layers.Reshape((-1, 3))(shared(shared(images)))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(images, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling1D()(x)))


def tuned(network: Any, **settings: Any) -> Classifier:
    fine_tuning = FineTuning(
        **{
            "epochs": 1,
            "learning_rate": 0.1,
            "batch_size": len(NUMBERS),
            "augmentation": (),
            "validation": None,
            "average_decay": None,
            "optimizer": "sgd",
            "warmup": 0.0,
            "schedule": "constant",
            "layer_decay": 1.0,
            "clip_norm": None,
            **settings,
        }
    )
    preprocessing = Preprocessing(SIDE)
    return Classifier(network, preprocessing=preprocessing, C=1.0, fine_tuning=fine_tuning).fit(
        IMAGES, NUMBERS
    )


def wrapped(network: Any) -> WrappedModel:
    return BACKEND.wrap(network, input_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)


def pixels() -> Any:
    return tf.constant(np.stack(IMAGES).astype(np.float32) / 255)


def differentiated(
    network: WrappedModel,
    layer: str = "logits",
    *,
    seed: int | None = None,
    update_batch_norm: bool = False,
    is_compiled: bool = True,
    factor: float = 1.0,
) -> dict[str, Any]:
    """Return the value, the gradient and the output of the squares of a layer's output."""
    node = network.network.resolve(layer)
    function = network.stateless([node], update_batch_norm=update_batch_norm)
    table = BACKEND.table
    parameters = {n: table.asarray(factor * a) for n, a in network.parameters().items()}
    statistics = {n: table.asarray(a) for n, a in network.statistics().items()}

    def value(trained: Any, x: Any, draws: Any) -> dict[str, Any]:
        outputs, updates = function({**statistics, **trained}, x, seed is not None, draws)
        return {"value": outputs[node] ** 2, "updates": updates, "output": outputs[node]}

    run = BACKEND.value_and_grad(value)
    run = BACKEND.compile_tensors(run) if is_compiled else run
    return run(parameters, pixels(), tf.fill([len(IMAGES)], float(seed or 0)))


@pytest.mark.parametrize("batch_norm", ["frozen", "update"])
def test_a_step_equals_that_of_the_framework(batch_norm: str) -> None:
    network = model()
    start = Classifier(network, preprocessing=Preprocessing(SIDE), C=1.0).fit(IMAGES, NUMBERS)
    weight, bias = (start.model_.weights[f"head.{name}"] for name in ("weight", "bias"))
    reference = keras.models.clone_model(network)
    reference.set_weights(network.get_weights())
    reference.get_layer("norm").trainable = batch_norm == "update"
    body = keras.Model(reference.inputs, reference.get_layer("fc").input)
    pixels = np.stack(IMAGES).astype(np.float32) / 255
    variables = [
        variable.value
        for variable in network.trainable_variables
        if not variable.path.startswith("fc")
    ]
    own = [v.value for v in reference.variables if not v.path.startswith("fc")]
    with tf.GradientTape() as tape:
        features = body(pixels, training=True)
        unit = features / tf.norm(features, axis=1, keepdims=True)
        logits = unit @ weight.T + bias
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(NUMBERS, logits)
        loss = tf.reduce_mean(losses)
    trained = [v for v in own if len(v.shape) > 0 and v.trainable]
    gradients = tape.gradient(loss, trained)
    for variable, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            variable.assign_sub(0.1 * gradient)
    result = tuned(network, batch_norm=batch_norm)
    assert result.history_ is not None
    np.testing.assert_allclose(result.history_.steps[0].loss, float(loss), rtol=1e-5)
    native: Any = result.to_native()
    layers = ["stem", "depthwise"] + (["norm"] if batch_norm == "update" else [])
    assert len(variables) == 6
    for layer in layers:
        for new, expected in zip(
            native.get_layer(layer).trainable_weights,
            reference.get_layer(layer).trainable_weights,
            strict=True,
        ):
            np.testing.assert_allclose(new, expected, rtol=1e-3, atol=1e-5, err_msg=layer)


def test_the_model_is_unchanged() -> None:
    network = model(dropout=0.5)
    before = [np.array(weights) for weights in network.get_weights()]
    result = tuned(network, epochs=2, batch_size=5, batch_norm="update")
    for weights, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, expected)
    native: Any = result.to_native()
    assert native is not network
    moved = native.get_layer("norm").moving_mean
    assert not np.array_equal(moved, network.get_layer("norm").moving_mean)
    assert "call" not in vars(network.get_layer("norm"))


def test_dropout_is_active_and_repeatable() -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 6}
    one, two, without = (
        np.array(tuned(model(rate), **settings).to_native().get_layer("stem").kernel)  # type: ignore[attr-defined]
        for rate in (0.5, 0.5, 0.0)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, without)


def test_only_the_chosen_parameters_are_trained() -> None:
    network = model()
    native: Any = tuned(network, trainable="depthwise").to_native()
    np.testing.assert_array_equal(native.get_layer("stem").kernel, network.get_layer("stem").kernel)
    kernel = network.get_layer("depthwise").kernel
    assert not np.array_equal(native.get_layer("depthwise").kernel, kernel)


def test_a_model_without_trainable_variables() -> None:
    network = model()
    network.trainable = False
    with pytest.raises(UnsupportedError, match="has no trainable variables"):
        tuned(network)


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("make", [model, subclassed, attending])
def test_gradients_equal_those_of_a_tape(make: Callable[[], Any], is_compiled: bool) -> None:
    network = wrapped(make())
    moved = {name: np.float32(1.1) * array for name, array in network.parameters().items()}
    other: Any = network.with_parameters(moved).model
    with tf.GradientTape() as tape:
        value = other(pixels(), training=False) ** 2
    expected = tape.gradient(value, [variable.value for variable in other.trainable_variables])
    result = differentiated(network, is_compiled=is_compiled, factor=1.1)
    assert_close(result["value"].numpy(), value.numpy(), ACTIVATION_TOLERANCE, "value")
    assert list(result["gradient"]) == list(network.parameters())
    for (name, found), slope in zip(result["gradient"].items(), expected, strict=True):
        assert_close(found.numpy(), slope.numpy(), GRADIENT_TOLERANCE, name)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_gradients_of_layers_inside_and_before_the_softmax(is_compiled: bool) -> None:
    own = nested()
    network = wrapped(own)
    fc = own.get_layer("fc")
    first, second = own.get_layer("first"), own.get_layer("second")
    for layer in ("first/conv", "second", "embedding", "logits"):
        result = differentiated(network, layer, is_compiled=is_compiled)
        with tf.GradientTape() as tape:
            conv = first.get_layer("conv")(pixels())
            maps = second(first(pixels(), training=False), training=False)
            embedding = tf.reduce_mean(maps, (1, 2))
            logits = embedding @ fc.kernel + fc.bias
            outputs = {"first/conv": conv, "second": maps, "embedding": embedding, "logits": logits}
            value = outputs[layer] ** 2
        assert_close(result["output"].numpy(), outputs[layer].numpy(), ACTIVATION_TOLERANCE, layer)
        variables = [variable.value for variable in own.trainable_variables]
        for (name, found), slope in zip(
            result["gradient"].items(), tape.gradient(value, variables), strict=True
        ):
            expected = np.zeros(found.shape, np.float32) if slope is None else slope.numpy()
            assert_close(found.numpy(), expected, GRADIENT_TOLERANCE, name)


@pytest.mark.parametrize("make", [model, subclassed, nested, attending])
def test_a_copy_has_the_same_layers_and_names(make: Callable[[], Any]) -> None:
    own = make()
    network = wrapped(own)
    state = random.getstate()
    other = network.with_parameters(
        {
            name: array + 1
            for name, array in {**network.parameters(), **network.statistics()}.items()
        }
    )
    assert random.getstate() == state
    for old, new in (
        (network.parameters(), other.parameters()),
        (network.statistics(), other.statistics()),
    ):
        assert list(old) == list(new)
        for name, array in old.items():
            np.testing.assert_array_equal(new[name], array + 1)
    assert other.network is network.network
    wrapped_nodes = [node.name for node in network.network.nodes if node.operation == WRAPPED]
    function = BACKEND.compile(other.load(wrapped_nodes))
    assert set(function(pixels().numpy())) == set(wrapped_nodes)
    # A pickled model has the names too.
    again = pickle.loads(pickle.dumps(other))
    assert list(again.parameters()) == list(other.parameters())


def test_names_of_parameters_begin_with_their_layer() -> None:
    names = list(wrapped(nested()).parameters())
    layers = ("first/conv", "first/bn", "second/conv", "second/bn", "fc")
    assert [name.rpartition("/")[0] for name in names[::2]] == list(layers)
    result = tuned(nested(), trainable="second/conv")
    native: Any = result.to_native()
    assert [layer.name for layer in native.get_layer("second").layers] == ["conv", "bn"]
    assert "scale" in wrapped(subclassed()).parameters()


@pytest.mark.parametrize("make", [model, subclassed, nested])
def test_statistics_equal_those_of_the_framework(make: Callable[[], Any]) -> None:
    own = make()
    network = wrapped(own)
    before = network.statistics()
    updates = differentiated(network, seed=0, update_batch_norm=True)["updates"]
    for name, array in network.statistics().items():
        np.testing.assert_array_equal(array, before[name])
    own(pixels(), training=True)
    expected = network.statistics()
    assert updates.keys() == expected.keys()
    for name, array in expected.items():
        assert not np.array_equal(array, before[name])
        np.testing.assert_allclose(updates[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def test_batch_norms_are_frozen_unless_they_are_updated() -> None:
    network = wrapped(nested())
    result = differentiated(network, seed=0)
    np.testing.assert_array_equal(result["output"], differentiated(network)["output"])
    assert not result["updates"]


@pytest.mark.parametrize("make", [lambda: model(dropout=0.5), subclassed])
def test_dropout_depends_on_the_seed_and_on_nothing_else(make: Callable[[], Any]) -> None:
    own = make()
    network = wrapped(own)
    states = [variable for variable in own.non_trainable_variables if "seed" in variable.path]
    before = [variable.numpy() for variable in states]
    assert before
    one = differentiated(network, seed=1)["output"]
    for variable, array in zip(states, before, strict=True):
        np.testing.assert_array_equal(variable, array)
        variable.assign(variable + 1)
    tf.random.normal([3])
    np.testing.assert_array_equal(differentiated(network, seed=1)["output"], one)
    assert not np.array_equal(differentiated(network, seed=2)["output"], one)
    output = own(pixels(), training=False)
    assert not np.array_equal(output, one)
    np.testing.assert_array_equal(differentiated(network)["output"], output)


def test_mixed_precision_has_float32_parameters_and_gradients() -> None:
    images = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(6, 3, dtype="mixed_float16")(images)
    x = keras.layers.GlobalAveragePooling2D(dtype="mixed_float16")(x)
    network = wrapped(keras.Model(images, keras.layers.Dense(4, dtype="mixed_float16")(x)))
    result = differentiated(network)
    assert result["output"].dtype == tf.float32
    assert all(slope.dtype == tf.float32 for slope in result["gradient"].values())


def test_a_model_that_cannot_be_copied_is_rejected_before_training() -> None:
    with pytest.raises(UnsupportedError, match="register_keras_serializable"):
        wrapped(subclassed(Unregistered)).stateless([])


def test_the_head_of_a_frozen_model_is_trained() -> None:
    network = model()
    network.trainable = False
    result = tuned(network, trainable="head", epochs=3)
    assert result.to_native() is network
    assert result.history_ is not None
    assert result.history_.epochs[-1].loss < result.history_.epochs[0].loss
