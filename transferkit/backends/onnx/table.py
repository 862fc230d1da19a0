"""A table that records ONNX nodes instead of computing, so that a function becomes a model.

Feature maps stay in the layout of ONNX convolutions, N x C x H x W, as long as possible: most
primitives only renumber axes. A transpose is recorded where a primitive depends on the order of
axes (``flatten``, ``matmul``), and for inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from transferkit.backends.adaptive_pooling import adaptive_windows
from transferkit.backends.base import Table
from transferkit.errors import ArgumentTypeError
from transferkit.networks.graph import Padding

__all__ = [
    "OPSET",
    "OnnxTable",
    "SymbolicTensor",
    "dequantize",
    "placeholder",
    "quantize_and_dequantize",
    "write_model",
    "write_model_and_arrays",
]

OPSET = 17
"""The operator set version of the models; every runtime since 2022 supports it."""

_IR_VERSION = 8
_INPUT = "input"
_CONSTANT = "constant"
_END = 2**63 - 1
_CHANNELS_FIRST = (0, 3, 1, 2)
_CHANNELS_LAST = (0, 2, 3, 1)
# Shape inference needs the values of axes, bounds and sizes in the model; they are smaller than
# this, and weights are larger.
_INLINE_BYTES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class SymbolicTensor:
    """A result of an ONNX operator, with the recorded computation that leads to it.

    Parameters
    ----------
    operation
        The ONNX operator, ``"input"`` or ``"constant"``.
    rank
        The number of axes.
    inputs
        The operator's inputs; None for an optional one that is omitted.
    attributes
        The operator's attributes.
    channels_first
        Whether the graph has the value as N x C x H x W. The table counts its axes as
        N x H x W x C in any case.
    constant
        The value of a constant.
    """

    operation: str
    rank: int
    inputs: tuple[SymbolicTensor | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    channels_first: bool = False
    constant: npt.NDArray[Any] | None = None


def placeholder(rank: int) -> SymbolicTensor:
    """Return an input of a graph with ``rank`` axes, each of any length."""
    return SymbolicTensor(_INPUT, rank)


def quantize_and_dequantize(
    x: SymbolicTensor, scale: np.float32, zero_point: np.uint8
) -> SymbolicTensor:
    """Return ``x`` rounded to 8 bits: ``scale * (q - zero_point)`` for q from 0 to 255."""
    if x.rank == 4:
        # Without a transpose between the two and an operator, they are joined with it.
        x = _as_channels_first(x)
    parameters = [_constant(np.asarray(scale)), _constant(np.asarray(zero_point))]
    integers = _record("QuantizeLinear", [x, *parameters], x.rank, x.channels_first)
    return _record("DequantizeLinear", [integers, *parameters], x.rank, x.channels_first)


def dequantize(integers: npt.NDArray[Any], scale: npt.NDArray[np.float32]) -> SymbolicTensor:
    """Return constant integers times ``scale``, one value for each index of the first axis.

    The first two inputs of the result are the two as constants.
    """
    # ONNX Runtime 1.32 cannot convert signed weights without explicit zero points to unsigned ones.
    zero_points = np.zeros(len(scale), integers.dtype)
    inputs = [_constant(integers), _constant(scale), _constant(zero_points)]
    return _record("DequantizeLinear", inputs, integers.ndim, axis=0)


def write_model(
    inputs: Mapping[str, SymbolicTensor],
    outputs: Mapping[str, SymbolicTensor],
    parameters: Mapping[str, SymbolicTensor] | None = None,
) -> ModelProto:
    """Return the ONNX model that computes ``outputs`` from ``inputs``, including all constants.

    Parameters
    ----------
    inputs
        Name to value, from `placeholder`.
    outputs
        Name to value. Outputs with four axes are N x H x W x C.
    parameters
        Name to constant, for the names of initializers. A name that is already used in the graph
        gets a number as its suffix.
    """
    return _write_model(inputs, outputs, parameters or {}, numpy_helper.from_array)


def write_model_and_arrays(
    inputs: Mapping[str, SymbolicTensor], outputs: Mapping[str, SymbolicTensor]
) -> tuple[ModelProto, dict[str, npt.NDArray[Any]]]:
    """Return the model of `write_model` without large constants, and these constants.

    Returns
    -------
    model
        The model, in which large initializers are declared as external data.
    arrays
        The name of each of these initializers to its values.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}

    def initializer(array: npt.NDArray[Any], name: str) -> TensorProto:
        if array.nbytes <= _INLINE_BYTES:
            return numpy_helper.from_array(array, name)
        # Arrays mapped from a file may start at any byte; runtimes need aligned memory.
        arrays[name] = np.require(array, requirements=["C", "A"])
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        tensor.external_data.add(key="location", value=name)
        return tensor

    return _write_model(inputs, outputs, {}, initializer), arrays


