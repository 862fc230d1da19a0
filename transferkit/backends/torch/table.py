"""PyTorch's table of primitives, in channels-last memory format."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transferkit.backends.base import Table
from transferkit.backends.forks import FORK_FIRST, forked_process_error, was_started_before_fork
from transferkit.networks.graph import Padding

__all__ = ["TorchTable", "check_not_forked"]


class TorchTable(Table[Tensor]):
    """The primitives over tensors whose axes are N x H x W x C.

    A view of such a tensor as N x C x H x W, PyTorch's order of axes, is in channels-last memory
    format, in which convolutions are fastest. The view costs nothing.

    Parameters
    ----------
    device
        The device of the tensors.
    dtype
        The dtype of the tensors.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device = device
        self.dtype = dtype

    def asarray(self, array: npt.ArrayLike) -> Tensor:
        # All computations begin with a tensor from here.
        check_not_forked(self.device)
        if np.ndim(array) == 0:
            # Unlike a copy, this does not wait for the device; on a CPU it is faster, too.
            with torch.inference_mode(False):
                return torch.full((), float(array), dtype=self.dtype, device=self.device)  # type: ignore[arg-type]
        # PyTorch warns of read-only memory, so read-only arrays are copied.
        array = np.require(array, requirements=["C", "W"])
        # Tensors of inference mode, which the caller may be in, have no gradients later.
        with torch.inference_mode(False):
            return torch.as_tensor(array, dtype=self.dtype, device=self.device)

    def to_numpy(self, tensor: Tensor) -> npt.NDArray[Any]:
        # A copy, since a primitive may return a view of its argument, the caller's array.
        return np.array(tensor.detach().cpu().numpy(), order="C")

    def kernel(self, array: npt.ArrayLike, groups: int) -> Tensor:
        with torch.inference_mode(False):
            return self.asarray(array).contiguous(memory_format=torch.channels_last)

    def kernel_of_tensor(self, weight: Tensor, groups: int) -> Tensor:
        return weight

    def reshape(self, x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
        return x.reshape(shape)

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
        (top, bottom), (left, right) = padding
        if top != bottom or left != right:
            x = self.pad(x, padding=padding)
            top = left = 0
        y = F.conv2d(_channels_first(x), kernel, bias, stride, (top, left), groups=groups)
        return _channels_last(y)

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
        y = F.batch_norm(_channels_first(x), mean, variance, scale, shift, eps=epsilon)
        return _channels_last(y)

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
        # PyTorch updates the running statistics in place.
        mean, variance = mean.clone(), variance.clone()
        y = F.batch_norm(
            _channels_first(x),
            mean,
            variance,
            scale,
            shift,
            training=True,
            momentum=momentum,
            eps=epsilon,
        )
        return _channels_last(y), mean, variance

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def max_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Tensor:
        (top, bottom), (left, right) = padding
        # Padding in `F.max_pool2d`, where it is supported, saves a copy of the feature map.
        if top != bottom or left != right or 2 * top > size[0] or 2 * left > size[1]:
            x = self.pad(x, padding=padding, value=-float("inf"))
            top = left = 0
        return _channels_last(F.max_pool2d(_channels_first(x), size, stride, (top, left)))

    def average_pool2d(
        self, x: Tensor, *, size: tuple[int, int], stride: tuple[int, int]
    ) -> Tensor:
        return _channels_last(F.avg_pool2d(_channels_first(x), size, stride))

    def adaptive_average_pool2d(self, x: Tensor, *, height: int, width: int) -> Tensor:
        return _channels_last(F.adaptive_avg_pool2d(_channels_first(x), (height, width)))

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def clip(self, x: Tensor, *, low: float, high: float) -> Tensor:
        return F.hardtanh(x, low, high)

    def sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def tanh(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:
        return torch.log(x)

    def sqrt(self, x: Tensor) -> Tensor:
        return torch.sqrt(x)

    def absolute(self, x: Tensor) -> Tensor:
        return torch.abs(x)

    def sign(self, x: Tensor) -> Tensor:
        return torch.sign(x)

    def softmax(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1)

    def log_softmax(self, x: Tensor) -> Tensor:
        return torch.log_softmax(x, -1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        return x / y

    def concat(self, *tensors: Tensor, axis: int) -> Tensor:
        return torch.cat(tensors, axis)

    def flatten(self, x: Tensor, *, channels_first: bool = False) -> Tensor:
        x = _channels_first(x) if channels_first else x
        return x.reshape(x.shape[0], -1)

    def reverse_channels(self, x: Tensor) -> Tensor:
        return torch.flip(x, (-1,))

    # PyTorch reduces all axes if none is given.
    def sum(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        return torch.sum(x, axes, keepdim=keepdims) if axes else x

    def mean(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        return torch.mean(x, axes, keepdim=keepdims) if axes else x

    def max(self, x: Tensor, *, axes: tuple[int, ...], keepdims: bool = False) -> Tensor:
        return torch.amax(x, axes, keepdim=keepdims) if axes else x

    def pad(self, x: Tensor, *, padding: Padding, value: float = 0.0) -> Tensor:
        (top, bottom), (left, right) = padding
        if not any((top, bottom, left, right)):
            return x
        return F.pad(x, (0, 0, left, right, top, bottom), value=value)

    def crop(self, x: Tensor, *, top: int, left: int, height: int, width: int) -> Tensor:
        return x[:, top : top + height, left : left + width, :]

    def resize(self, x: Tensor, *, height: int, width: int) -> Tensor:
        y = F.interpolate(_channels_first(x), (height, width), mode="bilinear", align_corners=False)
        return _channels_last(y)

    def hard_sigmoid(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(x)

    def hard_swish(self, x: Tensor) -> Tensor:
        return F.hardswish(x)

    def slice(self, x: Tensor, *, axis: int, start: int, stop: int | None) -> Tensor:
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def transpose(self, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
        return x.permute(axes)

    def sample(self, x: Tensor, positions: Tensor) -> Tensor:
        n, h, w, _ = x.shape
        # PyTorch's positions go from -1, the outer edge of the first pixel, to 1; x comes first.
        size = torch.tensor((w, h), dtype=self.dtype, device=x.device)
        grid = (2 * positions.detach().flip(-1) + 1) / size - 1
        y = F.grid_sample(
            _channels_first(x),
            grid.expand(n, -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return _channels_last(y)


def check_not_forked(device: torch.device) -> None:
    """Check that this process can compute with PyTorch on a device.

    Raises
    ------
    UnsupportedError
        If it is the forked child of a process in which PyTorch has computed. The first operation
        in several threads would wait forever for the threads of the parent.
    """
    if was_started_before_fork("torch") and (device.type != "cpu" or torch.get_num_threads() > 1):
        one_thread = ["call torch.set_num_threads(1) in the child"] if device.type == "cpu" else []
        raise forked_process_error("PyTorch", FORK_FIRST, *one_thread)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)
