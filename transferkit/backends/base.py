"""What a backend is: a table of primitives, and the little that a framework adds to it.

A plugin's author subclasses `Table` and `Backend`. Everything else (walking a network,
keeping the layers asked for, folding batch norm) is written once, over these two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy.typing as npt

from transferkit.errors import NoGradientError, UnknownNameError, UnsupportedError
from transferkit.networks.graph import Network, Padding, Weights

__all__ = ["API_VERSION", "OPERATIONS", "Backend", "Table", "WrappedModel", "no_gradient_error"]

API_VERSION = 1
"""The version of the plugin interface that this transferkit speaks."""

GRADIENTS = "gradients"
"""The capability of a backend whose `Backend.value_and_grad` works."""

INFERENCE = "inference"
"""The capability of a backend that runs networks: all of them."""

Tensor = TypeVar("Tensor")
Function: TypeAlias = Callable[..., Any]


class Table(ABC, Generic[Tensor]):
    """The primitives, with one exact meaning on every backend.

    Pictures and feature maps are N x H x W x C. A backend is free to lay them out in memory
    as its framework likes best, as long as axes are counted this way. Padding is explicit,
    per side; numbers are float32 unless the table says otherwise. Methods that have a body
    here are written over the others; a backend may replace them by something faster.

    Attributes
    ----------
    shares_memory
        Whether `asarray` and `kernel` may give a tensor that shares memory with their argument.
    """

    shares_memory: ClassVar[bool] = True

    @abstractmethod
    def asarray(self, array: npt.ArrayLike) -> Tensor:
        """A tensor of the table's number type with the values of ``array``."""

    @abstractmethod
    def to_numpy(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The values of ``tensor``."""

    @abstractmethod
    def kernel(self, array: npt.ArrayLike, groups: int) -> Tensor:
        """Convolution weights (out, in / groups, height, width), as `conv2d` wants them."""

    @abstractmethod
    def conv2d(
        self,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Tensor:
        """Cross-correlation of ``x`` (n, h, w, c), padded with zeros, with a `kernel`.

        The output is (n, floor((h + top + bottom - kernel height) / stride) + 1, ..., out).
        """

    @abstractmethod
    def batch_norm(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        *,
        epsilon: float,
    ) -> Tensor:
        """``(x - mean) / sqrt(variance + epsilon) * scale + shift``, per channel."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x @ weight.T + bias`` for ``x`` (n, in), ``weight`` (out, in), ``bias`` (out)."""

    @abstractmethod
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix product over the last two axes, the leading ones broadcast."""

    @abstractmethod
    def max_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Tensor:
        """The largest value in each window; what is padded never wins.

        ``padding`` is smaller than ``size`` on every side.
        """

    @abstractmethod
    def average_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int]
    ) -> Tensor:
        """The mean of each window that lies wholly inside the picture."""

    @abstractmethod
    def adaptive_average_pool2d(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """The means of ``height`` x ``width`` windows that cover ``x`` (n, h, w, c) evenly.

        Window i of the rows goes from ``floor(i * h / height)`` up to, and without,
        ``ceil((i + 1) * h / height)``; so too with the columns. Windows may overlap, and
        where h is smaller than ``height`` rows are repeated.
        """

    @abstractmethod
    def relu(self, x: Tensor) -> Tensor:
        """``max(x, 0)``; its derivative at 0 is 0."""

    @abstractmethod
    def clip(self, x: Tensor, *, low: float, high: float) -> Tensor:
        """``min(max(x, low), high)``; its derivative is 1 between the two and 0 at both."""

    @abstractmethod
    def sigmoid(self, x: Tensor) -> Tensor:
        """``1 / (1 + exp(-x))``."""

    @abstractmethod
    def tanh(self, x: Tensor) -> Tensor:
        """The hyperbolic tangent."""

    @abstractmethod
    def exp(self, x: Tensor) -> Tensor:
        """The exponential."""

    @abstractmethod
    def log(self, x: Tensor) -> Tensor:
        """The natural logarithm."""

    @abstractmethod
    def sqrt(self, x: Tensor) -> Tensor:
        """The square root."""

    @abstractmethod
    def absolute(self, x: Tensor) -> Tensor:
        """The absolute value; its derivative at 0 is 0."""

    @abstractmethod
    def sign(self, x: Tensor) -> Tensor:
        """-1, 0 or 1; its derivative is 0."""

    @abstractmethod
    def softmax(self, x: Tensor) -> Tensor:
        """``exp(x) / sum(exp(x))`` over the last axis."""

    @abstractmethod
    def log_softmax(self, x: Tensor) -> Tensor:
        """``x - log(sum(exp(x)))`` over the last axis."""

    @abstractmethod
    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x + y``, shapes broadcast."""

    @abstractmethod
    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """``x - y``, shapes broadcast."""

    @abstractmethod
    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """``x * y``, shapes broadcast."""

    @abstractmethod
    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """``x / y``, shapes broadcast."""

    @abstractmethod
    def concat(self, *tensors: Tensor, axis: int) -> Tensor:
        """The tensors one after the other along ``axis``, which counts from 0."""

    @abstractmethod
    def flatten(self, x: Tensor, *, channels_first: bool = False) -> Tensor:
        """(n, ...) to (n, everything else), in row-major order.

        With ``channels_first``, ``x`` is (n, h, w, c), and its numbers come in the order of
        n, c, h, w: what a matrix expects that was trained on feature maps of that layout.
        """

    @abstractmethod
    def reverse_channels(self, x: Tensor) -> Tensor:
        """The last axis, of one or more, backwards: RGB to BGR."""

    @abstractmethod
    def sum(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """The sum over ``axes``, which count from 0."""

    @abstractmethod
    def mean(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """The mean over ``axes``, which count from 0."""

    @abstractmethod
    def max(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """The largest value over ``axes``, which count from 0."""

    @abstractmethod
    def pad(self, x: Tensor, *, padding: Padding, value: float = 0.0) -> Tensor:
        """``x`` (n, h, w, c) with rows and columns of ``value`` around it."""

    @abstractmethod
    def crop(self, x: Tensor, *, top: int, left: int, height: int, width: int) -> Tensor:
        """The window of ``x`` (n, h, w, c) whose first pixel is (top, left)."""

    @abstractmethod
    def resize(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """``x`` (n, h, w, c) in another size: bilinear, half-pixel centres, edges repeated.

        No smoothing is done before shrinking: each output pixel is made of the four input
        pixels around its centre.
        """

    @abstractmethod
    def slice(self, x: Tensor, *, axis: int, start: int, stop: int | None) -> Tensor:
        """``x[start:stop]`` along ``axis``, with Python's meaning of negative numbers and None."""

    @abstractmethod
    def transpose(self, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
        """``x`` with its axes in another order: axis i of the result is ``axes[i]`` of ``x``."""

    @abstractmethod
    def sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` (n, h, w, c) at ``positions`` (height, width, 2), the same in each picture.

        A position is (row, column) in pixels, (0, 0) the centre of the first; between centres
        it is interpolated bilinearly, and beyond the outermost the edge is repeated. The
        result is (n, height, width, c). It is differentiated with respect to ``x`` only.
        """

    def normalize(self, x: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """``(x - mean) / std``, per channel: pixels as the weights were trained on them."""
        return self.divide(self.subtract(x, self.asarray(mean)), self.asarray(std))

    def hard_sigmoid(self, x: Tensor) -> Tensor:
        """``clip(x + 3, 0, 6) / 6``; its derivative at -3 and 3 is 0."""
        clipped = self.clip(self.add(x, self.asarray(3.0)), low=0.0, high=6.0)
        return self.divide(clipped, self.asarray(6.0))

    def hard_swish(self, x: Tensor) -> Tensor:
        """``x * hard_sigmoid(x)``; its derivative is 0 at -3, and 1 at 3."""
        return self.multiply(x, self.hard_sigmoid(x))

    def l2_normalize(self, x: Tensor) -> Tensor:
        """``x`` (n, d) with each row divided by its length, ``sqrt(sum(x ** 2) + 1e-12)``."""
        squares = self.sum(self.multiply(x, x), axes=(1,), keepdims=True)
        return self.divide(x, self.sqrt(self.add(squares, self.asarray(1e-12))))


OPERATIONS: frozenset[str] = frozenset(
    name
    for name, member in vars(Table).items()
    if callable(member)
    and not name.startswith("_")
    and name not in {"asarray", "to_numpy", "kernel"}
)
"""The names that a node's operation may have."""


class WrappedModel(ABC):
    """A model that is a framework's own object, as a backend wraps it.

    Attributes
    ----------
    backend
        What wraps it, and runs it.
    model
        The object.
    network
        First the nodes that make of pixels what the model takes. Then its layers, as nodes
        whose operation is `WRAPPED` and whose input is the last of those, in the order in
        which the model computes them; and what `embedding` and `logits` mean, where that can
        be told. Further nodes may be put after them: a new head, probabilities.
    """

    backend: Backend
    model: object
    network: Network

    @abstractmethod
    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        """A function over tensors, from what the model takes to the outputs of ``layers``.

        Whatever the model's own order of axes, it takes and feature maps come out as N x H x
        W x C. The model's weights, mode and gradients are as they were after each call.
        """

    @abstractmethod
    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """The shape of each layer's output for one picture, without the batch axis.

        Raises
        ------
        ShapeError
            If the model cannot take pictures of that size.
        """


class Backend(ABC):
    """One framework, as a plugin offers it.

    A plugin's entry point, in the group ``transferkit.backends``, names a subclass of this.
    Importing the module that holds it may import the framework.

    Parameters
    ----------
    device
        One of `devices`; None means the first, the processor.

    Raises
    ------
    UnknownNameError
        If there is no such device here.

    Attributes
    ----------
    device
        What it computes on.
    name
        What the backend is called: the entry point's name.
    api_version
        The version of this interface it was written for; see `API_VERSION`.
    capabilities
        What it can do: ``"inference"``, and ``"gradients"`` if `value_and_grad` works.
    table
        The primitives. Functions given to `compile` are written over it.
    micro_batch_size
        How many pictures a network runs on fastest, where that is fewer than it may be
        given: what a few of them need stays in a processor's cache. None: all.
    """

    name: ClassVar[str]
    api_version: ClassVar[int]
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE})
    table: Table[Any]
    micro_batch_size: int | None = None

    def __init__(self, device: str | None = None) -> None:
        devices = self.devices()
        if device is not None and device not in devices:
            raise UnknownNameError("device", device, devices, of=self.name)
        self.device = devices[0] if device is None else device

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version of the framework."""

    @classmethod
    @abstractmethod
    def devices(cls) -> tuple[str, ...]:
        """What it can compute on here, in the framework's own names, the processor first."""

    @abstractmethod
    def compile(self, function: Function) -> Function:
        """``function``, over arrays, as fast as the framework can.

        Parameters
        ----------
        function
            Takes tensors and gives a tensor, or a mapping from name to tensor; written over
            `table`.

        Returns
        -------
        callable
            Takes float32 NumPy arrays instead, and gives NumPy arrays. Compiled at most once
            for each combination of shapes; safe to call from several threads.
        """

    def compile_tensors(self, function: Function) -> Function:
        """``function``, over tensors, as fast as the framework can.

        What it gives stays where it was computed, to be given to it again: so the steps of an
        optimisation need not come back as arrays.

        Parameters
        ----------
        function
            Takes tensors and gives a tensor, or a mapping from name to tensor; written over
            `table`. It may hold functions from `value_and_grad`.

        Returns
        -------
        callable
            Takes and gives the same; compiled at most once for each combination of shapes.

        Raises
        ------
        UnsupportedError
            If the framework has no gradients, and so nothing to optimise.
        """
        raise self._gradients_unsupported()

    def value_and_grad(self, function: Function) -> Function:
        """``function`` together with its derivative with respect to its first argument.

        Parameters
        ----------
        function
            Takes tensors and gives a tensor, or a mapping from name to tensor in which that one
            is called ``value``.

        Returns
        -------
        callable
            Takes the same tensors and gives a mapping: ``value``; ``gradient``, the derivative
            of the sum of its numbers, of the first argument's shape; and whatever else
            ``function`` gave. It may stand inside a function given to `compile`.

        Raises
        ------
        UnsupportedError
            If the framework has no gradients.
        NoGradientError
            When called: if the value does not depend on the first argument, or only through
            what has no derivative.
        """
        raise self._gradients_unsupported()

    def _gradients_unsupported(self) -> UnsupportedError:
        return UnsupportedError(
            f"backend {self.name!r} runs networks but has no gradients; 'torch' and "
            "'tensorflow' have: pip install \"transferkit[torch]\""
        )

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> WrappedModel:
        """A model that is an object of the framework, to be run like any network.

        Parameters
        ----------
        model
            The object. It is used where it is, not copied, and not changed.
        input_size
            The side in pixels of the square pictures that it is run on to learn its layers;
            None: what the model says of itself.
        mean, std, channel_order
            What the model expects of pixels in [0, 1], as `NetworkBuilder.normalize` takes
            it. None: what the model says of itself.

        Raises
        ------
        UnsupportedError
            If the framework has no models of its own, this is none of them, or it does not
            give what a network gives: a tensor, for one batch of pictures.
        ShapeError
            If the model cannot take pictures of that size.
        """
        raise UnsupportedError(
            f"backend {self.name!r} cannot run a {type(model).__name__}; 'torch' takes a "
            "torch.nn.Module, 'tensorflow' a keras.Model"
        )

    def to_native(self, network: Network, weights: Weights) -> object:
        """``network`` as an object of the framework, to go on with there.

        Parameters
        ----------
        network, weights
            What it computes; the weights are copied.

        Returns
        -------
        object
            From pixels in [0, 1], in the framework's own order of axes, to ``logits``. It can
            be trained, written and read by the framework's own means.

        Raises
        ------
        UnsupportedError
            If the framework has no models of its own.
        """
        raise UnsupportedError(
            f"backend {self.name!r} has no models of its own; 'torch' and 'tensorflow' have: "
            'pip install "transferkit[torch]"'
        )


def no_gradient_error() -> NoGradientError:
    """Return the error that the function of `Backend.value_and_grad` raises."""
    return NoGradientError(
        "the value does not depend on the first argument, or only through operations without a "
        "derivative, such as NumPy functions"
    )
