"""A table that records ONNX nodes instead of computing: the way a function becomes a file.

Values are kept in the layout that ONNX's convolutions want, N x C x H x W, for as long as
the primitives allow; axes are renumbered on the way, and a transpose is written only where
a primitive cares (``flatten``, ``matmul``) and at the ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from transferkit.backends.base import Table
from transferkit.networks.graph import Padding

__all__ = [
    "OPSET",
    "OnnxTable",
    "Recorded",
    "placeholder",
    "write_model",
    "write_model_and_arrays",
]

OPSET = 17
"""The version of ONNX's operators that is written; any runtime since 2022 reads it."""

_IR_VERSION = 8
_INPUT = "input"
_CONSTANT = "constant"
_TO_THE_END = 2**63 - 1
_CHANNELS_FIRST = (0, 3, 1, 2)
_CHANNELS_LAST = (0, 2, 3, 1)
# Axes, bounds and sizes are read while the graph is checked; weights are larger than this.
_INLINE_BYTES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A value that a graph would compute, with all that it is computed from.

    Parameters
    ----------
    operation
        The ONNX operator, ``"input"`` or ``"constant"``.
    rank
        Its number of axes.
    inputs
        The operator's inputs; None for one that is left out.
    attributes
        The operator's attributes.
    channels_first
        Whether it is N x C x H x W in the graph although the table speaks of N x H x W x C.
    constant
        The value of a constant.
    """

    operation: str
    rank: int
    inputs: tuple[Recorded | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    channels_first: bool = False
    constant: npt.NDArray[Any] | None = None


def placeholder(rank: int) -> Recorded:
    """An input of a graph, of any size along each of its ``rank`` axes."""
    return Recorded(_INPUT, rank)


def write_model(
    inputs: Mapping[str, Recorded],
    outputs: Mapping[str, Recorded],
    parameters: Mapping[str, Recorded] | None = None,
) -> ModelProto:
    """The ONNX model that computes ``outputs`` from ``inputs``, with all its constants.

    Parameters
    ----------
    inputs
        Name to value, from `placeholder`.
    outputs
        Name to value; what has four axes comes out as N x H x W x C.
    parameters
        The constants that have names; a number is put behind one that is taken.
    """
    return _write_model(inputs, outputs, parameters or {}, numpy_helper.from_array)


def write_model_and_arrays(
    inputs: Mapping[str, Recorded], outputs: Mapping[str, Recorded]
) -> tuple[ModelProto, dict[str, npt.NDArray[Any]]]:
    """The same with large constants left out of the model, which only names them.

    Returns
    -------
    model
        Its large initializers say that their values are elsewhere.
    arrays
        The name of each to its values.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}

    def initializer(array: npt.NDArray[Any], name: str) -> TensorProto:
        if array.nbytes <= _INLINE_BYTES:
            return numpy_helper.from_array(array, name)
        # Tensors in a file may begin at any byte; a runtime computes with whole numbers' addresses.
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
    inputs: Mapping[str, Recorded],
    outputs: Mapping[str, Recorded],
    parameters: Mapping[str, Recorded],
    make_initializer: Callable[[npt.NDArray[Any], str], TensorProto],
) -> ModelProto:
    results = {name: _plain(value) for name, value in outputs.items()}
    taken = {*inputs, *outputs}

    def free(name: str) -> str:
        """The name, or one like it that nothing else in the graph has."""
        found = next(
            one for one in chain([name], (f"{name}_{n}" for n in count())) if one not in taken
        )
        taken.add(found)
        return found

    given = {id(value): name for name, value in parameters.items()}
    names = {id(value): name for name, value in inputs.items()}
    written: dict[tuple[Any, ...], str] = {}
    nodes: list[NodeProto] = []
    initializers: list[TensorProto] = []
    for value in _in_order(results.values()):
        if value.operation == _INPUT:
            continue
        if value.constant is not None:
            name = free(given.get(id(value), f"constant_{len(initializers)}"))
            names[id(value)] = name
            initializers.append(make_initializer(value.constant, name))
            continue
        input_names = tuple("" if x is None else names[id(x)] for x in value.inputs)
        # The same transpose is recorded by each primitive that needs it, and written once.
        key = (value.operation, input_names, tuple(value.attributes.items()))
        if key not in written:
            written[key] = name = free(f"{value.operation}_{len(nodes)}")
            attributes = dict(value.attributes)
            nodes.append(
                helper.make_node(value.operation, input_names, [name], name=name, **attributes)
            )
        names[id(value)] = written[key]
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


