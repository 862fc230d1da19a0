"""The primitives in plain NumPy: slow, obvious, and in float64 the oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from transferkit.backends.base import API_VERSION, INFERENCE, Backend, Table
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.networks.graph import Network, Padding, Weights

__all__ = ["ReferenceBackend", "ReferenceTable", "finite_differences", "reference_activations"]

Array: TypeAlias = npt.NDArray[Any]


class ReferenceTable(Table[Array]):
    """The primitives over NumPy arrays, each written as its definition reads.

    Parameters
    ----------
    dtype
        The number type to compute in, a floating one.

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
        channels_out, per_group, *size = kernel.shape
        windows = _windows(self.pad(x, padding=padding), (size[0], size[1]), stride)
        n, h, w = windows.shape[:3]
        windows = windows.reshape(n, h, w, groups, per_group, *size)
        kernels = kernel.reshape(groups, channels_out // groups, per_group, *size)
        y = np.zeros((n, h, w, groups, channels_out // groups), x.dtype)
        # One pixel of the window at a time, which keeps the arrays small.
        for row in range(size[0]):
            for column in range(size[1]):
                y += np.einsum(
                    "nhwgi,goi->nhwgo", windows[..., row, column], kernels[..., row, column]
                )
        y = y.reshape(n, h, w, channels_out)
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
        # The same as 1 / (1 + exp(-x)), without its overflow.
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
        # Subtracting a constant changes nothing but the overflow; so too in log_softmax.
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
        # A tent of one pixel around each position, along either axis.
        rows = np.maximum(1 - np.abs(inside[..., :1] - np.arange(h)), 0)
        columns = np.maximum(1 - np.abs(inside[..., 1:] - np.arange(w)), 0)
        # Counting gives float64, whatever the type of the picture is.
        tents = rows.astype(x.dtype), columns.astype(x.dtype)
        return np.asarray(np.einsum("yxh,yxw,nhwc->nyxc", *tents, x, optimize=True))

    def normalize(self, x: Array, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
        return (x - self.asarray(mean)) / self.asarray(std)

    def hard_sigmoid(self, x: Array) -> Array:
        return self.clip(x + 3, low=0.0, high=6.0) / 6

    def hard_swish(self, x: Array) -> Array:
        return x * self.hard_sigmoid(x)

    def l2_normalize(self, x: Array) -> Array:
        length: Array = np.sqrt((x**2).sum(axis=1, keepdims=True) + self.asarray(1e-12))
        return x / length

    def _interpolation(self, length: int, new_length: int) -> Array:
        """The matrix (new length, length) that resizes along one axis."""
        matrix = np.zeros((new_length, length), self.dtype)
        for index in range(new_length):
            centre = (index + 0.5) * length / new_length - 0.5
            before = int(np.floor(centre))
            fraction = centre - before
            matrix[index, min(max(before, 0), length - 1)] += 1 - fraction
            matrix[index, min(max(before + 1, 0), length - 1)] += fraction
        return matrix


def _windows(x: Array, size: tuple[int, int], stride: tuple[int, int]) -> Array:
    """Every window of ``x`` (n, h, w, c) as (n, h', w', c, height, width)."""
    windows: Array = sliding_window_view(x, size, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    return windows


class ReferenceBackend(Backend):
    """The reference as a backend: a function is compiled by leaving it as it is.

    No entry point names it. It has no gradients; `finite_differences` stands in for them.

    Parameters
    ----------
    device
        As for every backend.
    dtype
        The number type to compute in, and of the arrays that compiled functions give.

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
            found = function(*map(self.table.asarray, arrays))
            # Copies, since a primitive may give a view of its argument.
            if isinstance(found, Mapping):
                return {name: np.array(value, order="C") for name, value in found.items()}
            return np.array(found, order="C")

        return run


def reference_activations(
    network: Network, weights: Weights, pixels: npt.ArrayLike, layers: Sequence[str]
) -> dict[str, Array]:
    """What every backend should compute: node by node in float64, nothing folded or left out.

    Parameters
    ----------
    network, weights
        What to compute.
    pixels
        (n, h, w, 3), RGB, in [0, 1].
    layers
        Nodes' names or aliases.

    Returns
    -------
    dict of str to array
        Each of ``layers`` to its output, float64.

    Raises
    ------
    UnknownNameError
        If there is no such layer.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.networks import build_network, random_weights
    >>> from transferkit.testing import reference_activations
    >>> network = build_network("mobilenet_v2")
    >>> pixels = np.zeros((1, 32, 32, 3))
    >>> found = reference_activations(network, random_weights(network, 0), pixels, ["logits"])
    >>> found["logits"].shape
    (1, 1000)
    """
    table = ReferenceTable()
    parameters = load_parameters(table, network, weights)
    targets = {layer: network.resolve(layer) for layer in layers}
    found = run_network(table, network, parameters, table.asarray(pixels), targets.values())
    return {layer: found[target] for layer, target in targets.items()}


def finite_differences(
    function: Callable[[npt.NDArray[np.float64]], npt.ArrayLike],
    x: npt.ArrayLike,
    directions: Iterable[npt.ArrayLike],
    step: float = 1e-6,
) -> npt.NDArray[np.float64]:
    """The derivative of a function along some directions, by central differences in float64.

    Parameters
    ----------
    function
        Takes a float64 array of the shape of ``x`` and gives one number.
    x
        Where to differentiate.
    directions
        Arrays of the shape of ``x``.
    step
        How far to go both ways: ``(f(x + step d) - f(x - step d)) / (2 step)``. The error is
        about ``step ** 2`` times the third derivative, and ``1e-16 / step`` times the value.

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
    centre = np.asarray(x, np.float64)
    derivatives = []
    for direction in directions:
        change = step * np.asarray(direction, np.float64)
        ahead, behind = (float(np.asarray(function(centre + way * change))) for way in (1, -1))
        derivatives.append((ahead - behind) / (2 * step))
    return np.array(derivatives)
