"""The PyTorch backend: functions run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transferkit.backends.base import (
    API_VERSION,
    GRADIENTS,
    INFERENCE,
    TRAINING,
    Backend,
    no_gradient_error,
)
from transferkit.backends.torch.native import TorchNetwork
from transferkit.backends.torch.precision import float32_convolutions
from transferkit.backends.torch.table import TorchTable, check_not_forked
from transferkit.backends.torch.wrap import TorchModel
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import Network, Weights

__all__ = ["TorchBackend"]

# MobileNetV2 on two CPU cores: micro-batches of 4 run more than twice as fast as those of 32.
_MICRO_BATCH_SIZE = 4
# Its gradient: parts of 4 are 1.4 times as fast as 16 images at once, and 1.25 times as fast as
# parts of 8. The C library returns memory blocks above 32 MiB to the system at once.
_TRAINING_MICRO_BATCH_SIZE = 4


class TorchBackend(Backend):
    """PyTorch."""

    name: ClassVar[str] = "torch"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE, GRADIENTS, TRAINING})

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.table: TorchTable = TorchTable(torch.device(self.device))
        self.micro_batch_size = _MICRO_BATCH_SIZE if self.device == "cpu" else None
        self.training_micro_batch_size = (
            _TRAINING_MICRO_BATCH_SIZE if self.device == "cpu" else None
        )

    @classmethod
    def version(cls) -> str:
        return str(torch.__version__)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            accelerators.append("mps")
        return ("cpu", *accelerators)

    @classmethod
    def owns(cls, model: object) -> bool:
        return isinstance(model, torch.nn.Module)

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> TorchModel:
        check_not_forked(self.table.device)
        if mean is None or std is None:
            raise UnsupportedError(
                "a torch.nn.Module does not contain its preprocessing; pass "
                "preprocessing=Preprocessing(size=..., mean=..., std=...), or what "
                "from_torchvision, from_timm or from_transformers of transferkit.images returns"
            )
        return TorchModel(
            self,
            self.table,
            model,
            input_size=input_size or 224,
            mean=mean,
            std=std,
            channel_order=channel_order,
        )

    def to_native(self, network: Network, weights: Weights) -> torch.nn.Module:
        return TorchNetwork(network, weights, self.table.device)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        table = self.table

        def run(*arrays: npt.NDArray[np.float32]) -> Any:
            # Not inference mode: `function` may differentiate an inner function, which could not
            # use tensors that were created in inference mode. It is not faster either.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                float32_convolutions(table.device),
            ):
                result = function(*map(table.asarray, arrays))
                if isinstance(result, Tensor):
                    return table.to_numpy(result)
                return {name: table.to_numpy(tensor) for name, tensor in result.items()}

        return run

    def compile_tensors(self, function: Callable[..., Any]) -> Callable[..., Any]:
        device = self.table.device

        def run(*arguments: Any) -> Any:
            with torch.inference_mode(False), torch.no_grad(), float32_convolutions(device):
                return function(*arguments)

        return run

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        device = self.table.device

        def run(*arguments: Any) -> dict[str, Any]:
            # The caller may be in inference mode, whose tensors have no gradients.
            with torch.inference_mode(False), torch.enable_grad(), float32_convolutions(device):
                first, *others = (_map_tensors(_outside_inference, value) for value in arguments)
                first = _map_tensors(lambda tensor: tensor.detach().requires_grad_(), first)
                result = function(first, *others)
                outputs = result if isinstance(result, Mapping) else {"value": result}
                tensors = tuple(first.values()) if isinstance(first, Mapping) else (first,)
                gradients: tuple[Tensor | None, ...] = ()
                if outputs["value"].requires_grad:
                    total = outputs["value"].sum()
                    gradients = torch.autograd.grad(total, tensors, allow_unused=True)
            if all(gradient is None for gradient in gradients):
                raise no_gradient_error()
            detached = _map_tensors(Tensor.detach, outputs)
            if not isinstance(first, Mapping):
                return {**detached, "gradient": gradients[0]}
            gradient = {
                name: torch.zeros_like(tensor) if slope is None else slope
                for (name, tensor), slope in zip(first.items(), gradients, strict=True)
            }
            return {**detached, "gradient": gradient}

        return run


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return ``value``, a tensor or a mapping of values, with ``function`` applied to tensors."""
    if isinstance(value, Mapping):
        return {name: _map_tensors(function, item) for name, item in value.items()}
    return function(value)


def _outside_inference(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