def _write_model(
    inputs: Mapping[str, SymbolicTensor],
    outputs: Mapping[str, SymbolicTensor],
    parameters: Mapping[str, SymbolicTensor],
    make_initializer: Callable[[npt.NDArray[Any], str], TensorProto],
) -> ModelProto:
    results = {name: _as_channels_last(value) for name, value in outputs.items()}
    used = {*inputs, *outputs}

    def make_unique(name: str) -> str:
        """Return the name, with a number as its suffix if it is already used in the graph."""
        candidates = chain([name], (f"{name}_{number}" for number in count()))
        unique = next(candidate for candidate in candidates if candidate not in used)
        used.add(unique)
        return unique

    parameter_names = {id(value): name for name, value in parameters.items()}
    names = {id(value): name for name, value in inputs.items()}
    outputs_by_node: dict[tuple[Any, ...], str] = {}
    nodes: list[NodeProto] = []
    initializers: list[TensorProto] = []
    for value in _topological_order(results.values()):
        if value.operation == _INPUT:
            continue
        if value.constant is not None:
            name = make_unique(parameter_names.get(id(value), f"constant_{len(initializers)}"))
            names[id(value)] = name
            initializers.append(make_initializer(value.constant, name))
            continue
        input_names = tuple("" if x is None else names[id(x)] for x in value.inputs)
        # Each primitive that needs a transpose records its own; equal ones are written once.
        key = (value.operation, input_names, tuple(value.attributes.items()))
        if key not in outputs_by_node:
            outputs_by_node[key] = name = make_unique(f"{value.operation}_{len(nodes)}")
            attributes = dict(value.attributes)
            nodes.append(
                helper.make_node(value.operation, input_names, [name], name=name, **attributes)
            )
        names[id(value)] = outputs_by_node[key]
    for name, value in results.items():
        nodes.append(helper.make_node("Identity", [names[id(value)]], [name]))
    graph = helper.make_graph(
        nodes,
        "transferkit",
        [_value_info(name, value) for name, value in inputs.items()],
        [_value_info(name, value) for name, value in results.items()],
        initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)


