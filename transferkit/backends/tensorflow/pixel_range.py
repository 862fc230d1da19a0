"""The range of the pixels that a Keras model takes, from its first operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

__all__ = ["find_largest_pixel"]

# Operations that change the size, layout or dtype of images, but not the range of their pixels.
_KEEPS_RANGE = frozenset(
    {
        "AvgPool",
        "Cast",
        "ClipByValue",
        "Concat",
        "ConcatV2",
        "CropAndResize",
        "EnsureShape",
        "ExpandDims",
        "GatherV2",
        "Identity",
        "IdentityN",
        "ImageProjectiveTransformV3",
        "MaxPool",
        "Maximum",
        "Minimum",
        "MirrorPad",
        "Pack",
        "Pad",
        "PadV2",
        "PreventGradient",
        "Reshape",
        "ResizeArea",
        "ResizeBicubic",
        "ResizeBilinear",
        "ResizeNearestNeighbor",
        "ReverseV2",
        "ScaleAndTranslate",
        "Select",
        "SelectV2",
        "Slice",
        "Split",
        "SplitV",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unpack",
    }
)
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})
_DIVISIONS = frozenset({"Div", "DivNoNan", "RealDiv"})

# The operations by which layers compute constants, such as a standard deviation.
_CONSTANT_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Cast": lambda x: x,
    "Identity": lambda x: x,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "RealDiv": np.divide,
    "Reciprocal": np.reciprocal,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Sqrt": np.sqrt,
    "Square": np.square,
    "StopGradient": lambda x: x,
    "Sub": np.subtract,
}
# Those that only change the shape, which does not matter for the average.
_RESHAPES = frozenset({"BroadcastTo", "EnsureShape", "ExpandDims", "Reshape", "Squeeze"})

# The model computes (pixels - mean) / std. Averages over the channels; published ones for
# [0, 255] are at least 103 and 57, for [0, 1] at most 0.5 and 0.5. Values that one of the ranges
# cannot have indicate the other; values that both or neither could have are unclear, such as a
# small mean and std of dark images in [0, 255].
_BYTE_MEAN = (2.0, 255.0)
# The standard deviation is at most 127.5, but pixels may also be divided by 255 or 256.
_BYTE_STD = (32.0, 256.0)
_UNIT_MEAN = (0.0, 1.0)
# The largest standard deviation of values in [0, 1], with a tolerance for float32.
_UNIT_STD = 0.5 * (1 + 1e-3)


class _Affine(NamedTuple):
    """A tensor that is ``scale * pixels + offset``."""

    scale: float = 1.0
    offset: float = 0.0

    def largest_pixel(self) -> float | None:
        """Return the largest value of the pixels that this normalizes; None if unclear."""
        mean, std = -self.offset / self.scale, abs(1 / self.scale)
        if _BYTE_MEAN[0] < mean <= _BYTE_MEAN[1] and std <= _BYTE_STD[1]:
            return 255.0
        if abs(mean) <= _BYTE_MEAN[0] and _BYTE_STD[0] <= std <= _BYTE_STD[1]:
            return 255.0
        is_unit_mean = _UNIT_MEAN[0] <= mean <= _UNIT_MEAN[1]
        # A mean may also be subtracted without a division.
        is_unit_std = std <= _UNIT_STD or (std == 1 and mean > 0)
        return 1.0 if is_unit_mean and is_unit_std else None


def find_largest_pixel(pixels: Any) -> float | None:
    """Return the largest value of the pixels that a traced model takes, 1 or 255.

    Operations that keep the range are followed from the pixels: augmentation, resizing, padding,
    reordered channels. The arithmetic with constants among and after them determines the range:
    ``Rescaling``, ``Normalization``, or operations of a functional model.

    Parameters
    ----------
    pixels
        The input of the model in the graph of a ``tf.function`` that is being traced, after the
        model has been called.

    Returns
    -------
    float or None
        None if the arithmetic does not determine it, or there is none before the first layer
        with weights.
    """
    constants = _Constants(pixels.graph)
    largest: set[float | None] = set()
    visited: set[tuple[Any, _Affine]] = set()
    stack = [(pixels, _Affine())]
    while stack:
        tensor, affine = stack.pop()
        if (tensor.ref(), affine) in visited:
            continue
        visited.add((tensor.ref(), affine))
        for operation in tensor.consumers():
            result = _apply(operation, tensor, affine, constants)
            if result is None:
                largest.add(affine.largest_pixel())
            else:
                stack.extend((y, result) for y in operation.outputs if y.dtype.is_floating)
    largest.discard(None)
    return largest.pop() if len(largest) == 1 else None


def _apply(operation: Any, x: Any, affine: _Affine, constants: _Constants) -> _Affine | None:
    """Return the output of an operation on ``x``; None if it is no affine function of pixels."""
    if operation.type in _KEEPS_RANGE:
        return affine
    if operation.type == "Neg":
        return _Affine(-affine.scale, -affine.offset)
    if len(operation.inputs) != 2:
        return None
    first, second = operation.inputs
    value = constants.average(second if first is x else first)
    return None if value is None else _combine(operation.type, affine, value, first is x)


def _combine(kind: str, affine: _Affine, value: float, is_first: bool) -> _Affine | None:
    """Return an affine function combined with a constant; it is the first operand or not."""
    scale, offset = affine
    if kind in _ADDITIONS:
        return _Affine(scale, offset + value)
    if kind == "Sub":
        return _Affine(scale, offset - value) if is_first else _Affine(-scale, value - offset)
    if kind == "Mul" and value:
        return _Affine(scale * value, offset * value)
    if kind in _DIVISIONS and is_first and value:
        return _Affine(scale / value, offset / value)
    return None


class _Constants:
    """The values of the tensors in a graph that do not depend on its input."""

    def __init__(self, graph: Any) -> None:
        self._captured = {inner.ref(): outer for outer, inner in graph.captures}

    def average(self, tensor: Any) -> float | None:
        """Return the average of a tensor's values; None if they are unknown or not finite."""
        value = self._value(tensor)
        if value is None or not np.size(value):
            return None
        average = float(np.mean(value, dtype=np.float64))
        return average if np.isfinite(average) else None

    def _value(self, tensor: Any) -> npt.NDArray[Any] | None:
        value: npt.NDArray[Any] | None
        operation = tensor.op
        static = tf.get_static_value(tensor)
        if static is not None:
            value = np.asarray(static)
        elif tensor.ref() in self._captured:
            outer = self._captured[tensor.ref()]
            value = outer.numpy() if hasattr(outer, "numpy") else None
        elif operation.type == "ReadVariableOp":
            value = self._read_variable(operation.inputs[0], tensor.dtype)
        elif operation.type in _RESHAPES:
            value = self._value(operation.inputs[0])
        else:
            value = self._compute(operation)
        return value

    def _read_variable(self, handle: Any, dtype: Any) -> npt.NDArray[Any] | None:
        outer = self._captured.get(handle.ref())
        if outer is None:
            return None
        with tf.init_scope():
            return np.asarray(tf.raw_ops.ReadVariableOp(resource=outer, dtype=dtype))

    def _compute(self, operation: Any) -> npt.NDArray[Any] | None:
        function = _CONSTANT_OPERATIONS.get(operation.type)
        values = None if function is None else [self._value(x) for x in operation.inputs]
        if function is None or values is None or any(value is None for value in values):
            return None
        try:
            result: npt.NDArray[Any] = function(*values)
        except ValueError:  # the shapes differ, since reshapes are skipped
            return None
        return result
