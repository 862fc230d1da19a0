"""A network as a ``keras.Model``, to go on with in Keras."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from transferkit.backends.base import Table
from transferkit.backends.interpreter import run_network
from transferkit.backends.tensorflow.wrap import check_keras
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import Network, Padding, Weights
from transferkit.networks.passes import keep_needed

__all__ = ["keras_model"]


def keras_model(network: Network, weights: Weights) -> Any:
    """A network from pixels to logits as a functional model of Keras's own layers.

    Convolutions, batch norms and dense layers have the names of their parameters. It trains
    under ``compile`` and ``fit`` and is written and read by Keras's own means. Networks have
    no dropout, and so neither has this.

    Parameters
    ----------
    network, weights
        What to compute; the weights are copied.

    Returns
    -------
    keras.Model
        From pixels (n, h, w, 3), RGB, in [0, 1], of any size where the network can be stated so
        and else of its input size, to logits (n, classes).

    Raises
    ------
    UnsupportedError
        If two layers share weights; if Keras does not compute with TensorFlow.
    """
    check_keras()
    network = keep_needed(network, ["logits"])
    try:
        return _build(network, weights, None)
    except _SizeNeededError:
        return _build(network, weights, network.input_size)


class _SizeNeededError(Exception):
    """A layer has to know how large the pictures are."""


class _Parameter(NamedTuple):
    """An array of weights, and what it is called."""

    name: str
    array: npt.NDArray[Any]


def _build(network: Network, weights: Weights, side: int | None) -> Any:
    pixels = keras.Input((side, side, 3), name="pixels")
    table = _KerasTable()
    parameters = {name: _Parameter(name, np.asarray(weights[name])) for name in network.parameters}
    target = network.resolve("logits")
    found: Mapping[str, Any] = run_network(table, network, parameters, pixels, [target])
    model = keras.Model(pixels, found[target], name=_keras_name(network.name))
    # Only now, since Keras keeps a graph of what is called.
    for layer, arrays in table.layers.values():
        layer.set_weights(arrays)
    return model


def _keras_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


class _KerasTable(Table[Any]):
    """The primitives over Keras's symbolic tensors, whose parameters are `_Parameter`.

    Attributes
    ----------
    layers
        Name to each layer that was made, and its weights.
    """

    def __init__(self) -> None:
        self.layers: dict[str, tuple[Any, list[npt.NDArray[Any]]]] = {}

    def asarray(self, array: npt.ArrayLike) -> Any:
        array = np.asarray(array, np.float32)
        return array if array.ndim else float(array)

    def to_numpy(self, tensor: Any) -> npt.NDArray[Any]:
        return np.asarray(tensor)

    def kernel(self, array: npt.ArrayLike, groups: int) -> Any:
        return self.asarray(array)

    def conv2d(
        self,
        x: Any,
        kernel: _Parameter,
        bias: _Parameter | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Any:
        array = kernel.array
        channels_out, per_group, *size = array.shape
        name = _layer_name(kernel.name)
        keeps_size = stride == (1, 1) and all(length % 2 for length in size)
        is_same = keeps_size and padding == tuple(((n - 1) // 2,) * 2 for n in size)
        if not is_same:
            x = self.pad(x, padding=padding)
        settings: dict[str, Any] = {
            "strides": stride,
            "padding": "same" if is_same else "valid",
            "data_format": "channels_last",
        }
        if groups > 1 and per_group == 1 and stride[0] == stride[1]:
            depthwise = array.reshape(groups, channels_out // groups, *size)
            layer = layers.DepthwiseConv2D(
                size,
                depth_multiplier=channels_out // groups,
                use_bias=bias is not None,
                depthwise_initializer="zeros",
                name=name,
                **settings,
            )
            arrays = [depthwise.transpose(2, 3, 0, 1)]
            return self._call(layer, x, arrays + ([] if bias is None else [bias.array]))
        # TensorFlow has no gradient of grouped convolution on a processor: group by group.
        parts = []
        step = channels_out // groups
        for group in range(groups):
            rows = slice(group * step, (group + 1) * step)
            layer = layers.Conv2D(
                step,
                size,
                use_bias=bias is not None,
                kernel_initializer="zeros",
                name=name if groups == 1 else f"{name}.group{group}",
                **settings,
            )
            part = x if groups == 1 else x[..., group * per_group : (group + 1) * per_group]
            arrays = [array[rows].transpose(2, 3, 1, 0)]
            arrays += [] if bias is None else [bias.array[rows]]
            parts.append(self._call(layer, part, arrays))
        return parts[0] if groups == 1 else self.concat(*parts, axis=3)

    def batch_norm(
        self,
        x: Any,
        scale: _Parameter,
        shift: _Parameter,
        mean: _Parameter,
        variance: _Parameter,
        *,
        epsilon: float,
    ) -> Any:
        # Keras's momentum is what is kept, 0.9 what PyTorch keeps.
        layer = layers.BatchNormalization(
            epsilon=epsilon, momentum=0.9, name=_layer_name(scale.name)
        )
        return self._call(layer, x, [p.array for p in (scale, shift, mean, variance)])

    def linear(self, x: Any, weight: _Parameter, bias: _Parameter) -> Any:
        layer = layers.Dense(
            len(bias.array), kernel_initializer="zeros", name=_layer_name(weight.name)
        )
        return self._call(layer, x, [weight.array.T, bias.array])

    def _call(self, layer: Any, x: Any, arrays: list[npt.NDArray[Any]]) -> Any:
        if layer.name in self.layers:
            raise UnsupportedError(
                f"two layers share the weights {layer.name!r}, which a keras.Model made here "
                "cannot do; backend 'torch' can"
            )
        self.layers[layer.name] = (layer, arrays)
        return layer(x)

    def matmul(self, x: Any, y: Any) -> Any:
        return ops.matmul(_value(x), _value(y))

    def max_pool2d(
        self, x: Any, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Any:
        x = self.pad(x, padding=padding, value=float(np.finfo(np.float32).min))
        return layers.MaxPooling2D(size, stride, "valid", data_format="channels_last")(x)

    def average_pool2d(self, x: Any, *, size: tuple[int, int], stride: tuple[int, int]) -> Any:
        return layers.AveragePooling2D(size, stride, "valid", data_format="channels_last")(x)

    def adaptive_average_pool2d(self, x: Any, *, height: int, width: int) -> Any:
        _, h, w, _ = _known(x)
        if (h, w) == (height, width):
            return x
        rows, columns = _means(h, height), _means(w, width)
        return ops.einsum("ih,nhwc,jw->nijc", rows, x, columns)

    def relu(self, x: Any) -> Any:
        return layers.ReLU()(x)

    def clip(self, x: Any, *, low: float, high: float) -> Any:
        return layers.ReLU(max_value=high)(x) if low == 0 else ops.clip(x, low, high)

    def sigmoid(self, x: Any) -> Any:
        return ops.sigmoid(x)

    def tanh(self, x: Any) -> Any:
        return ops.tanh(x)

    def exp(self, x: Any) -> Any:
        return ops.exp(x)

    def log(self, x: Any) -> Any:
        return ops.log(x)

    def sqrt(self, x: Any) -> Any:
        return ops.sqrt(x)

    def absolute(self, x: Any) -> Any:
        return ops.absolute(x)

    def sign(self, x: Any) -> Any:
        return ops.sign(x)

    def softmax(self, x: Any) -> Any:
        return ops.softmax(x, axis=-1)

    def log_softmax(self, x: Any) -> Any:
        return ops.log_softmax(x, axis=-1)

    def add(self, x: Any, y: Any) -> Any:
        return ops.add(_value(x), _value(y))

    def subtract(self, x: Any, y: Any) -> Any:
        return ops.subtract(_value(x), _value(y))

    def multiply(self, x: Any, y: Any) -> Any:
        return ops.multiply(_value(x), _value(y))

    def divide(self, x: Any, y: Any) -> Any:
        return ops.divide(_value(x), _value(y))

    def concat(self, *tensors: Any, axis: int) -> Any:
        return ops.concatenate(list(tensors), axis=axis)

    def flatten(self, x: Any, *, channels_first: bool = False) -> Any:
        length = math.prod(_known(x)[1:])
        x = ops.transpose(x, (0, 3, 1, 2)) if channels_first else x
        return layers.Reshape((length,))(x)

    def reverse_channels(self, x: Any) -> Any:
        return ops.flip(x, axis=-1)

    def sum(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.sum(x, axis=axes, keepdims=keepdims)

    def mean(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.mean(x, axis=axes, keepdims=keepdims)

    def max(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.max(x, axis=axes, keepdims=keepdims)

    def pad(self, x: Any, *, padding: Padding, value: float = 0.0) -> Any:
        if not any(map(any, padding)):
            return x
        if value == 0:
            return layers.ZeroPadding2D(padding, data_format="channels_last")(x)
        return ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)

    def crop(self, x: Any, *, top: int, left: int, height: int, width: int) -> Any:
        return x[:, top : top + height, left : left + width, :]

    def resize(self, x: Any, *, height: int, width: int) -> Any:
        return ops.image.resize(
            x,
            (height, width),
            interpolation="bilinear",
            antialias=False,
            data_format="channels_last",
        )

    def slice(self, x: Any, *, axis: int, start: int, stop: int | None) -> Any:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def transpose(self, x: Any, *, axes: tuple[int, ...]) -> Any:
        return ops.transpose(x, axes)

    def sample(self, x: Any, positions: Any) -> Any:
        raise UnsupportedError(
            "a keras.Model made here cannot sample a picture at positions that it is given; "
            "backend 'torch' can"
        )

    def normalize(self, x: Any, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
        variance = [value**2 for value in std]
        return layers.Normalization(axis=-1, mean=list(mean), variance=variance)(x)


def _layer_name(parameter: str) -> str:
    """What the layer is called that has a parameter of this name."""
    return _keras_name(parameter.rpartition(".")[0] or parameter)


def _value(x: Any) -> Any:
    return x.array if isinstance(x, _Parameter) else x


def _known(x: Any) -> tuple[int, ...]:
    """The shape of ``x``, whose sides have to be known."""
    if None in x.shape[1:]:
        raise _SizeNeededError
    return tuple(x.shape)


def _means(length: int, parts: int) -> npt.NDArray[np.float32]:
    """The matrix (parts, length) that averages the windows of an axis."""
    index = np.arange(parts)[:, None]
    start, end = index * length // parts, -(-(index + 1) * length // parts)
    position = np.arange(length)[None]
    inside = (start <= position) & (position < end)
    return (inside / (end - start)).astype(np.float32)
