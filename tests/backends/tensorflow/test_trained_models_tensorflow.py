"""Training of a user's ``keras.Model``."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from samples import SIDE, colored

from transferkit import Classifier, FineTuning, Preprocessing
from transferkit.errors import UnsupportedError

NUMBERS = [0, 1, 2] * 6
IMAGES = colored(NUMBERS, spread=120)


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


def tuned(network: Any, **settings: Any) -> Classifier:
    fine_tuning = FineTuning(
        **{
            "epochs": 1,
            "learning_rate": 0.1,
            "batch_size": len(NUMBERS),
            "augmentation": (),
            "validation": None,
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
