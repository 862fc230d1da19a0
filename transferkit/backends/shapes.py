"""A table that computes shapes: walking a network over it tells every layer's output shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table, WrappedModel
from transferkit.backends.interpreter import run_network
from transferkit.errors import ShapeError
from transferkit.networks.graph import Network, Padding

__all__ = ["ShapeTable", "infer_shapes"]

Shape: TypeAlias = tuple[int, ...]


def infer_shapes(
    network: Network, height: int, width: int, wrapped: WrappedModel | None = None
) -> Mapping[str, Shape]:
    """The shape of each layer's output for one picture, without the batch axis.

    Parameters
    ----------
    network
        What would be run.
    height, width
        Of the picture, in pixels.
    wrapped
        What computes the nodes that are not over the table, if any.

    Returns
    -------
    mapping of str to tuple of int
        Every name in `Network.layers`, in that order, to (h, w, c) or (d,).

    Raises
    ------
    ShapeError
        If the network cannot take a picture of that size; names the first layer that fails.

    Examples
    --------
    >>> from transferkit.backends.shapes import infer_shapes
    >>> from transferkit.networks import build_network
    >>> infer_shapes(build_network("mobilenet_v2"), 224, 224)["features.18"]
    (7, 7, 1280)
    """
    nodes = [node.name for node in network.nodes]
    try:
        found = {} if wrapped is None else wrapped.shapes(height, width)
        given = {name: (1, *shape) for name, shape in found.items()}
        shapes = run_network(
            ShapeTable(), network, network.parameters, (1, height, width, 3), nodes, given
        )
    except ShapeError as error:
        raise ShapeError(
            f"{network.name} cannot take {height} x {width} pixels: {error}"
        ) from error
    return {layer: shapes[network.resolve(layer)][1:] for layer in network.layers}


class ShapeTable(Table[Shape]):
    """The primitives over the shapes of their arguments."""

    def asarray(self, array: npt.ArrayLike) -> Shape:
        return np.shape(array)

    def to_numpy(self, tensor: Shape) -> npt.NDArray[Any]:
        return np.asarray(tensor)

    def kernel(self, array: npt.ArrayLike, groups: int) -> Shape:
        return np.shape(array)

    def conv2d(
        self,
        x: Shape,
        kernel: Shape,
        bias: Shape | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Shape:
        n, h, w, c = x
        channels_out, per_group, *size = kernel
        if c != per_group * groups or channels_out % groups:
            raise ShapeError(f"a kernel {kernel} in {groups} groups does not fit {c} channels")
        return (n, *_windows((h, w), size, stride, padding), channels_out)

    def batch_norm(
        self, x: Shape, scale: Shape, shift: Shape, mean: Shape, variance: Shape, *, epsilon: float
    ) -> Shape:
        if {scale, shift, mean, variance} != {x[-1:]}:
            raise ShapeError(f"statistics of {scale[0]} channels for {x[-1]} channels")
        return x

    def linear(self, x: Shape, weight: Shape, bias: Shape) -> Shape:
        if len(x) != 2 or weight[1] != x[1] or bias != weight[:1]:
            raise ShapeError(f"a matrix {weight} with a bias {bias} does not fit")
        return (x[0], weight[0])

    def matmul(self, x: Shape, y: Shape) -> Shape:
        if x[-1] != y[-2]:
            raise ShapeError(f"matrices {x} and {y} do not fit")
        return (*self.add(x[:-2], y[:-2]), x[-2], y[-1])

    def max_pool2d(
        self, x: Shape, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Shape:
        return (x[0], *_windows(x[1:3], size, stride, padding), x[3])

    def average_pool2d(self, x: Shape, *, size: tuple[int, int], stride: tuple[int, int]) -> Shape:
        return (x[0], *_windows(x[1:3], size, stride, ((0, 0), (0, 0))), x[3])

    def relu(self, x: Shape) -> Shape:
        return x

    def clip(self, x: Shape, *, low: float, high: float) -> Shape:
        return x

    sigmoid = tanh = exp = log = sqrt = absolute = sign = softmax = log_softmax = relu

    def add(self, x: Shape, y: Shape) -> Shape:
        try:
            return np.broadcast_shapes(x, y)
        except ValueError as error:
            raise ShapeError(f"shapes {x} and {y} do not go together") from error

    subtract = multiply = divide = add

    def concat(self, *tensors: Shape, axis: int) -> Shape:
        first = tensors[0]
        for shape in tensors:
            if shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
                raise ShapeError("they differ in another axis than the one they are joined along")
        return (*first[:axis], sum(shape[axis] for shape in tensors), *first[axis + 1 :])

    def flatten(self, x: Shape) -> Shape:
        return (x[0], math.prod(x[1:]))

    def sum(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool = False) -> Shape:
        kept = ((axis, length) for axis, length in enumerate(x))
        if keepdims:
            return tuple(1 if axis in axes else length for axis, length in kept)
        return tuple(length for axis, length in kept if axis not in axes)

    mean = max = sum

    def pad(self, x: Shape, *, padding: Padding, value: float = 0.0) -> Shape:
        (top, bottom), (left, right) = padding
        n, h, w, c = x
        return (n, h + top + bottom, w + left + right, c)

    def crop(self, x: Shape, *, top: int, left: int, height: int, width: int) -> Shape:
        n, h, w, c = x
        if top + height > h or left + width > w:
            raise ShapeError(f"a window of {height} x {width} at ({top}, {left}) does not fit")
        return (n, height, width, c)

    def resize(self, x: Shape, *, height: int, width: int) -> Shape:
        return (x[0], height, width, x[3])

    def slice(self, x: Shape, *, axis: int, start: int, stop: int | None) -> Shape:
        length = len(range(*slice(start, stop).indices(x[axis])))
        return (*x[:axis], length, *x[axis + 1 :])

    def transpose(self, x: Shape, *, axes: tuple[int, ...]) -> Shape:
        if sorted(axes) != list(range(len(x))):
            raise ShapeError(f"{axes} is no order of {len(x)} axes")
        return tuple(x[axis] for axis in axes)

    def sample(self, x: Shape, positions: Shape) -> Shape:
        if len(positions) != 3 or positions[2] != 2:
            raise ShapeError(f"positions of shape {positions}; expected (height, width, 2)")
        return (x[0], *positions[:2], x[3])


def _windows(
    size: tuple[int, ...],
    window: tuple[int, ...] | list[int],
    stride: tuple[int, int],
    padding: Padding,
) -> tuple[int, int]:
    """How many windows fit along each side."""
    counts = [
        (length + sum(pads) - extent) // step + 1
        for length, extent, step, pads in zip(size, window, stride, padding, strict=True)
    ]
    if min(counts) < 1:
        raise ShapeError(f"a window of {window[0]} x {window[1]} does not fit")
    return counts[0], counts[1]
