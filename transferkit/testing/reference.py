"""A simple implementation of the primitives in NumPy, the reference of the tests in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from transferkit.backends.base import (
    API_VERSION,
    GRADIENTS,
    INFERENCE,
    TRAINING,
    Backend,
    Table,
)
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.networks.graph import Network, Padding, Weights

__all__ = [
    "FiniteDifferencesBackend",
    "ReferenceBackend",
    "ReferenceTable",
    "finite_differences",
    "reference_activations",
]

Array: TypeAlias = npt.NDArray[Any]


class ReferenceTable(Table[Array]):
    """The primitives over NumPy arrays, each implemented directly from its definition.

    Parameters
    ----------
    dtype
        The floating-point dtype of all arrays.

    Examples
    --------
    >>> from transferkit.testing import ReferenceTable
    >>> ReferenceTable().relu(ReferenceTable().asarray([-1, 2]))
    array([0., 2.])
    """

    def __init__(self, dtype: npt.DTypeLike = np.float64) -> None:
        self.dtype = np.dtype(dtype)

    def asarray(self, array: npt.ArrayLike) -> Array:
        return np.asarray(array, self.dtype)

    def to_numpy(self, tensor: Array) -> Array:
        return tensor

    def kernel(self, array: npt.ArrayLike, groups: int) -> Array:
        return self.asarray(array)

    def kernel_of_tensor(self, weight: Array, groups: int) -> Array:
        return weight

    def reshape(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape)

    def conv2d(
        self,
        x: Array,
        kernel: Array,
        bias: Array | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Array:
        out_channels, per_group, *size = kernel.shape
        windows = _windows(self.pad(x, padding=padding), (size[0], size[1]), stride)
        n, h, w = windows.shape[:3]
        windows = windows.reshape(n, h, w, groups, per_group, *size)
        kernels = kernel.reshape(groups, out_channels // groups, per_group, *size)
        y = np.zeros((n, h, w, groups, out_channels // groups), x.dtype)
        # One position in the window at a time, to limit memory.
        for row in range(size[0]):
            for column in range(size[1]):
                y += np.einsum(
                    "nhwgi,goi->nhwgo", windows[..., row, column], kernels[..., row, column]
                )
        y = y.reshape(n, h, w, out_channels)
        return y if bias is None else y + bias

    def batch_norm(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        mean: Array,
        variance: Array,
        *,
        epsilon: float,
    ) -> Array:
        deviation: Array = np.sqrt(variance + self.asarray(epsilon))
        return (x - mean) / deviation * scale + shift

    def linear(self, x: Array, weight: Array, bias: Array) -> Array:
        return x @ weight.T + bias

    def matmul(self, x: Array, y: Array) -> Array:
        return x @ y

    def max_pool2d(
        self, x: Array, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Array:
        padded = self.pad(x, padding=padding, value=-np.inf)
        return self.max(_windows(padded, size, stride), axes=(4, 5))

    def average_pool2d(self, x: Array, *, size: tuple[int, int], stride: tuple[int, int]) -> Array:
        return self.mean(_windows(x, size, stride), axes=(4, 5))

    def adaptive_average_pool2d(self, x: Array, *, height: int, width: int) -> Array:
        _, h, w, _ = x.shape
        rows = [x[:, i * h // height : -(-(i + 1) * h // height)] for i in range(height)]
        y = np.stack([row.mean(axis=1) for row in rows], axis=1)
        columns = [y[:, :, i * w // width : -(-(i + 1) * w // width)] for i in range(width)]
        return np.stack([column.mean(axis=2) for column in columns], axis=2)

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def clip(self, x: Array, *, low: float, high: float) -> Array:
        return np.minimum(np.maximum(x, low), high)

    def sigmoid(self, x: Array) -> Array:
        # Equal to 1 / (1 + exp(-x)), without overflow.
        return np.asarray(np.exp(-np.logaddexp(0, -x)))

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def exp(self, x: Array) -> Array:
        return np.exp(x)

    def log(self, x: Array) -> Array:
        return np.log(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def absolute(self, x: Array) -> Array:
        return np.abs(x)

    def sign(self, x: Array) -> Array:
        return np.sign(x)

    def softmax(self, x: Array) -> Array:
        # Subtracting the maximum does not change the result and prevents overflow.
        y: Array = np.exp(x - x.max(axis=-1, keepdims=True))
        total: Array = y.sum(axis=-1, keepdims=True)
        return y / total

    def log_softmax(self, x: Array) -> Array:
        x = x - x.max(axis=-1, keepdims=True)
        total: Array = np.exp(x).sum(axis=-1, keepdims=True)
        return x - np.log(total)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def subtract(self, x: Array, y: Array) -> Array:
        return x - y

    def multiply(self, x: Array, y: Array) -> Array:
        return x * y

    def divide(self, x: Array, y: Array) -> Array:
        return x / y

    def concat(self, *tensors: Array, axis: int) -> Array:
        return np.concatenate(tensors, axis)

    def flatten(self, x: Array, *, channels_first: bool = False) -> Array:
        x = x.transpose(0, 3, 1, 2) if channels_first else x
        return x.reshape(x.shape[0], -1)

    def reverse_channels(self, x: Array) -> Array:
        return x[..., ::-1]

    def sum(self, x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        return np.asarray(x.sum(axis=axes, keepdims=keepdims))

    def mean(self, x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        return np.asarray(x.mean(axis=axes, keepdims=keepdims))

    def max(self, x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        return np.asarray(x.max(axis=axes, keepdims=keepdims))

    def pad(self, x: Array, *, padding: Padding, value: float = 0.0) -> Array:
        return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)

    def crop(self, x: Array, *, top: int, left: int, height: int, width: int) -> Array:
        return x[:, top : top + height, left : left + width, :]

    def resize(self, x: Array, *, height: int, width: int) -> Array:
        rows = self._interpolation(x.shape[1], height)
        columns = self._interpolation(x.shape[2], width)
        return np.asarray(np.einsum("yh,xw,nhwc->nyxc", rows, columns, x, optimize=True))

    def slice(self, x: Array, *, axis: int, start: int, stop: int | None) -> Array:
        return x.take(range(*slice(start, stop).indices(x.shape[axis])), axis)

    def transpose(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        return x.transpose(axes)

    def sample(self, x: Array, positions: Array) -> Array:
        _, h, w, _ = x.shape
        inside = np.clip(positions, 0, (h - 1, w - 1))
        # The weights of bilinear interpolation: triangles of width 2 around each position.
        rows = np.maximum(1 - np.abs(inside[..., :1] - np.arange(h)), 0)
        columns = np.maximum(1 - np.abs(inside[..., 1:] - np.arange(w)), 0)
        # The positions of pixels are integers, which turn the weights into float64.
        weights = rows.astype(x.dtype), columns.astype(x.dtype)
        return np.asarray(np.einsum("yxh,yxw,nhwc->nyxc", *weights, x, optimize=True))

    def normalize(self, x: Array, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
        return (x - self.asarray(mean)) / self.asarray(std)

    def hard_sigmoid(self, x: Array) -> Array:
        return self.clip(x + 3, low=0.0, high=6.0) / 6

    def hard_swish(self, x: Array) -> Array:
        return x * self.hard_sigmoid(x)

    def l2_normalize(self, x: Array) -> Array:
        norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        return self.asarray(x / np.where(norms > 0, norms, 1))

    def _interpolation(self, length: int, new_length: int) -> Array:
        """Return the matrix (new length, length) that resizes one axis."""
        matrix = np.zeros((new_length, length), self.dtype)
        for index in range(new_length):
            center = (index + 0.5) * length / new_length - 0.5
            before = int(np.floor(center))
            fraction = center - before
            matrix[index, min(max(before, 0), length - 1)] += 1 - fraction
            matrix[index, min(max(before + 1, 0), length - 1)] += fraction
        return matrix


def _windows(x: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
    """Return all windows of ``x`` (n, h, w, c), as (n, h', w', c, height, width)."""
    windows: Array = sliding_window_view(x, size, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    return windows


class ReferenceBackend(Backend):
    """The reference as a backend, which runs functions directly, without compilation.

    It is not registered, so it has to be passed as an object, not by name. It has no gradients;
    tests use `finite_differences` or `FiniteDifferencesBackend` instead.

    Parameters
    ----------
    device
        ``"cpu"`` or None.
    dtype
        The floating-point dtype of all tensors and results.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing import ReferenceBackend
    >>> backend = ReferenceBackend()
    >>> double = backend.compile(lambda x: backend.table.add(x, x))
    >>> double(np.ones(2, np.float32))
    array([2., 2.])
    """

    name: ClassVar[str] = "reference"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE})

    def __init__(self, device: str | None = None, dtype: npt.DTypeLike = np.float64) -> None:
        super().__init__(device)
        self.table = ReferenceTable(dtype)

    @classmethod
    def version(cls) -> str:
        return np.__version__

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        return ("cpu",)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arrays: Array) -> Any:
            result = function(*map(self.table.asarray, arrays))
            # Copies, since primitives may return views of their arguments.
            if isinstance(result, Mapping):
                return {name: np.array(value, order="C") for name, value in result.items()}
            return np.array(result, order="C")

        return run


class FiniteDifferencesBackend(ReferenceBackend):
    """The reference with gradients, for functions of a few hundred numbers.

    Each derivative is one of `finite_differences`, in float64. A value that does not depend on
    the first argument has a gradient of zeros instead of an error.

    Parameters
    ----------
    device
        ``"cpu"`` or None.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing import FiniteDifferencesBackend
    >>> backend = FiniteDifferencesBackend()
    >>> square = backend.value_and_grad(lambda x: backend.table.multiply(x, x))
    >>> square(np.array([1.0, 3.0]))["gradient"].round(6)
    array([2., 6.])
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE, GRADIENTS, TRAINING})

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device, np.float64)

    def compile_tensors(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        def run(first: Any, *others: Any) -> dict[str, Any]:
            def value(x: Array, name: str | None = None) -> float:
                result = function(x if name is None else {**first, name: x}, *others)
                return float(np.sum(result["value"] if isinstance(result, Mapping) else result))

            result = function(first, *others)
            outputs = result if isinstance(result, Mapping) else {"value": result}
            if not isinstance(first, Mapping):
                return {**outputs, "gradient": _gradient(value, first)}
            gradient = {name: _gradient(partial(value, name=name), x) for name, x in first.items()}
            return {**outputs, "gradient": gradient}

        return run


def _gradient(function: Callable[[Array], npt.ArrayLike], x: Array) -> Array:
    directions = (np.eye(1, x.size, index).reshape(x.shape) for index in range(x.size))
    return finite_differences(function, x, directions).reshape(x.shape)


def reference_activations(
    network: Network, weights: Weights, pixels: npt.ArrayLike, layers: Sequence[str]
) -> dict[str, Array]:
    """Return the outputs of layers, computed by the reference in float64.

    All nodes are computed as they are: none is removed, and batch normalization is not folded.

    Parameters
    ----------
    network, weights
        The network and its weights.
    pixels
        (n, h, w, 3), RGB, in [0, 1].
    layers
        Names of nodes, or aliases.

    Returns
    -------
    dict of str to array
        Each of ``layers`` to its output, float64.

    Raises
    ------
    UnknownNameError
        If the network does not have one of the layers.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.networks import build_network, random_weights
    >>> from transferkit.testing import reference_activations
    >>> network = build_network("mobilenet_v2")
    >>> pixels = np.zeros((1, 32, 32, 3))
    >>> outputs = reference_activations(network, random_weights(network, 0), pixels, ["logits"])
    >>> outputs["logits"].shape
    (1, 1000)
    """
    table = ReferenceTable()
    parameters = load_parameters(table, network, weights)
    targets = {layer: network.resolve(layer) for layer in layers}
    outputs = run_network(table, network, parameters, table.asarray(pixels), targets.values())
    return {layer: outputs[target] for layer, target in targets.items()}


def finite_differences(
    function: Callable[[npt.NDArray[np.float64]], npt.ArrayLike],
    x: npt.ArrayLike,
    directions: Iterable[npt.ArrayLike],
    step: float = 1e-6,
) -> npt.NDArray[np.float64]:
    """Return directional derivatives of a function, by central differences in float64.

    Parameters
    ----------
    function
        A function from a float64 array of the shape of ``x`` to a number.
    x
        The point at which to differentiate.
    directions
        Arrays of the shape of ``x``.
    step
        The step of the differences, ``(f(x + step d) - f(x - step d)) / (2 step)``. The error is
        about ``step ** 2`` times the third derivative, plus ``1e-16 / step`` times the value.

    Returns
    -------
    array
        (number of directions,), float64.

    Examples
    --------
    >>> from transferkit.testing import finite_differences
    >>> finite_differences(lambda x: (x**2).sum(), [1.0, 3.0], [[0.0, 1.0]]).round(6)
    array([6.])
    """
    x = np.asarray(x, np.float64)
    derivatives = []
    for direction in directions:
        offset = step * np.asarray(direction, np.float64)
        forward = float(np.asarray(function(x + offset)))
        backward = float(np.asarray(function(x - offset)))
        derivatives.append((forward - backward) / (2 * step))
    return np.array(derivatives)