class OnnxTable(Table[SymbolicTensor]):
    """The primitives over `SymbolicTensor`, each of which records one or more ONNX nodes."""

    def asarray(self, array: npt.ArrayLike) -> SymbolicTensor:
        return _constant(np.asarray(array, np.float32))

    def to_numpy(self, tensor: SymbolicTensor) -> npt.NDArray[Any]:
        if tensor.constant is None:
            raise ArgumentTypeError("a symbolic tensor has no values until its graph is run")
        return tensor.constant

    def kernel(self, array: npt.ArrayLike, groups: int) -> SymbolicTensor:
        return self.asarray(array)

    def conv2d(
        self,
        x: SymbolicTensor,
        kernel: SymbolicTensor,
        bias: SymbolicTensor | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> SymbolicTensor:
        inputs = [_as_channels_first(x), kernel] + ([] if bias is None else [bias])
        return _record("Conv", inputs, 4, True, strides=stride, pads=_pads(padding), group=groups)

    def batch_norm(
        self,
        x: SymbolicTensor,
        scale: SymbolicTensor,
        shift: SymbolicTensor,
        mean: SymbolicTensor,
        variance: SymbolicTensor,
        *,
        epsilon: float,
    ) -> SymbolicTensor:
        inputs = [_as_channels_first(x), scale, shift, mean, variance]
        return _record("BatchNormalization", inputs, 4, True, epsilon=epsilon)

    def linear(
        self, x: SymbolicTensor, weight: SymbolicTensor, bias: SymbolicTensor
    ) -> SymbolicTensor:
        return _record("Gemm", [x, weight, bias], 2, transB=1)

    def matmul(self, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
        x, y = _as_channels_last(x), _as_channels_last(y)
        return _record("MatMul", [x, y], max(x.rank, y.rank))

    def max_pool2d(
        self, x: SymbolicTensor, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> SymbolicTensor:
        inputs = [_as_channels_first(x)]
        return _record(
            "MaxPool", inputs, 4, True, kernel_shape=size, strides=stride, pads=_pads(padding)
        )

    def average_pool2d(
        self, x: SymbolicTensor, *, size: tuple[int, int], stride: tuple[int, int]
    ) -> SymbolicTensor:
        inputs = [_as_channels_first(x)]
        return _record("AveragePool", inputs, 4, True, kernel_shape=size, strides=stride)

    def adaptive_average_pool2d(
        self, x: SymbolicTensor, *, height: int, width: int
    ) -> SymbolicTensor:
        # ONNX has no adaptive pooling: multiply by an averaging matrix along each axis. The
        # lengths of the axes are known only when the graph runs.
        x = _as_channels_first(x)
        y = _record("MatMul", [_averaging_matrix(x, 2, height), x], 4, True)
        columns = _record("Transpose", [_averaging_matrix(x, 3, width)], 2, perm=(1, 0))
        return _record("MatMul", [y, columns], 4, True)

    def relu(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Relu", x)

    def clip(self, x: SymbolicTensor, *, low: float, high: float) -> SymbolicTensor:
        bounds = [self.asarray(low), self.asarray(high)]
        return _record("Clip", [x, *bounds], x.rank, x.channels_first)

    def sigmoid(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Sigmoid", x)

    def tanh(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Tanh", x)

    def exp(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Exp", x)

    def log(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Log", x)

    def sqrt(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Sqrt", x)

    def absolute(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Abs", x)

    def sign(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("Sign", x)

    def softmax(self, x: SymbolicTensor) -> SymbolicTensor:
        return _record("Softmax", [_as_channels_last(x)], x.rank, axis=-1)

    def log_softmax(self, x: SymbolicTensor) -> SymbolicTensor:
        return _record("LogSoftmax", [_as_channels_last(x)], x.rank, axis=-1)

    def add(self, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
        return _broadcast("Add", x, y)

    def subtract(self, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
        return _broadcast("Sub", x, y)

    def multiply(self, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
        return _broadcast("Mul", x, y)

    def divide(self, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
        return _broadcast("Div", x, y)

    def concat(self, *tensors: SymbolicTensor, axis: int) -> SymbolicTensor:
        first = tensors[0]
        channels_first = all(tensor.channels_first for tensor in tensors)
        if not channels_first:
            tensors = tuple(map(_as_channels_last, tensors))
        else:
            axis = _renumber(axis)
        return _record("Concat", tensors, first.rank, channels_first, axis=axis)

    def flatten(self, x: SymbolicTensor, *, channels_first: bool = False) -> SymbolicTensor:
        return _record(
            "Flatten",
            [_as_channels_first(x) if channels_first else _as_channels_last(x)],
            2,
            axis=1,
        )

    def reverse_channels(self, x: SymbolicTensor) -> SymbolicTensor:
        axis = 1 if x.channels_first else x.rank - 1
        # Backward from the last channel to the first; the smallest integer is an end before it.
        before_first = np.iinfo(np.int64).min
        bounds = (_integers((value,)) for value in (-1, before_first, axis, -1))
        return _record("Slice", [x, *bounds], x.rank, x.channels_first)

    def hard_sigmoid(self, x: SymbolicTensor) -> SymbolicTensor:
        return _record("HardSigmoid", [x], x.rank, x.channels_first, alpha=1 / 6, beta=0.5)

    def hard_swish(self, x: SymbolicTensor) -> SymbolicTensor:
        return _elementwise("HardSwish", x)

    def sum(
        self, x: SymbolicTensor, *, axes: tuple[int, ...], keepdims: bool = False
    ) -> SymbolicTensor:
        if not axes:  # ONNX reduces all axes if none is given
            return x
        # Unlike the other reductions, ReduceSum takes its axes as an input since opset 13.
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        axes_value = _integers(axes)
        return _record("ReduceSum", [x, axes_value], rank, channels_first, keepdims=int(keepdims))

    def mean(
        self, x: SymbolicTensor, *, axes: tuple[int, ...], keepdims: bool = False
    ) -> SymbolicTensor:
        if not axes:
            return x
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        return _record("ReduceMean", [x], rank, channels_first, axes=axes, keepdims=int(keepdims))

    def max(
        self, x: SymbolicTensor, *, axes: tuple[int, ...], keepdims: bool = False
    ) -> SymbolicTensor:
        if not axes:
            return x
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        return _record("ReduceMax", [x], rank, channels_first, axes=axes, keepdims=int(keepdims))

    def pad(self, x: SymbolicTensor, *, padding: Padding, value: float = 0.0) -> SymbolicTensor:
        (top, bottom), (left, right) = padding
        if x.channels_first:
            before_and_after = [0, 0, top, left, 0, 0, bottom, right]
        else:
            before_and_after = [0, top, left, 0, 0, bottom, right, 0]
        pads = _integers(before_and_after)
        inputs = [x, pads, self.asarray(value)]
        return _record("Pad", inputs, 4, x.channels_first)

    def crop(
        self, x: SymbolicTensor, *, top: int, left: int, height: int, width: int
    ) -> SymbolicTensor:
        axes = (2, 3) if x.channels_first else (1, 2)
        bounds = map(_integers, ((top, left), (top + height, left + width), axes))
        return _record("Slice", [x, *bounds], 4, x.channels_first)

    def resize(self, x: SymbolicTensor, *, height: int, width: int) -> SymbolicTensor:
        x = _as_channels_first(x)
        # Resize needs the lengths of all axes; the first two are known only at run time.
        shape = _record("Shape", [x], 1, start=0, end=2)
        sizes = _record("Concat", [shape, _integers((height, width))], 1, axis=0)
        return _record(
            "Resize",
            [x, None, None, sizes],
            4,
            True,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def slice(
        self, x: SymbolicTensor, *, axis: int, start: int, stop: int | None
    ) -> SymbolicTensor:
        onnx_axis = _renumber(axis) if x.channels_first else axis
        bounds = map(_integers, ((start,), (_END if stop is None else stop,), (onnx_axis,)))
        return _record("Slice", [x, *bounds], x.rank, x.channels_first)

    def transpose(self, x: SymbolicTensor, *, axes: tuple[int, ...]) -> SymbolicTensor:
        return _record("Transpose", [_as_channels_last(x)], x.rank, perm=axes)

    def sample(self, x: SymbolicTensor, positions: SymbolicTensor) -> SymbolicTensor:
        x, one, two = _as_channels_first(x), self.asarray(1.0), self.asarray(2.0)
        # GridSample takes (x, y), from -1 at the outer edge of the first pixel to 1 at that of the
        # last pixel.
        width = _record("Shape", [x], 1, start=3, end=4)
        height = _record("Shape", [x], 1, start=2, end=3)
        size = _record("Concat", [width, height], 1, axis=0)
        size = _record("Cast", [size], 1, to=TensorProto.FLOAT)
        column_row = _record("Gather", [positions, _integers((1, 0))], 3, axis=2)
        half_pixels = self.add(self.multiply(column_row, two), one)
        grid = self.subtract(self.divide(half_pixels, size), one)
        batch_size = _record("Shape", [x], 1, start=0, end=1)
        shape = _record("Concat", [batch_size, _integers((1, 1, 1))], 1, axis=0)
        grid = _record("Expand", [grid, shape], 4)
        return _record("GridSample", [x, grid], 4, True, mode="bilinear", padding_mode="border")


def _record(
    operation: str,
    inputs: Sequence[SymbolicTensor | None],
    rank: int,
    channels_first: bool = False,
    **attributes: Any,
) -> SymbolicTensor:
    return SymbolicTensor(operation, rank, tuple(inputs), attributes, channels_first)


def _elementwise(operation: str, x: SymbolicTensor) -> SymbolicTensor:
    return _record(operation, [x], x.rank, x.channels_first)


def _broadcast(operation: str, x: SymbolicTensor, y: SymbolicTensor) -> SymbolicTensor:
    rank = max(x.rank, y.rank)
    channels_first = x.channels_first or y.channels_first
    if channels_first:
        x, y = _align(x), _align(y)
    return _record(operation, [x, y], rank, channels_first)


@dataclass(frozen=True, slots=True)
class _Int64:
    """A symbolic int64 tensor with the operators that `adaptive_windows` uses."""

    value: SymbolicTensor

    def _record(self, operation: str, other: _Int64 | int) -> _Int64:
        right = other.value if isinstance(other, _Int64) else _int64(other)
        return _Int64(_broadcast(operation, self.value, right))

    def __add__(self, other: _Int64 | int) -> _Int64:
        return self._record("Add", other)

    def __sub__(self, other: _Int64 | int) -> _Int64:
        return self._record("Sub", other)

    def __mul__(self, other: _Int64 | int) -> _Int64:
        return self._record("Mul", other)

    def __floordiv__(self, other: _Int64 | int) -> _Int64:
        # Rounds toward zero, which is the same for non-negative numbers.
        return self._record("Div", other)

    def __le__(self, other: _Int64 | int) -> _Int64:
        return self._record("LessOrEqual", other)

    def __lt__(self, other: _Int64 | int) -> _Int64:
        return self._record("Less", other)

    def __and__(self, other: _Int64 | int) -> _Int64:
        return self._record("And", other)


def _averaging_matrix(x: SymbolicTensor, axis: int, parts: int) -> SymbolicTensor:
    """Return the matrix (parts, length) that averages the windows of an axis of ``x``."""
    length = _record("Shape", [x], 1, start=axis, end=axis + 1)
    scalars = [_int64(0), _record("Squeeze", [length], 0), _int64(1)]
    position = _record("Range", scalars, 1)
    index = _int64(np.arange(parts)[:, None])
    windows = adaptive_windows(_Int64(length), parts, _Int64(index), _Int64(position))
    inside, size = (_record("Cast", [result.value], 2, to=TensorProto.FLOAT) for result in windows)
    return _record("Div", [inside, size], 2)


def _align(x: SymbolicTensor) -> SymbolicTensor:
    """Return ``x`` in a form that broadcasts against N x C x H x W."""
    if x.rank == 0:
        return x
    if x.rank < 4:
        # Missing leading axes have length 1: (c,) is (1, 1, 1, c), and then (1, c, 1, 1).
        x = _record("Unsqueeze", [x, _integers(range(4 - x.rank))], 4)
    return _as_channels_first(x)


def _reduction(
    x: SymbolicTensor, axes: tuple[int, ...], keepdims: bool
) -> tuple[SymbolicTensor, tuple[int, ...], int, bool]:
    """Return the input and axes of a reduction, and its result's rank and layout."""
    if x.channels_first and not keepdims and not {1, 2} <= set(axes):
        # The remaining axes would be in the wrong order.
        x = _as_channels_last(x)
    if x.channels_first:
        axes = tuple(map(_renumber, axes))
    rank = x.rank if keepdims else x.rank - len(axes)
    return x, axes, rank, x.channels_first and keepdims


def _as_channels_first(x: SymbolicTensor) -> SymbolicTensor:
    return x if x.channels_first else _record("Transpose", [x], 4, True, perm=_CHANNELS_FIRST)


def _as_channels_last(x: SymbolicTensor) -> SymbolicTensor:
    return _record("Transpose", [x], 4, perm=_CHANNELS_LAST) if x.channels_first else x


def _constant(array: npt.NDArray[Any]) -> SymbolicTensor:
    return SymbolicTensor(_CONSTANT, array.ndim, constant=array)


def _int64(values: npt.ArrayLike) -> SymbolicTensor:
    return _constant(np.asarray(values, np.int64))


def _integers(values: Iterable[int]) -> SymbolicTensor:
    return _int64(tuple(values))


def _renumber(axis: int) -> int:
    """Return the number in N x C x H x W of an axis of N x H x W x C."""
    return _CHANNELS_FIRST.index(axis)


def _pads(padding: Padding) -> tuple[int, ...]:
    (top, bottom), (left, right) = padding
    return (top, left, bottom, right)


def _value_info(name: str, value: SymbolicTensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * value.rank)


def _topological_order(results: Iterable[SymbolicTensor]) -> list[SymbolicTensor]:
    """Return ``results`` and all values that they depend on, each after its inputs.

    This is not recursive, since networks may be deeper than the recursion limit.
    """
    ordered: list[SymbolicTensor] = []
    visited: set[int] = set()
    stack = [(value, False) for value in results]
    while stack:
        value, inputs_done = stack.pop()
        if inputs_done:
            ordered.append(value)
        elif id(value) not in visited:
            visited.add(id(value))
            stack.append((value, True))
            stack.extend((x, False) for x in value.inputs if x is not None)
    return ordered
