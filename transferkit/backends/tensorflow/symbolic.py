"""TensorFlow's table of primitives over Keras's symbolic tensors."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from transferkit.backends.adaptive_pooling import adaptive_windows
from transferkit.backends.tensorflow.table import TensorFlowTable, is_same_padding
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import Padding

__all__ = ["SizeRequiredError", "SymbolicTable"]


class SizeRequiredError(Exception):
    """A primitive needs a height, width or number of channels that is not known."""


class SymbolicTable(TensorFlowTable):
    """The primitives over Keras's symbolic tensors, recorded for a ``keras.Model``.

    Keras does not let functions of TensorFlow take symbolic tensors, so these are replaced by
    Keras's own functions. Primitives with weights become layers. Constants and weights are
    NumPy arrays; the first argument of a primitive is always a symbolic tensor.
    """

    shares_memory: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        # By the id of the array; the array is kept so that its id is not reused.
        self._layer_names: dict[int, tuple[npt.NDArray[Any], str]] = {}
        self._layers: set[str] = set()

    def name_layer(self, weights: npt.NDArray[Any], name: str) -> None:
        """Name the layer whose first weights are ``weights``; Keras names other layers."""
        self._layer_names[id(weights)] = (weights, name)

    def _layer_name(self, weights: npt.NDArray[Any]) -> str | None:
        return self._layer_names.get(id(weights), (weights, None))[1]

    def asarray(self, array: npt.ArrayLike) -> Any:
        array = np.asarray(array, np.float32)
        # Keras cannot save arrays without axes. A view is a new object with a new id.
        return array.view() if array.ndim else float(array)

    def _convolve(
        self,
        x: Any,
        kernel: npt.NDArray[Any],
        bias: npt.NDArray[Any] | None,
        stride: tuple[int, int],
        padding: Padding,
        is_depthwise: bool,
    ) -> Any:
        is_same = is_same_padding(kernel, stride, padding)
        *size, _, out_channels = kernel.shape
        settings: dict[str, Any] = {
            "kernel_size": size,
            "strides": stride,
            "padding": "same" if is_same else "valid",
            "data_format": "channels_last",
            "use_bias": bias is not None,
            "name": self._layer_name(kernel),
        }
        # Layers are initialized with zeros, so that no random numbers are generated.
        layer = (
            layers.DepthwiseConv2D(
                depth_multiplier=out_channels, depthwise_initializer="zeros", **settings
            )
            if is_depthwise
            else layers.Conv2D(out_channels, kernel_initializer="zeros", **settings)
        )
        x = x if is_same else self.pad(x, padding=padding)
        return self._call(layer, x, [kernel] if bias is None else [kernel, bias])

    def _split(self, x: Any, parts: int, axis: int) -> Any:
        if not isinstance(x, np.ndarray):
            return ops.split(x, parts, axis)
        arrays = np.split(x, parts, axis)
        name = self._layer_name(x)
        if name is not None:
            for group, array in enumerate(arrays):
                self.name_layer(array, f"{name}.group{group}")
        return arrays

    def batch_norm(
        self,
        x: Any,
        scale: npt.NDArray[Any],
        shift: npt.NDArray[Any],
        mean: npt.NDArray[Any],
        variance: npt.NDArray[Any],
        *,
        epsilon: float,
    ) -> Any:
        # Keras's momentum is the weight of the old value: 0.9 is PyTorch's default, 0.1.
        layer = layers.BatchNormalization(
            epsilon=epsilon, momentum=0.9, name=self._layer_name(scale)
        )
        return self._call(layer, x, [scale, shift, mean, variance])

    def linear(self, x: Any, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> Any:
        layer = layers.Dense(len(bias), kernel_initializer="zeros", name=self._layer_name(weight))
        return self._call(layer, x, [weight.T, bias])

    def _call(self, layer: Any, x: Any, arrays: list[npt.NDArray[Any]]) -> Any:
        if layer.name in self._layers:
            raise UnsupportedError(
                f"two layers share the weights of {layer.name!r}; conversion to a keras.Model "
                "does not support shared weights; backend 'torch' does"
            )
        self._layers.add(layer.name)
        y = layer(x)
        layer.set_weights(arrays)
        return y

    def max_pool2d(
        self, x: Any, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Any:
        x = self.pad(x, padding=padding, value=float(self.dtype.min))
        return layers.MaxPooling2D(size, stride, "valid", data_format="channels_last")(x)

    def average_pool2d(self, x: Any, *, size: tuple[int, int], stride: tuple[int, int]) -> Any:
        return layers.AveragePooling2D(size, stride, "valid", data_format="channels_last")(x)

    def adaptive_average_pool2d(self, x: Any, *, height: int, width: int) -> Any:
        _, h, w, _ = _known_shape(x)
        rows, columns = self._window_means(h, height), self._window_means(w, width)
        return ops.einsum("ih,nhwc,jw->nijc", rows, x, columns)

    def _window_means(self, length: int, parts: int) -> Any:
        index, position = np.arange(parts)[:, None], np.arange(length)
        inside, size = adaptive_windows(length, parts, index, position)
        return self.asarray(inside / size)

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

    def sign(self, x: Any) -> Any:
        return ops.sign(x)

    def softmax(self, x: Any) -> Any:
        return ops.softmax(x, axis=-1)

    def log_softmax(self, x: Any) -> Any:
        return ops.log_softmax(x, axis=-1)

    def concat(self, *tensors: Any, axis: int) -> Any:
        return ops.concatenate(list(tensors), axis=axis)

    def flatten(self, x: Any, *, channels_first: bool = False) -> Any:
        length = math.prod(_known_shape(x)[1:])
        x = self.transpose(x, axes=(0, 3, 1, 2)) if channels_first else x
        return layers.Reshape((length,))(x)

    def reverse_channels(self, x: Any) -> Any:
        return ops.flip(x, axis=-1)

    def sum(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.sum(x, axis=axes, keepdims=keepdims)

    def mean(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.mean(x, axis=axes, keepdims=keepdims)

    def max(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return ops.max(x, axis=axes, keepdims=keepdims)

    def _pad(self, x: Any, padding: Padding, value: float) -> Any:
        return ops.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)

    def resize(self, x: Any, *, height: int, width: int) -> Any:
        return ops.image.resize(
            x,
            (height, width),
            interpolation="bilinear",
            antialias=False,
            data_format="channels_last",
        )

    def transpose(self, x: Any, *, axes: tuple[int, ...]) -> Any:
        return ops.transpose(x, axes)

    def sample(self, x: Any, positions: Any) -> Any:
        raise UnsupportedError(
            "conversion to a keras.Model does not support 'sample'; backend 'torch' does"
        )


def _known_shape(x: keras.KerasTensor) -> tuple[int, ...]:
    """Return the shape of ``x``; only the size of the batch may be unknown.

    Raises
    ------
    SizeRequiredError
        If another size is unknown.
    """
    if None in x.shape[1:]:
        raise SizeRequiredError
    return tuple(x.shape)
