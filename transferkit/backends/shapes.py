"""A table that computes shapes: running a network with it gives the output shape of each layer."""

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
    """Return the output shape of each layer for one image, without the batch axis.

    Nothing is computed, so no weights are needed.

    Parameters
    ----------
    network
        The network to analyze.
    height, width
        The size of the image, in pixels.
    wrapped
        The model object that computes the wrapped nodes of ``network``, if it has any.

    Returns
    -------
    mapping of str to tuple of int
        Each name in `Network.layers`, in that order, to (h, w, c) or (d,).

    Raises
    ------
    ShapeError
        If the network does not accept images of this size; the message has the first layer
        that fails.

    Examples
    --------
    >>> from transferkit.backends.shapes import infer_shapes
    >>> from transferkit.networks import build_network
    >>> infer_shapes(build_network("mobilenet_v2"), 224, 224)["features.18"]
    (7, 7, 1280)
    """
    try:
        shapes = _run(network, height, width, wrapped)
    except ShapeError as error:
        if wrapped is None and _has_fixed_size(network):
            side = network.input_size
            message = f"accepts only {side} x {side} images, not {height} x {width}"
        else:
            message = f"does not accept {height} x {width} images"
        raise ShapeError(f"{network.name} {message}: {error}") from error
    return {layer: shapes[network.resolve(layer)][1:] for layer in network.layers}


def _run(
    network: Network, height: int, width: int, wrapped: WrappedModel | None = None
) -> Mapping[str, Shape]:
    def run_wrapped(_: Shape) -> Mapping[str, Shape]:
        shapes = {} if wrapped is None else wrapped.shapes(height, width)
        return {name: (1, *shape) for name, shape in shapes.items()}

    nodes = [node.name for node in network.nodes]
    pixels = (1, height, width, 3)
    return run_network(ShapeTable(), network, network.parameters, pixels, nodes, run_wrapped)


def _has_fixed_size(network: Network) -> bool:
    """Return whether a network accepts images of the size it was designed for, but no larger."""
    try:
        _run(network, network.input_size, network.input_size)
    except ShapeError:
        return False
    try:
        _run(network, 2 * network.input_size, 2 * network.input_size)
    except ShapeError:
        return True
    return False


class ShapeTable(Table[Shape]):
    """The primitives over shapes: each returns the shape of its result.

    Primitives raise `transferkit.errors.ShapeError` if their arguments' shapes do not match.
    """

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
        out_channels, per_group, *size = kernel
        if c != per_group * groups or out_channels % groups:
            raise ShapeError(
                f"a kernel of shape {kernel} in {groups} groups does not match {c} channels"
            )
        return (n, *_count_windows((h, w), size, stride, padding), out_channels)

    def batch_norm(
        self, x: Shape, scale: Shape, shift: Shape, mean: Shape, variance: Shape, *, epsilon: float
    ) -> Shape:
        if {scale, shift, mean, variance} != {x[-1:]}:
            raise ShapeError(f"statistics of {scale[0]} channels do not match {x[-1]} channels")
        return x

    def linear(self, x: Shape, weight: Shape, bias: Shape) -> Shape:
        if len(x) != 2 or weight[1] != x[1] or bias != weight[:1]:
            raise ShapeError(
                f"weights of shape {weight} and a bias of shape {bias} do not match an input of "
                f"shape {x}"
            )
        return (x[0], weight[0])

    def matmul(self, x: Shape, y: Shape) -> Shape:
        if x[-1] != y[-2]:
            raise ShapeError(f"matrices of shapes {x} and {y} cannot be multiplied")
        return (*self.add(x[:-2], y[:-2]), x[-2], y[-1])

    def max_pool2d(
        self, x: Shape, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Shape:
        return (x[0], *_count_windows(x[1:3], size, stride, padding), x[3])

    def average_pool2d(self, x: Shape, *, size: tuple[int, int], stride: tuple[int, int]) -> Shape:
        return (x[0], *_count_windows(x[1:3], size, stride, ((0, 0), (0, 0))), x[3])

    def adaptive_average_pool2d(self, x: Shape, *, height: int, width: int) -> Shape:
        return (x[0], height, width, x[3])

    def relu(self, x: Shape) -> Shape:
        return x

    def clip(self, x: Shape, *, low: float, high: float) -> Shape:
        return x

    sigmoid = tanh = exp = log = sqrt = absolute = sign = softmax = log_softmax = relu
    reverse_channels = hard_sigmoid = hard_swish = relu

    def add(self, x: Shape, y: Shape) -> Shape:
        try:
            return np.broadcast_shapes(x, y)
        except ValueError as error:
            raise ShapeError(f"shapes {x} and {y} cannot be broadcast") from error

    subtract = multiply = divide = add

    def concat(self, *tensors: Shape, axis: int) -> Shape:
        first = tensors[0]
        for shape in tensors:
            if shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
                raise ShapeError(f"shapes {first} and {shape} differ in an axis other than {axis}")
        return (*first[:axis], sum(shape[axis] for shape in tensors), *first[axis + 1 :])

    def flatten(self, x: Shape, *, channels_first: bool = False) -> Shape:
        return (x[0], math.prod(x[1:]))

    def sum(self, x: Shape, *, axes: tuple[int, ...], keepdims: bool = False) -> Shape:
        if keepdims:
            return tuple(1 if axis in axes else length for axis, length in enumerate(x))
        return tuple(length for axis, length in enumerate(x) if axis not in axes)

    mean = max = sum

    def pad(self, x: Shape, *, padding: Padding, value: float = 0.0) -> Shape:
        (top, bottom), (left, right) = padding
        n, h, w, c = x
        return (n, h + top + bottom, w + left + right, c)

    def crop(self, x: Shape, *, top: int, left: int, height: int, width: int) -> Shape:
        n, h, w, c = x
        if top + height > h or left + width > w:
            raise ShapeError(
                f"a window of {height} x {width} at ({top}, {left}) exceeds an image of {h} x {w}"
            )
        return (n, height, width, c)

    def resize(self, x: Shape, *, height: int, width: int) -> Shape:
        return (x[0], height, width, x[3])

    def slice(self, x: Shape, *, axis: int, start: int, stop: int | None) -> Shape:
        length = len(range(*slice(start, stop).indices(x[axis])))
        return (*x[:axis], length, *x[axis + 1 :])

    def transpose(self, x: Shape, *, axes: tuple[int, ...]) -> Shape:
        if sorted(axes) != list(range(len(x))):
            raise ShapeError(f"{axes} is not a permutation of {len(x)} axes")
        return tuple(x[axis] for axis in axes)

    def sample(self, x: Shape, positions: Shape) -> Shape:
        if len(positions) != 3 or positions[2] != 2:
            raise ShapeError(f"positions have shape {positions}; expected (height, width, 2)")
        return (x[0], *positions[:2], x[3])


def _count_windows(
    size: tuple[int, ...],
    window: tuple[int, ...] | list[int],
    stride: tuple[int, int],
    padding: Padding,
) -> tuple[int, int]:
    """Return the number of windows along each axis."""
    height, width = (length + sum(pads) for length, pads in zip(size, padding, strict=True))
    if height < window[0] or width < window[1]:
        raise ShapeError(
            f"a window of {window[0]} x {window[1]} exceeds an input of {height} x {width}"
        )
    return (height - window[0]) // stride[0] + 1, (width - window[1]) // stride[1] + 1