class OnnxTable(Table[Recorded]):
    """The primitives over `Recorded` values."""

    def asarray(self, array: npt.ArrayLike) -> Recorded:
        return _constant(np.asarray(array, np.float32))

    def to_numpy(self, tensor: Recorded) -> npt.NDArray[Any]:
        if tensor.constant is None:
            raise TypeError("a recorded value has no numbers until its graph is run")
        return tensor.constant

    def kernel(self, array: npt.ArrayLike, groups: int) -> Recorded:
        return self.asarray(array)

    def conv2d(
        self,
        x: Recorded,
        kernel: Recorded,
        bias: Recorded | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Recorded:
        inputs = [_channels_first(x), kernel] + ([] if bias is None else [bias])
        return _write("Conv", inputs, 4, True, strides=stride, pads=_pads(padding), group=groups)

    def batch_norm(
        self,
        x: Recorded,
        scale: Recorded,
        shift: Recorded,
        mean: Recorded,
        variance: Recorded,
        *,
        epsilon: float,
    ) -> Recorded:
        inputs = [_channels_first(x), scale, shift, mean, variance]
        return _write("BatchNormalization", inputs, 4, True, epsilon=epsilon)

    def linear(self, x: Recorded, weight: Recorded, bias: Recorded) -> Recorded:
        return _write("Gemm", [x, weight, bias], 2, transB=1)

    def matmul(self, x: Recorded, y: Recorded) -> Recorded:
        x, y = _plain(x), _plain(y)
        return _write("MatMul", [x, y], max(x.rank, y.rank))

    def max_pool2d(
        self, x: Recorded, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Recorded:
        inputs = [_channels_first(x)]
        return _write(
            "MaxPool", inputs, 4, True, kernel_shape=size, strides=stride, pads=_pads(padding)
        )

    def average_pool2d(
        self, x: Recorded, *, size: tuple[int, int], stride: tuple[int, int]
    ) -> Recorded:
        inputs = [_channels_first(x)]
        return _write("AveragePool", inputs, 4, True, kernel_shape=size, strides=stride)

    def adaptive_average_pool2d(self, x: Recorded, *, height: int, width: int) -> Recorded:
        # A product with a matrix of means along each side, whose lengths are known only when
        # the graph runs: ONNX has no such pool.
        x = _channels_first(x)
        y = _write("MatMul", [_means(x, 2, height), x], 4, True)
        columns = _write("Transpose", [_means(x, 3, width)], 2, perm=(1, 0))
        return _write("MatMul", [y, columns], 4, True)

    def relu(self, x: Recorded) -> Recorded:
        return _elementwise("Relu", x)

    def clip(self, x: Recorded, *, low: float, high: float) -> Recorded:
        bounds = [self.asarray(low), self.asarray(high)]
        return _write("Clip", [x, *bounds], x.rank, x.channels_first)

    def sigmoid(self, x: Recorded) -> Recorded:
        return _elementwise("Sigmoid", x)

    def tanh(self, x: Recorded) -> Recorded:
        return _elementwise("Tanh", x)

    def exp(self, x: Recorded) -> Recorded:
        return _elementwise("Exp", x)

    def log(self, x: Recorded) -> Recorded:
        return _elementwise("Log", x)

    def sqrt(self, x: Recorded) -> Recorded:
        return _elementwise("Sqrt", x)

    def absolute(self, x: Recorded) -> Recorded:
        return _elementwise("Abs", x)

    def sign(self, x: Recorded) -> Recorded:
        return _elementwise("Sign", x)

    def softmax(self, x: Recorded) -> Recorded:
        return _write("Softmax", [_plain(x)], x.rank, axis=-1)

    def log_softmax(self, x: Recorded) -> Recorded:
        return _write("LogSoftmax", [_plain(x)], x.rank, axis=-1)

    def add(self, x: Recorded, y: Recorded) -> Recorded:
        return _broadcast("Add", x, y)

    def subtract(self, x: Recorded, y: Recorded) -> Recorded:
        return _broadcast("Sub", x, y)

    def multiply(self, x: Recorded, y: Recorded) -> Recorded:
        return _broadcast("Mul", x, y)

    def divide(self, x: Recorded, y: Recorded) -> Recorded:
        return _broadcast("Div", x, y)

    def concat(self, *tensors: Recorded, axis: int) -> Recorded:
        first = tensors[0]
        channels_first = all(tensor.channels_first for tensor in tensors)
        if not channels_first:
            tensors = tuple(map(_plain, tensors))
        else:
            axis = _renumber(axis)
        return _write("Concat", tensors, first.rank, channels_first, axis=axis)

    def flatten(self, x: Recorded, *, channels_first: bool = False) -> Recorded:
        return _write("Flatten", [_channels_first(x) if channels_first else _plain(x)], 2, axis=1)

    def reverse_channels(self, x: Recorded) -> Recorded:
        axis = 1 if x.channels_first else x.rank - 1
        # Backwards from the last to, and with, the first: no number of ends before it.
        before_first = np.iinfo(np.int64).min
        bounds = (_integers((value,)) for value in (-1, before_first, axis, -1))
        return _write("Slice", [x, *bounds], x.rank, x.channels_first)

    def hard_sigmoid(self, x: Recorded) -> Recorded:
        return _write("HardSigmoid", [x], x.rank, x.channels_first, alpha=1 / 6, beta=0.5)

    def hard_swish(self, x: Recorded) -> Recorded:
        return _elementwise("HardSwish", x)

    def sum(self, x: Recorded, *, axes: tuple[int, ...], keepdims: bool = False) -> Recorded:
        # ReduceSum alone takes its axes as an input since opset 13.
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        axes_value = _integers(axes)
        return _write("ReduceSum", [x, axes_value], rank, channels_first, keepdims=int(keepdims))

    def mean(self, x: Recorded, *, axes: tuple[int, ...], keepdims: bool = False) -> Recorded:
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        return _write("ReduceMean", [x], rank, channels_first, axes=axes, keepdims=int(keepdims))

    def max(self, x: Recorded, *, axes: tuple[int, ...], keepdims: bool = False) -> Recorded:
        x, axes, rank, channels_first = _reduction(x, axes, keepdims)
        return _write("ReduceMax", [x], rank, channels_first, axes=axes, keepdims=int(keepdims))

    def pad(self, x: Recorded, *, padding: Padding, value: float = 0.0) -> Recorded:
        (top, bottom), (left, right) = padding
        if x.channels_first:
            before_and_after = [0, 0, top, left, 0, 0, bottom, right]
        else:
            before_and_after = [0, top, left, 0, 0, bottom, right, 0]
        pads = _integers(before_and_after)
        inputs = [x, pads, self.asarray(value)]
        return _write("Pad", inputs, 4, x.channels_first)

    def crop(self, x: Recorded, *, top: int, left: int, height: int, width: int) -> Recorded:
        axes = (2, 3) if x.channels_first else (1, 2)
        bounds = map(_integers, ((top, left), (top + height, left + width), axes))
        return _write("Slice", [x, *bounds], 4, x.channels_first)

    def resize(self, x: Recorded, *, height: int, width: int) -> Recorded:
        x = _channels_first(x)
        # The output size must be given for all axes, and the first two are only known later.
        shape = _write("Shape", [x], 1, start=0, end=2)
        sizes = _write("Concat", [shape, _integers((height, width))], 1, axis=0)
        return _write(
            "Resize",
            [x, None, None, sizes],
            4,
            True,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def slice(self, x: Recorded, *, axis: int, start: int, stop: int | None) -> Recorded:
        place = _renumber(axis) if x.channels_first else axis
        bounds = map(_integers, ((start,), (_TO_THE_END if stop is None else stop,), (place,)))
        return _write("Slice", [x, *bounds], x.rank, x.channels_first)

    def transpose(self, x: Recorded, *, axes: tuple[int, ...]) -> Recorded:
        return _write("Transpose", [_plain(x)], x.rank, perm=axes)

    def sample(self, x: Recorded, positions: Recorded) -> Recorded:
        x, one, two = _channels_first(x), self.asarray(1.0), self.asarray(2.0)
        # ONNX counts from -1 at the first pixel's outer edge to 1 at the last one's, x first.
        width = _write("Shape", [x], 1, start=3, end=4)
        height = _write("Shape", [x], 1, start=2, end=3)
        size = _write("Concat", [width, height], 1, axis=0)
        size = _write("Cast", [size], 1, to=TensorProto.FLOAT)
        backwards = _write("Gather", [positions, _integers((1, 0))], 3, axis=2)
        steps = self.add(self.multiply(backwards, two), one)
        grid = self.subtract(self.divide(steps, size), one)
        number = _write("Shape", [x], 1, start=0, end=1)
        shape = _write("Concat", [number, _integers((1, 1, 1))], 1, axis=0)
        grid = _write("Expand", [grid, shape], 4)
        return _write("GridSample", [x, grid], 4, True, mode="bilinear", padding_mode="border")


def _write(
    operation: str,
    inputs: Sequence[Recorded | None],
    rank: int,
    channels_first: bool = False,
    **attributes: Any,
) -> Recorded:
    return Recorded(operation, rank, tuple(inputs), attributes, channels_first)


def _elementwise(operation: str, x: Recorded) -> Recorded:
    return _write(operation, [x], x.rank, x.channels_first)


def _broadcast(operation: str, x: Recorded, y: Recorded) -> Recorded:
    rank = max(x.rank, y.rank)
    channels_first = x.channels_first or y.channels_first
    if channels_first:
        x, y = _align(x), _align(y)
    return _write(operation, [x, y], rank, channels_first)


def _means(x: Recorded, axis: int, parts: int) -> Recorded:
    """The matrix (parts, length) that averages the windows of an axis of ``x``."""
    length = _write("Shape", [x], 1, start=axis, end=axis + 1)
    index = np.arange(parts)[:, None]
    divisor = _integers((parts,))
    start = _write("Mul", [_constant(index), length], 2)
    start = _write("Div", [start, divisor], 2)
    # Whole numbers are divided downwards; this rounds upwards.
    end = _write("Mul", [_constant(index + 1), length], 2)
    end = _write("Div", [_write("Add", [end, _integers((parts - 1,))], 2), divisor], 2)
    scalars = [_constant(np.array(0)), _write("Squeeze", [length], 0), _constant(np.array(1))]
    position = _write("Range", scalars, 1)
    after_start = _write("GreaterOrEqual", [position, start], 2)
    inside = _write("And", [after_start, _write("Less", [position, end], 2)], 2)
    size = _write("Sub", [end, start], 2)
    numbers = (_write("Cast", [value], 2, to=TensorProto.FLOAT) for value in (inside, size))
    return _write("Div", list(numbers), 2)


def _align(x: Recorded) -> Recorded:
    """``x`` so that it broadcasts against values that are N x C x H x W."""
    if x.rank == 0:
        return x
    if x.rank < 4:
        # Missing leading axes are ones: (c,) is (1, 1, 1, c), and so (1, c, 1, 1).
        x = _write("Unsqueeze", [x, _integers(range(4 - x.rank))], 4)
    return _channels_first(x)


def _reduction(
    x: Recorded, axes: tuple[int, ...], keepdims: bool
) -> tuple[Recorded, tuple[int, ...], int, bool]:
    """The input, the axes, and the result's rank and layout, for a reduction."""
    if x.channels_first and not keepdims and not {1, 2} <= set(axes):
        # What is left would have lost the order of its axes.
        x = _plain(x)
    if x.channels_first:
        axes = tuple(map(_renumber, axes))
    rank = x.rank if keepdims else x.rank - len(axes)
    return x, axes, rank, x.channels_first and keepdims


def _channels_first(x: Recorded) -> Recorded:
    return x if x.channels_first else _write("Transpose", [x], 4, True, perm=_CHANNELS_FIRST)


def _plain(x: Recorded) -> Recorded:
    return _write("Transpose", [x], 4, perm=_CHANNELS_LAST) if x.channels_first else x


def _constant(array: npt.NDArray[Any]) -> Recorded:
    return Recorded(_CONSTANT, array.ndim, constant=array)


def _integers(values: Iterable[int]) -> Recorded:
    return _constant(np.asarray(tuple(values), np.int64))


def _renumber(axis: int) -> int:
    """Where an axis of N x H x W x C stands in N x C x H x W."""
    return _CHANNELS_FIRST.index(axis)


def _pads(padding: Padding) -> tuple[int, ...]:
    (top, bottom), (left, right) = padding
    return (top, left, bottom, right)


def _value_info(name: str, value: Recorded) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * value.rank)


def _in_order(results: Iterable[Recorded]) -> list[Recorded]:
    """Everything that ``results`` are computed from, inputs first; without recursion."""
    ordered: list[Recorded] = []
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
