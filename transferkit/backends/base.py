"""The interface of a backend: a table of primitives, and how its framework compiles functions.

The author of a plugin subclasses `Table` and `Backend`, and `WrappedModel` if the framework has
model objects. Everything else, such as running a network, selecting layers and folding batch
normalization, is written once on top of these classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy.typing as npt

from transferkit.backends.calibration import Calibration
from transferkit.errors import NoGradientError, UnknownNameError, UnsupportedError
from transferkit.networks.graph import Network, Padding, Weights

__all__ = [
    "API_VERSION",
    "FLOAT32",
    "GRADIENTS",
    "INFERENCE",
    "INT8",
    "OPERATIONS",
    "TRAINING",
    "Backend",
    "StatelessFunction",
    "Table",
    "WrappedModel",
    "no_gradient_error",
]

API_VERSION = 1
"""The version of the plugin interface that this version of transferkit requires."""

FLOAT32 = "float32"
"""The precision with which networks run by default."""

GRADIENTS = "gradients"
"""The capability of a backend that implements `Backend.value_and_grad`."""

INFERENCE = "inference"
"""The capability of running networks, which every backend has."""

INT8 = "int8"
"""The capability of a backend that implements `Backend.load_int8`."""

TRAINING = "training"
"""The capability of a backend whose `Backend.value_and_grad` takes mappings of tensors, and whose
table defines `Table.kernel_of_tensor`."""

Tensor = TypeVar("Tensor")
Function: TypeAlias = Callable[..., Any]

StatelessFunction: TypeAlias = Callable[
    [Mapping[str, Any], Any, bool, Any], tuple[Mapping[str, Any], Mapping[str, Any]]
]
"""What `WrappedModel.stateless` returns."""


class Table(ABC, Generic[Tensor]):
    """The primitives over the tensors of a framework, with one exact meaning on every backend.

    In the shapes below, n is the batch size, h the height, w the width, c the number of channels
    and d the number of features. Images and feature maps have shape (n, h, w, c). A backend may
    store them in any memory layout, as long as axes are counted in this order. Axes count from 0.

    All tensors have one floating-point dtype, float32 unless the table documents another one.
    Primitives do not change their arguments; a result may share memory with an argument.
    `transferkit.networks.graph.Padding` is ``((top, bottom), (left, right))``,
    in pixels. Sizes and strides are (height, width).

    Methods with a body here are expressed by the others; a backend may override them with
    faster versions.

    Attributes
    ----------
    shares_memory
        Whether the results of `asarray` and `kernel` may share memory with their argument. If
        True, the caller copies arrays that may be written to later.
    """

    shares_memory: ClassVar[bool] = True

    @abstractmethod
    def asarray(self, array: npt.ArrayLike) -> Tensor:
        """Return ``array``, of any numeric dtype, as a tensor of the table's dtype and same shape.

        Numbers and nested sequences of numbers are accepted as well.
        """

    @abstractmethod
    def to_numpy(self, tensor: Tensor) -> npt.NDArray[Any]:
        """Return the values of ``tensor`` as an array of the same shape and dtype.

        A tensor without axes becomes an array of shape (), not a NumPy scalar.
        """

    @abstractmethod
    def kernel(self, array: npt.ArrayLike, groups: int) -> Tensor:
        """Return convolution weights in the form that `conv2d` of this table takes.

        ``array`` has shape (channels out, channels in / groups, height, width). The shape of the
        result is up to the table: it is passed to `conv2d` and nowhere else.
        """

    def kernel_of_tensor(self, weight: Tensor, groups: int) -> Tensor:
        """Return a tensor of convolution weights in the form that `conv2d` of this table takes.

        The same as `kernel` for a tensor of shape (channels out, channels in / groups, height,
        width). Its derivative with respect to ``weight`` is defined, so that kernels are trained
        in this layout on every backend. Tables of backends that train define it.

        Raises
        ------
        UnsupportedError
            If the backend does not train.
        """
        raise UnsupportedError(f"{type(self).__name__} has no derivative of kernels")

    def reshape(self, x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
        """Return ``x`` with another shape, its elements in row-major order.

        Tables of backends that train define it.

        Raises
        ------
        UnsupportedError
            If the backend does not train.
        """
        raise UnsupportedError(f"{type(self).__name__} does not reshape tensors")

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
        """Return the cross-correlation of ``x``, padded with zeros, with a kernel.

        ``x`` has shape (n, h, w, channels in), ``kernel`` is a result of `kernel` for the same
        ``groups``, and ``bias`` has shape (channels out,).

        The result has shape (n, h', w', channels out), where h' is
        ``floor((h + top + bottom - kernel height) / stride height) + 1``, and w' likewise.
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
        """Return ``(x - mean) / sqrt(variance + epsilon) * scale + shift``, per channel.

        ``x`` and the result have shape (n, h, w, c), the other tensors (c,).
        """

    @abstractmethod
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``, of shape (n, features out).

        ``x`` has shape (n, features in), ``weight`` (features out, features in) and ``bias``
        (features out,).
        """

    @abstractmethod
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix product of ``x`` (..., i, j) and ``y`` (..., j, k): (..., i, k).

        The leading axes are broadcast.
        """

    @abstractmethod
    def max_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Tensor:
        """Return the maximum of each window of ``x`` (n, h, w, c); padding is ignored in it.

        ``padding`` is smaller than ``size`` on every side. The result has the height and width
        that `conv2d` gives for a kernel of ``size``, and c channels.
        """

    @abstractmethod
    def average_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int]
    ) -> Tensor:
        """Return the mean of each window that lies entirely inside ``x`` (n, h, w, c).

        The result has the height and width that `conv2d` gives for a kernel of ``size`` without
        padding, and c channels.
        """

    @abstractmethod
    def adaptive_average_pool2d(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """Return the means of ``height`` x ``width`` windows that cover ``x`` (n, h, w, c) evenly.

        Window i covers the rows from ``floor(i * h / height)`` up to, but not including,
        ``ceil((i + 1) * h / height)``, and likewise the columns. Windows may overlap. Rows are
        repeated where h is smaller than ``height``. The result has shape (n, height, width, c).
        """

    @abstractmethod
    def relu(self, x: Tensor) -> Tensor:
        """Return ``max(x, 0)``, of the shape of ``x``; the derivative at 0 is 0."""

    @abstractmethod
    def clip(self, x: Tensor, *, low: float, high: float) -> Tensor:
        """Return ``min(max(x, low), high)``, of the shape of ``x``.

        The derivative is 1 between the bounds, and 0 outside and at both bounds.
        """

    @abstractmethod
    def sigmoid(self, x: Tensor) -> Tensor:
        """Return ``1 / (1 + exp(-x))``, of the shape of ``x``."""

    @abstractmethod
    def tanh(self, x: Tensor) -> Tensor:
        """Return the hyperbolic tangent, of the shape of ``x``."""

    @abstractmethod
    def exp(self, x: Tensor) -> Tensor:
        """Return the exponential, of the shape of ``x``."""

    @abstractmethod
    def log(self, x: Tensor) -> Tensor:
        """Return the natural logarithm, of the shape of ``x``."""

    @abstractmethod
    def sqrt(self, x: Tensor) -> Tensor:
        """Return the square root, of the shape of ``x``."""

    @abstractmethod
    def absolute(self, x: Tensor) -> Tensor:
        """Return the absolute value, of the shape of ``x``; the derivative at 0 is 0."""

    @abstractmethod
    def sign(self, x: Tensor) -> Tensor:
        """Return -1, 0 or 1, in the shape of ``x``; the derivative is 0 everywhere."""

    @abstractmethod
    def softmax(self, x: Tensor) -> Tensor:
        """Return ``exp(x) / sum(exp(x))`` over the last axis, without overflow.

        ``x`` has at least one axis; the result has its shape.
        """

    @abstractmethod
    def log_softmax(self, x: Tensor) -> Tensor:
        """Return ``x - log(sum(exp(x)))`` over the last axis, without overflow.

        ``x`` has at least one axis; the result has its shape.
        """

    @abstractmethod
    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x + y``; the shapes are broadcast as in NumPy."""

    @abstractmethod
    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x - y``; the shapes are broadcast as in NumPy."""

    @abstractmethod
    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x * y``; the shapes are broadcast as in NumPy."""

    @abstractmethod
    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x / y``; the shapes are broadcast as in NumPy."""

    @abstractmethod
    def concat(self, *tensors: Tensor, axis: int) -> Tensor:
        """Return one or more tensors, whose shapes differ at most in ``axis``, joined along it."""

    @abstractmethod
    def flatten(self, x: Tensor, *, channels_first: bool = False) -> Tensor:
        """Return ``x`` (n, ...) as (n, product of the other lengths), in row-major order.

        With ``channels_first``, ``x`` has shape (n, h, w, c) and is transposed to (n, c, h, w)
        before it is flattened: the order of features that the weights of a linear layer expect
        if it was trained on feature maps of that layout.
        """

    @abstractmethod
    def reverse_channels(self, x: Tensor) -> Tensor:
        """Return ``x`` with its last axis reversed, such as RGB as BGR.

        ``x`` has at least one axis; the result has its shape.
        """

    @abstractmethod
    def sum(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """Return the sum over ``axes``, kept as axes of length 1 if ``keepdims``.

        No axes means that nothing is summed: the result equals ``x``, whatever ``keepdims`` is.
        """

    @abstractmethod
    def mean(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """Return the mean over ``axes``, kept as axes of length 1 if ``keepdims``.

        No axes means that nothing is averaged: the result equals ``x``, whatever ``keepdims`` is.
        """

    @abstractmethod
    def max(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        """Return the maximum over ``axes``, kept as axes of length 1 if ``keepdims``.

        No axes means that each value is its own maximum: the result equals ``x``, whatever
        ``keepdims`` is.
        """

    @abstractmethod
    def pad(self, x: Tensor, *, padding: Padding, value: float = 0.0) -> Tensor:
        """Return ``x`` (n, h, w, c) with rows and columns of ``value`` added around it.

        The result has shape (n, h + top + bottom, w + left + right, c).
        """

    @abstractmethod
    def crop(self, x: Tensor, *, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the window of ``x`` (n, h, w, c) whose first pixel is (top, left).

        The window lies inside ``x``; the result has shape (n, height, width, c).
        """

    @abstractmethod
    def resize(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """Return ``x`` (n, h, w, c) resized to (n, height, width, c).

        Interpolation is bilinear with half-pixel centers and repeated edges. There is no
        antialiasing: each output pixel depends on the four input pixels around its center.
        """

    @abstractmethod
    def slice(self, x: Tensor, *, axis: int, start: int, stop: int | None) -> Tensor:
        """Return ``x[start:stop]`` along ``axis``.

        Negative numbers count from the end, and a ``stop`` of None is the end, as in Python. The
        other axes are unchanged.
        """

    @abstractmethod
    def transpose(self, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
        """Return ``x`` with permuted axes: axis i of the result is axis ``axes[i]`` of ``x``."""

    @abstractmethod
    def sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return ``x`` (n, h, w, c) sampled at ``positions`` (height, width, 2).

        A position is (row, column) in pixels, where (0, 0) is the center of the first pixel; all
        images use the same positions. Between centers, interpolation is bilinear. Positions
        outside of the outermost centers are moved to the edge. The result has shape
        (n, height, width, c). Its derivative is taken with respect to ``x`` only.
        """

    def normalize(self, x: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """Return ``(x - mean) / std`` per channel, the normalization of pixels (n, h, w, c)."""
        return self.divide(self.subtract(x, self.asarray(mean)), self.asarray(std))

    def batch_norm_training(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        *,
        epsilon: float,
        momentum: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x`` normalized by the statistics of the batch, and the new running statistics.

        The result is that of `batch_norm` with the mean and the biased variance of ``x``, per
        channel, whose derivatives are taken too. The running statistics become
        ``(1 - momentum) * mean + momentum * batch mean``, and likewise the variance, with the
        unbiased variance of the batch, ``n / (n - 1)`` times the biased one, as in PyTorch.
        (Ioffe and Szegedy, 2015, "Batch Normalization", algorithms 1 and 2.)

        ``x`` has shape (n, h, w, c) with more than one value per channel, the others (c,).

        Returns
        -------
        y, mean, variance : tensor
            (n, h, w, c), (c,) and (c,).
        """
        axes = (0, 1, 2)
        batch_mean = self.mean(x, axes=axes)
        centered = self.subtract(x, batch_mean)
        batch_variance = self.mean(self.multiply(centered, centered), axes=axes)
        y = self.batch_norm(x, scale, shift, batch_mean, batch_variance, epsilon=epsilon)
        count = math.prod(x.shape[:3])  # type: ignore[attr-defined]
        factor = self.asarray(momentum * count / (count - 1))
        keep = self.asarray(1 - momentum)
        return (
            y,
            self.add(self.multiply(mean, keep), self.multiply(batch_mean, self.asarray(momentum))),
            self.add(self.multiply(variance, keep), self.multiply(batch_variance, factor)),
        )

    def hard_sigmoid(self, x: Tensor) -> Tensor:
        """Return ``clip(x + 3, 0, 6) / 6``; the derivative at -3 and 3 is 0."""
        clipped = self.clip(self.add(x, self.asarray(3.0)), low=0.0, high=6.0)
        return self.divide(clipped, self.asarray(6.0))

    def hard_swish(self, x: Tensor) -> Tensor:
        """Return ``x * hard_sigmoid(x)``; the derivative is 0 at -3 and 1 at 3."""
        return self.multiply(x, self.hard_sigmoid(x))

    def l2_normalize(self, x: Tensor) -> Tensor:
        """Return ``x`` (n, d) with each row divided by its Euclidean norm; zeros stay zeros.

        No row overflows or underflows, whatever its scale. The derivative of a row of zeros is
        the identity.
        """
        largest = self.max(self.absolute(x), axes=(1,), keepdims=True)
        # 1 for a row of zeros, which is divided by 1, so that its derivative is finite.
        is_zero = self.subtract(self.asarray(1.0), self.sign(largest))
        scaled = self.divide(x, self.add(largest, is_zero))
        squares = self.sum(self.multiply(scaled, scaled), axes=(1,), keepdims=True)
        return self.divide(scaled, self.sqrt(self.add(squares, is_zero)))


_NOT_IN_NETWORKS = frozenset(
    {"asarray", "to_numpy", "kernel", "kernel_of_tensor", "reshape", "batch_norm_training"}
)

OPERATIONS: frozenset[str] = frozenset(
    name
    for name, member in vars(Table).items()
    if callable(member) and not name.startswith("_") and name not in _NOT_IN_NETWORKS
)
"""The names of the operations that a node may have: the primitives of `Table`."""


class WrappedModel(ABC):
    """A model object of a framework, run by its backend like a network.

    Attributes
    ----------
    backend
        The backend that runs the model.
    model
        The model object.
    network
        The model as a network. Its first nodes transform pixels (n, h, w, 3), RGB, in [0, 1],
        into the model's input. The layers of the model follow as nodes with the operation
        `transferkit.networks.graph.WRAPPED`, in the order in which the model computes them. The
        input of each is the last of the first nodes. ``embedding`` and ``logits`` are nodes or
        aliases where they can be determined. Other nodes, such as a new head, may be added after
        these.
    """

    backend: Backend
    model: object
    network: Network

    @abstractmethod
    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        """Return a function from the model's input to the outputs of some layers.

        Parameters
        ----------
        layers
            Names of nodes of `network` with the operation ``WRAPPED``.

        Returns
        -------
        callable
            Takes a tensor (n, h, w, 3), normalized by the first nodes of `network`. Returns the
            outputs of ``layers`` by name: tensors (n, h, w, c) or (n, d), whatever axis order
            the model uses itself. A call does not change the model: weights, training mode and
            gradients are the same afterwards.
        """

    @abstractmethod
    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the output shape of each layer for one image, without the batch axis.

        Returns
        -------
        mapping of str to tuple of int
            The name of each ``WRAPPED`` node of `network` to (h, w, c) or (d,).

        Raises
        ------
        ShapeError
            If the model does not accept images of this size.
        """

    @property
    def num_parameters(self) -> int | None:
        """The number of parameters, without the statistics of batch norm; None if unknown."""
        return None

    def parameters(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return the trainable parameters of the model by name, in the framework's own shapes.

        Returns
        -------
        mapping of str to array
            Copies of the parameters, in the order in which the model has them. Parameters that
            the model marks as not trainable are not among them.

        Raises
        ------
        UnsupportedError
            If the backend does not train model objects.
        """
        raise self._not_trainable()

    def statistics(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return the state of the model that training changes without a gradient, by name.

        Returns
        -------
        mapping of str to array
            Copies of the running statistics of batch norms.

        Raises
        ------
        UnsupportedError
            If the backend does not train model objects.
        """
        raise self._not_trainable()

    def stateless(
        self, layers: Sequence[str], *, update_batch_norm: bool = False
    ) -> StatelessFunction:
        """Return the model as a function of its parameters, for training.

        Parameters
        ----------
        layers
            Names of nodes of `network` with the operation ``WRAPPED``.
        update_batch_norm
            Whether batch norms normalize by the batch in training, and update their statistics.

        Returns
        -------
        callable
            Takes a mapping with the tensors of `parameters` and `statistics`, possibly among
            others; the model's input, as for `load`; whether the model is in training mode, in
            which its dropout is active; and, in training mode, a tensor (n,) of integers whose
            first one is the seed of the model's random layers. Returns the outputs of
            ``layers`` by name, and the updated statistics, none unless ``update_batch_norm`` and
            in training mode. It has gradients, and changes neither the model nor any global
            random state. It may be called inside a function given to `Backend.compile_tensors`.

        Raises
        ------
        UnsupportedError
            If the backend does not train model objects.
        """
        raise self._not_trainable()

    def with_parameters(self, parameters: Mapping[str, npt.NDArray[Any]]) -> WrappedModel:
        """Return a copy with other values of `parameters` and `statistics`.

        Parameters
        ----------
        parameters
            Name to array; names that are missing keep their values. The model object is copied,
            not changed.

        Raises
        ------
        UnsupportedError
            If the backend does not train model objects, or the model cannot be copied.
        """
        raise self._not_trainable()

    def _not_trainable(self) -> UnsupportedError:
        return UnsupportedError(
            f"backend {self.backend.name!r} cannot train a {type(self.model).__name__}"
        )


class Backend(ABC):
    """A framework that runs networks, as a plugin provides it.

    The entry point of a plugin, in the group ``transferkit.backends``, refers to a subclass of
    this class. The module that defines it may import the framework at the top: it is imported
    when the backend is used for the first time.

    A subclass defines `name`, `api_version`, `version`, `devices`, `compile`, and sets `table` in
    its ``__init__``. With gradients, it also defines `capabilities`, `value_and_grad` and
    `compile_tensors`; for model objects of the framework, `owns`, `wrap` and `to_native`. Of
    these, those that it does not define raise `transferkit.errors.UnsupportedError`, and `owns`
    returns False.

    Parameters
    ----------
    device
        One of `devices`; ``"cpu"`` or None is the first one, the CPU.

    Raises
    ------
    UnknownNameError
        If the device does not exist on this machine.

    Attributes
    ----------
    device
        The device that computes.
    name
        The name of the backend, the same as the name of its entry point.
    api_version
        The version of this interface that the backend implements; see `API_VERSION`.
    capabilities
        ``"inference"``; ``"gradients"`` if the backend defines `value_and_grad` and
        `compile_tensors`; ``"training"`` if these also take mappings of tensors and the table
        defines `Table.kernel_of_tensor` and `Table.reshape`; ``"int8"`` if the backend defines
        `load_int8`.
    table
        The primitives. Functions given to `compile` are written in terms of it.
    micro_batch_size
        The number of images at a time with which a network runs fastest, if larger batches are
        slower because their feature maps do not fit into the CPU's cache; None for no limit.
    training_micro_batch_size
        The same for the gradient with respect to parameters, which is then summed over parts of
        a batch, for images of 224 x 224 pixels; there are more smaller ones at a time.
    """

    name: ClassVar[str]
    api_version: ClassVar[int]
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE})
    table: Table[Any]
    micro_batch_size: int | None = None
    training_micro_batch_size: int | None = None

    def __init__(self, device: str | None = None) -> None:
        devices = self.devices()
        if device is None or device == "cpu":
            device = devices[0]
        if device not in devices:
            raise UnknownNameError("device", device, devices, of=self.name)
        self.device = device

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the version of the framework."""

    @classmethod
    @abstractmethod
    def devices(cls) -> tuple[str, ...]:
        """Return the devices of this machine, as the framework names them, the CPU first."""

    @abstractmethod
    def compile(self, function: Function) -> Function:
        """Return ``function`` over NumPy arrays instead of tensors, as fast as possible.

        Parameters
        ----------
        function
            A function of one or more tensors, written in terms of `table`. It returns a tensor,
            or a mapping from name to tensor; names may be any strings. It has no side effects:
            it may be called once and recorded, or called each time.

        Returns
        -------
        callable
            Takes as many arrays as ``function`` takes tensors. They may have any numeric dtype
            and memory layout, may be read-only, and are not changed. Their shapes may differ
            from call to call; the function is compiled at most once per combination of shapes.

            Returns an array, or a dict with the names of the mapping in the mapping's order.
            Arrays have the tensors' shapes and dtype (float32), are C-contiguous and writable,
            and belong to the caller: they share no memory with the arguments or with the results
            of other calls.

            May be called from several threads at once.
        """

    def compile_tensors(self, function: Function) -> Function:
        """Return ``function`` over the same tensors, as fast as possible.

        Results stay on the device and can be passed to the next call, so that the steps of an
        optimization need no conversion to arrays.

        Parameters
        ----------
        function
            A function of one or more tensors, as for `compile`. It may call functions from
            `value_and_grad`. With the capability ``"training"``, arguments and results may also
            be mappings from name to tensor, or to such mappings; names are strings.

        Returns
        -------
        callable
            Takes and returns the same as ``function``: tensors of `table`, or a mapping of them
            with the same names. It is compiled at most once per combination of shapes.

        Raises
        ------
        UnsupportedError
            If the backend has no gradients.
        """
        raise self._no_gradients_error()

    def value_and_grad(self, function: Function) -> Function:
        """Return a function that computes ``function`` and its gradient.

        Parameters
        ----------
        function
            A function of one or more tensors, written in terms of `table`. It returns a tensor of
            any shape, or a mapping from name to tensor in which that tensor is ``value``.

        Returns
        -------
        callable
            Takes the same tensors and returns a dict of tensors: ``value``; ``gradient``, the
            derivative of the sum of ``value`` with respect to the first argument, in its shape
            and dtype; and the other entries of the mapping. With the capability ``"training"``,
            the first argument may be a mapping from name to tensor; ``gradient`` is then a
            mapping with the same names, with zeros for tensors that the value does not depend
            on. It can be called directly, inside a
            function given to `compile` or `compile_tensors`, and may itself use tensors from the
            enclosing function.

        Raises
        ------
        UnsupportedError
            If the backend has no gradients.
        NoGradientError
            When the returned function is called: if the value does not depend on the first
            argument, or only through operations without a derivative; see `no_gradient_error`.
        """
        raise self._no_gradients_error()

    def load_int8(
        self,
        network: Network,
        weights: Weights,
        layers: Sequence[str],
        calibration: Calibration,
    ) -> Function:
        """Return a network that computes with 8-bit integers, as a function over tensors.

        A backend with the capability ``"int8"`` defines it. The numbers of a layer do not depend
        on the other layers, on the other images of a batch, or on the instructions of the CPU.

        Parameters
        ----------
        network, weights
            The network and its weights.
        layers
            Names of nodes.
        calibration
            The ranges of the layers that are quantized.

        Returns
        -------
        callable
            Takes pixels (n, h, w, 3) and returns a dict from each of ``layers`` to its output in
            float32. It can be passed to `compile`.

        Raises
        ------
        UnsupportedError
            If the backend does not compute with 8-bit integers.
        """
        raise UnsupportedError(
            f"backend {self.name!r} does not support {INT8}; choose backend='onnxruntime', or "
            "precision='float32'"
        )

    def _no_gradients_error(self) -> UnsupportedError:
        return UnsupportedError(
            f"backend {self.name!r} does not support gradients; 'torch' and 'tensorflow' do: "
            'pip install "transferkit[torch]"'
        )

    @classmethod
    def owns(cls, model: object) -> bool:  # noqa: ARG003 - for subclasses
        """Return whether an object is a model of the framework, for `wrap`.

        It is then accepted as a network without naming the backend. If several backends own an
        object, a built-in one is used, or else the first by name.

        Parameters
        ----------
        model
            An object of any type.
        """
        return False

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> WrappedModel:
        """Wrap a model object of the framework, so that it is run like a network.

        Parameters
        ----------
        model
            The model object. It is neither copied nor changed.
        input_size
            The side in pixels of square images on which the model is run to find its layers.
            None uses what the model specifies.
        mean, std, channel_order
            The normalization that the model expects, as in `NetworkBuilder.normalize`: per
            channel, for pixels in [0, 1]. None uses what the model specifies.

        Raises
        ------
        UnsupportedError
            If the framework has no model objects, if ``model`` is not one of them, or if it does
            not return a floating-point tensor with one row per image.
        ShapeError
            If the model does not accept images of this size.
        """
        raise UnsupportedError(
            f"backend {self.name!r} cannot run a {type(model).__name__}; 'torch' runs a "
            "torch.nn.Module, 'tensorflow' a keras.Model"
        )

    def to_native(self, network: Network, weights: Weights) -> object:
        """Return ``network`` as a model object of the framework, to be used and trained there.

        Parameters
        ----------
        network, weights
            The network and its weights, which are copied.

        Returns
        -------
        object
            A model from RGB pixels in [0, 1], in the framework's usual axis order, to
            ``logits`` (n, classes). It can be trained, saved and loaded with the framework's own
            functions.

        Raises
        ------
        UnsupportedError
            If the framework has no model objects.
        """
        raise UnsupportedError(
            f"backend {self.name!r} has no model objects to return; choose backend='torch' or "
            "backend='tensorflow'"
        )


def no_gradient_error() -> NoGradientError:
    """Return the error for a value without a gradient, which `Backend.value_and_grad` raises."""
    return NoGradientError(
        "the value does not depend on the first argument, or only through operations without a "
        "derivative, such as NumPy functions"
    )
