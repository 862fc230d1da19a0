"""TensorFlow's table of primitives."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from transferkit.backends.adaptive_pooling import adaptive_windows
from transferkit.backends.base import Table
from transferkit.backends.forks import forked_process_error, was_started_before_fork
from transferkit.networks.graph import Padding

__all__ = ["TensorFlowTable", "check_not_forked", "is_same_padding"]

_ALIGNMENT = 64
# For smaller arrays, DLPack costs more time than it saves.
_DLPACK_MIN_BYTES = 1 << 20


class TensorFlowTable(Table[Any]):
    """The primitives over TensorFlow's tensors, in its own layout, N x H x W x C.

    Primitives that are written with operators and indexing alone also work on Keras's symbolic
    tensors; `SymbolicTable` replaces the others.

    Parameters
    ----------
    dtype
        The dtype of the tensors.
    on_cpu
        Whether tensors are for the CPU, so that large ones can be made without a second copy.
    """

    shares_memory: ClassVar[bool] = False

    def __init__(self, dtype: Any = tf.float32, *, on_cpu: bool = False) -> None:
        self.dtype = dtype
        self.on_cpu = on_cpu

    def asarray(self, array: npt.ArrayLike) -> Any:
        # All computations begin with a tensor from here.
        check_not_forked()
        array = np.asarray(array, self.dtype.as_numpy_dtype)
        if not self.on_cpu or array.nbytes < _DLPACK_MIN_BYTES:
            return tf.convert_to_tensor(array)
        # TensorFlow makes two copies of an array, and keeps one until the next call.
        return tf.experimental.dlpack.from_dlpack(_aligned_copy(array).__dlpack__())

    def to_numpy(self, tensor: Any) -> npt.NDArray[Any]:
        # A tensor without axes becomes a NumPy scalar.
        return np.asarray(tensor.numpy())

    def kernel(self, array: npt.ArrayLike, groups: int) -> Any:
        array = np.asarray(array)
        out_channels, per_group, *size = array.shape
        if _is_depthwise(groups, groups * per_group):
            array = array.reshape(groups, out_channels // groups, *size)
            # (h, w, groups, channels out per group)
            return self.asarray(array.transpose(2, 3, 0, 1))
        return self.asarray(array.transpose(2, 3, 1, 0))

    def kernel_of_tensor(self, weight: Any, groups: int) -> Any:
        out_channels, per_group, *size = weight.shape
        if _is_depthwise(groups, groups * per_group):
            weight = tf.reshape(weight, [groups, out_channels // groups, *size])
            return tf.transpose(weight, [2, 3, 0, 1])
        return tf.transpose(weight, [2, 3, 1, 0])

    def reshape(self, x: Any, *, shape: tuple[int, ...]) -> Any:
        return tf.reshape(x, shape)

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
        is_depthwise = _is_depthwise(groups, x.shape[3])
        if groups == 1 or (is_depthwise and stride[0] == stride[1]):
            return self._convolve(x, kernel, bias, stride, padding, is_depthwise)
        # One convolution per group: TensorFlow has no gradient of grouped convolution on the CPU.
        inputs = self._split(x, groups, 3)
        kernels = self._split(kernel, groups, 2 if is_depthwise else 3)
        biases = [None] * groups if bias is None else self._split(bias, groups, 0)
        outputs = [
            self._convolve(*tensors, stride, padding, False)
            for tensors in zip(inputs, kernels, biases, strict=True)
        ]
        return self.concat(*outputs, axis=3)

    def _convolve(
        self,
        x: Any,
        kernel: Any,
        bias: Any,
        stride: tuple[int, int],
        padding: Padding,
        is_depthwise: bool,
    ) -> Any:
        """Return one convolution that is depthwise or has a single group."""
        if not is_depthwise:
            explicit = [[0, 0], *map(list, padding), [0, 0]]
            y = tf.nn.conv2d(x, kernel, list(stride), explicit)
        # TensorFlow 2.21 crashes when it optimizes a graph in which a bias follows a depthwise
        # convolution with explicit padding.
        elif is_same_padding(kernel, stride, padding):
            y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
        else:
            x = self.pad(x, padding=padding)
            y = tf.nn.depthwise_conv2d(x, kernel, [1, *stride, 1], "VALID")
        return y if bias is None else tf.nn.bias_add(y, bias)

    def _split(self, x: Any, parts: int, axis: int) -> Any:
        """Return ``x`` cut into equal parts along ``axis``."""
        return tf.split(x, parts, axis)

    def batch_norm(
        self, x: Any, scale: Any, shift: Any, mean: Any, variance: Any, *, epsilon: float
    ) -> Any:
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, epsilon)

    def batch_norm_training(
        self,
        x: Any,
        scale: Any,
        shift: Any,
        mean: Any,
        variance: Any,
        *,
        epsilon: float,
        momentum: float,
    ) -> tuple[Any, Any, Any]:
        batch_mean, batch_variance = tf.nn.moments(x, [0, 1, 2])
        y = self.batch_norm(x, scale, shift, batch_mean, batch_variance, epsilon=epsilon)
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        unbiased = batch_variance * (count / (count - 1))
        mean = mean * (1 - momentum) + batch_mean * momentum
        return y, mean, variance * (1 - momentum) + unbiased * momentum

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return tf.nn.bias_add(tf.matmul(x, weight, transpose_b=True), bias)

    def matmul(self, x: Any, y: Any) -> Any:
        return x @ y

    def max_pool2d(
        self, x: Any, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Any:
        x = self.pad(x, padding=padding, value=x.dtype.min)
        return tf.nn.max_pool2d(x, list(size), list(stride), "VALID")

    def average_pool2d(self, x: Any, *, size: tuple[int, int], stride: tuple[int, int]) -> Any:
        return tf.nn.avg_pool2d(x, list(size), list(stride), "VALID")

    def adaptive_average_pool2d(self, x: Any, *, height: int, width: int) -> Any:
        # The height and width may be unknown until the function runs.
        n, h, w, c = tf.unstack(tf.shape(x))
        rows = tf.reshape(x, [n, h, w * c])
        y = tf.reshape(tf.matmul(self._window_means(h, height), rows), [n, height, w, c])
        return tf.matmul(self._window_means(w, width), y)

    def _window_means(self, length: Any, parts: int) -> Any:
        """Return the matrix (parts, length) whose product with an axis averages its windows."""
        index, position = tf.range(parts)[:, None], tf.range(length)
        inside, size = adaptive_windows(length, parts, index, position)
        return tf.cast(inside, self.dtype) / tf.cast(size, self.dtype)

    def relu(self, x: Any) -> Any:
        return tf.nn.relu(x)

    def clip(self, x: Any, *, low: float, high: float) -> Any:
        # relu6 is one kernel, and is fused with a preceding convolution; clipping is not.
        if (low, high) == (0, 6):
            return tf.nn.relu6(x)
        # TensorFlow's own derivative of clipping is 1 at the bounds; `clip` defines it as 0.
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
        return abs(x)

    def sign(self, x: Any) -> Any:
        return tf.sign(x)

    def softmax(self, x: Any) -> Any:
        return tf.nn.softmax(x)

    def log_softmax(self, x: Any) -> Any:
        return tf.nn.log_softmax(x)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def subtract(self, x: Any, y: Any) -> Any:
        return x - y

    def multiply(self, x: Any, y: Any) -> Any:
        return x * y

    def divide(self, x: Any, y: Any) -> Any:
        return x / y

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
        return self._pad(x, padding, value)

    def _pad(self, x: Any, padding: Padding, value: float) -> Any:
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
        # Pixels come first, so that whole rows are gathered, and scattered by the gradient.
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


def check_not_forked() -> None:
    """Check that this process can compute with TensorFlow.

    Raises
    ------
    UnsupportedError
        If it is the forked child of a process that has started TensorFlow. Computations would
        wait forever for the threads of the parent.
    """
    if was_started_before_fork("tensorflow"):
        raise forked_process_error(
            "TensorFlow", "fork before TensorFlow is used (gunicorn: omit --preload)"
        )


def is_same_padding(kernel: Any, stride: tuple[int, int], padding: Padding) -> bool:
    """Return whether ``padding`` is what TensorFlow calls ``"SAME"``.

    Only an odd kernel with a stride of 1 is considered: there, "SAME" keeps the size.

    Parameters
    ----------
    kernel
        A kernel in TensorFlow's layout, (height, width, ...).
    stride, padding
        As for `Table.conv2d`.

    Returns
    -------
    bool
    """
    size = tuple(kernel.shape[:2])
    is_odd = all(length % 2 for length in size)
    return is_odd and stride == (1, 1) and padding == tuple(((n - 1) // 2,) * 2 for n in size)


def _is_depthwise(groups: int, in_channels: int) -> bool:
    """Return whether TensorFlow computes a grouped convolution as a depthwise one."""
    return groups > 1 and in_channels == groups


def _aligned_copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a row-major copy of ``array`` at an address with TensorFlow's alignment."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
