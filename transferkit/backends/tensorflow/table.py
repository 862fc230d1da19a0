"""TensorFlow's table of primitives."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from transferkit.backends.base import Table
from transferkit.networks.graph import Padding

__all__ = ["TensorFlowTable"]

_ALIGNMENT = 64
# In bytes; for smaller arrays the way through DLPack costs more than it saves.
_LARGE = 1 << 20


class TensorFlowTable(Table[Any]):
    """The primitives over TensorFlow's tensors, in its own layout, N x H x W x C.

    Parameters
    ----------
    dtype
        The number type of the tensors.
    on_cpu
        Whether tensors are for the processor, and large ones best made in its memory.
    """

    shares_memory: ClassVar[bool] = False

    def __init__(self, dtype: Any = tf.float32, *, on_cpu: bool = False) -> None:
        self.dtype = dtype
        self.on_cpu = on_cpu

    def asarray(self, array: npt.ArrayLike) -> Any:
        array = np.asarray(array, self.dtype.as_numpy_dtype)
        if not self.on_cpu or array.nbytes < _LARGE:
            return tf.convert_to_tensor(array)
        # TensorFlow makes two copies of an array, and keeps one until it is called again.
        return tf.experimental.dlpack.from_dlpack(_aligned_copy(array).__dlpack__())

    def to_numpy(self, tensor: Any) -> npt.NDArray[Any]:
        # What has no axes comes as a NumPy scalar.
        return np.asarray(tensor.numpy())

    def kernel(self, array: npt.ArrayLike, groups: int) -> Any:
        array = np.asarray(array)
        channels_out, per_group = array.shape[:2]
        if groups > 1 and per_group == 1:
            # TensorFlow has depthwise convolution apart: (h, w, groups, out per group).
            kernel = array.reshape(groups, channels_out // groups, *array.shape[2:])
            return self.asarray(kernel.transpose(2, 3, 0, 1))
        return self.asarray(array.transpose(2, 3, 1, 0))

    def conv2d(
        self,
        x: Any,
        kernel: Any,
        bias: Any = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Any:
        is_depthwise = groups > 1 and x.shape[3] == groups
        if is_depthwise and stride[0] == stride[1]:
            y = self._depthwise_conv2d(x, kernel, stride, padding)
        elif groups == 1:
            explicit = [[0, 0], *map(list, padding), [0, 0]]
            y = tf.nn.conv2d(x, kernel, list(stride), explicit)
        else:
            y = self._grouped_conv2d(x, kernel, is_depthwise, stride, padding, groups)
        return y if bias is None else tf.nn.bias_add(y, bias)

    def _depthwise_conv2d(
        self, x: Any, kernel: Any, stride: tuple[int, int], padding: Padding
    ) -> Any:
        # TensorFlow 2.21 ends the process when it optimises a graph in which a bias follows a
        # depthwise convolution with explicit padding, so the padding is said in other words.
        margins = tuple((length - 1) // 2 for length in kernel.shape[:2])
        keeps_size = all(length % 2 for length in kernel.shape[:2]) and stride == (1, 1)
        if keeps_size and padding == tuple((margin, margin) for margin in margins):
            return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
        x = self.pad(x, padding=padding)
        return tf.nn.depthwise_conv2d(x, kernel, [1, *stride, 1], "VALID")

    def _grouped_conv2d(
        self,
        x: Any,
        kernel: Any,
        is_depthwise: bool,
        stride: tuple[int, int],
        padding: Padding,
        groups: int,
    ) -> Any:
        """Group by group: TensorFlow has no gradient of grouped convolution on a processor."""
        kernels = tf.split(kernel, groups, axis=2 if is_depthwise else 3)
        parts = [
            self.conv2d(part, kernel, stride=stride, padding=padding)
            for part, kernel in zip(tf.split(x, groups, axis=3), kernels, strict=True)
        ]
        return tf.concat(parts, 3)

    def batch_norm(
        self, x: Any, scale: Any, shift: Any, mean: Any, variance: Any, *, epsilon: float
    ) -> Any:
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, epsilon)

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return tf.nn.bias_add(tf.matmul(x, weight, transpose_b=True), bias)

    def matmul(self, x: Any, y: Any) -> Any:
        return tf.matmul(x, y)

    def max_pool2d(
        self, x: Any, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Any:
        x = self.pad(x, padding=padding, value=x.dtype.min)
        return tf.nn.max_pool2d(x, list(size), list(stride), "VALID")

    def average_pool2d(self, x: Any, *, size: tuple[int, int], stride: tuple[int, int]) -> Any:
        return tf.nn.avg_pool2d(x, list(size), list(stride), "VALID")

    def adaptive_average_pool2d(self, x: Any, *, height: int, width: int) -> Any:
        # A product with a matrix of means along each side, whose lengths may be known only
        # when the function runs.
        n, h, w, c = tf.unstack(tf.shape(x))
        rows = tf.reshape(x, [n, h, w * c])
        y = tf.reshape(tf.matmul(self._means(h, height), rows), [n, height, w, c])
        return tf.matmul(self._means(w, width), y)

    def _means(self, length: Any, parts: int) -> Any:
        """The matrix (parts, length) that averages the windows of an axis."""
        index = tf.range(parts)[:, None]
        start = index * length // parts
        end = -(-(index + 1) * length // parts)
        position = tf.range(length)[None]
        inside = (start <= position) & (position < end)
        return tf.cast(inside, self.dtype) / tf.cast(end - start, self.dtype)

    def relu(self, x: Any) -> Any:
        return tf.nn.relu(x)

    def clip(self, x: Any, *, low: float, high: float) -> Any:
        # relu6 is one kernel, and is fused with the convolution before it; clipping is not.
        if (low, high) == (0, 6):
            return tf.nn.relu6(x)
        # TensorFlow's own derivative of clipping is 1 at the bounds.
        clipped = tf.stop_gradient(tf.clip_by_value(x, low, high))
        return tf.where((low < x) & (x < high), x, clipped)

    def sigmoid(self, x: Any) -> Any:
        return tf.sigmoid(x)

    def tanh(self, x: Any) -> Any:
        return tf.tanh(x)

    def exp(self, x: Any) -> Any:
        return tf.exp(x)

    def log(self, x: Any) -> Any:
        return tf.math.log(x)

    def sqrt(self, x: Any) -> Any:
        return tf.sqrt(x)

    def absolute(self, x: Any) -> Any:
        return tf.abs(x)

    def sign(self, x: Any) -> Any:
        return tf.sign(x)

    def softmax(self, x: Any) -> Any:
        return tf.nn.softmax(x)

    def log_softmax(self, x: Any) -> Any:
        return tf.nn.log_softmax(x)

    def add(self, x: Any, y: Any) -> Any:
        return tf.add(x, y)

    def subtract(self, x: Any, y: Any) -> Any:
        return tf.subtract(x, y)

    def multiply(self, x: Any, y: Any) -> Any:
        return tf.multiply(x, y)

    def divide(self, x: Any, y: Any) -> Any:
        return tf.divide(x, y)

    def concat(self, *tensors: Any, axis: int) -> Any:
        return tf.concat(tensors, axis)

    def flatten(self, x: Any, *, channels_first: bool = False) -> Any:
        x = tf.transpose(x, [0, 3, 1, 2]) if channels_first else x
        shape = tf.shape(x)
        return tf.reshape(x, [shape[0], tf.reduce_prod(shape[1:])])

    def reverse_channels(self, x: Any) -> Any:
        return tf.reverse(x, [-1])

    def sum(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return tf.reduce_sum(x, axes, keepdims)

    def mean(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return tf.reduce_mean(x, axes, keepdims)

    def max(self, x: Any, *, axes: tuple[int, ...], keepdims: bool = False) -> Any:
        return tf.reduce_max(x, axes, keepdims)

    def pad(self, x: Any, *, padding: Padding, value: float = 0.0) -> Any:
        if not any(map(any, padding)):
            return x
        return tf.pad(x, [[0, 0], *map(list, padding), [0, 0]], constant_values=value)

    def crop(self, x: Any, *, top: int, left: int, height: int, width: int) -> Any:
        return x[:, top : top + height, left : left + width, :]

    def resize(self, x: Any, *, height: int, width: int) -> Any:
        return tf.image.resize(x, [height, width])

    def slice(self, x: Any, *, axis: int, start: int, stop: int | None) -> Any:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def transpose(self, x: Any, *, axes: tuple[int, ...]) -> Any:
        return tf.transpose(x, axes)

    def sample(self, x: Any, positions: Any) -> Any:
        size = tf.shape(x)[1:3]
        last = tf.cast(size - 1, x.dtype)
        inside = tf.clip_by_value(tf.stop_gradient(positions), tf.zeros_like(last), last)
        before = tf.floor(inside)
        row, column = tf.unstack(inside - before, axis=-1)
        top, left = tf.unstack(tf.cast(before, tf.int32), axis=-1)
        bottom, right = tf.minimum(top + 1, size[0] - 1), tf.minimum(left + 1, size[1] - 1)
        # Pixels first, so that what is gathered, and scattered backwards, are whole rows.
        n, c = tf.shape(x)[0], tf.shape(x)[3]
        pixels = tf.reshape(tf.transpose(x, [1, 2, 0, 3]), [size[0] * size[1], n * c])
        parts = [
            tf.gather(pixels, y * size[1] + x_) * tf.expand_dims(weight, -1)
            for y, x_, weight in (
                (top, left, (1 - row) * (1 - column)),
                (top, right, (1 - row) * column),
                (bottom, left, row * (1 - column)),
                (bottom, right, row * column),
            )
        ]
        shape = tf.concat([tf.shape(positions)[:2], [n, c]], 0)
        y = tf.transpose(tf.reshape(tf.add_n(parts), shape), [2, 0, 1, 3])
        return tf.ensure_shape(y, [x.shape[0], *positions.shape[:2], x.shape[3]])


def _aligned_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of ``array``, in row-major order, at an address that TensorFlow works on."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
