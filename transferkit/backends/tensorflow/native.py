"""Conversion of a network to a ``keras.Model``."""

from __future__ import annotations

import re
from typing import Any

import keras

from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.tensorflow.symbolic import SizeRequiredError, SymbolicTable
from transferkit.backends.tensorflow.wrap import check_keras
from transferkit.networks.graph import Network, Weights
from transferkit.networks.passes import keep_needed

__all__ = ["keras_model"]


def keras_model(network: Network, weights: Weights) -> Any:
    """Return a network, from pixels to logits, as a functional model of Keras's own layers.

    Convolutions, batch norms and dense layers are named after their parameters. The model can
    be trained with ``compile`` and ``fit``, and saved and loaded with Keras alone. It has no
    dropout, since networks have none.

    Parameters
    ----------
    network, weights
        What to convert; the weights are copied.

    Returns
    -------
    keras.Model
        From pixels (n, h, w, 3), RGB, in [0, 1], to logits (n, classes). The height and width
        are free unless an operation needs to know them; then they are the network's input size.

    Raises
    ------
    UnsupportedError
        If two layers share weights, the network has an operation that Keras's layers cannot
        compute, or Keras does not use TensorFlow.
    """
    check_keras()
    network = keep_needed(network, ["logits"])
    try:
        return _build(network, weights, None)
    except SizeRequiredError:
        return _build(network, weights, network.input_size)


def _build(network: Network, weights: Weights, side: int | None) -> Any:
    pixels = keras.Input((side, side, 3), name="pixels")
    table = SymbolicTable()
    parameters = load_parameters(table, network, weights)
    for name, array in parameters.items():
        table.name_layer(array, _keras_name(name.rpartition(".")[0] or name))
    target = network.resolve("logits")
    outputs = run_network(table, network, parameters, pixels, [target])
    return keras.Model(pixels, outputs[target], name=_keras_name(network.name))


def _keras_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
