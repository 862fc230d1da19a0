"""A network as a ``torch.nn.Module``, to go on with in PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transferkit.backends.interpreter import run_network
from transferkit.backends.torch.table import TorchTable
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import Network, Node, Padding, Weights
from transferkit.networks.passes import keep_needed

__all__ = ["TorchNetwork"]

# What a layer's parameters may be called below the layer's own name.
_SUFFIXES = {
    "conv2d": (["weight"], ["weight", "bias"]),
    "batch_norm": (["weight", "bias", "running_mean", "running_var"],),
    "linear": (["weight", "bias"],),
}
_STATISTICS = ("running_mean", "running_var")


class TorchNetwork(nn.Module):  # type: ignore[misc]
    """A network from pixels to logits whose layers are PyTorch's own.

    Convolutions, batch norms and linear layers are ``torch.nn.Conv2d``, ``BatchNorm2d`` and
    ``Linear`` under the names of their parameters, so that its ``state_dict`` has the names
    and shapes of the network's source, torchvision's for most. In training mode batch norm
    normalises by the batch, and learns its statistics. Networks have no dropout, and so
    neither has this.

    Parameters
    ----------
    network, weights
        What to compute; the weights are copied.
    device
        Where the parameters are.

    Raises
    ------
    UnsupportedError
        If a parameter has a name that a module of PyTorch cannot have.
    """

    def __init__(self, network: Network, weights: Weights, device: torch.device) -> None:
        super().__init__()
        self._network = keep_needed(network, ["logits"])
        # The name of each parameter that is part of a layer to the layer's.
        self._layer_of: dict[str, str] = {}
        uses = Counter(name for node in self._network.nodes for name in node.parameters)
        for node in self._network.nodes:
            tensors = {
                name: torch.from_numpy(np.array(weights[name], order="C")).to(device)
                for name in node.parameters
            }
            path = _layer_name(node)
            try:
                if path is not None and all(uses[name] == 1 for name in node.parameters):
                    self._layer_of |= dict.fromkeys(node.parameters, path)
                    self._add_layer(path, _make_layer(node, list(tensors.values())))
                else:
                    for name, tensor in tensors.items():
                        self._add_parameter(name, tensor)
            except KeyError as error:
                raise UnsupportedError(
                    f"the parameters of layer {node.name!r} have names that a torch.nn.Module "
                    f"cannot give them: {error}"
                ) from error

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits, (n, classes), of pixels (n, 3, h, w), RGB, in [0, 1]."""
        table = _LayerTable(pixels.device, pixels.dtype)
        target = self._network.resolve("logits")
        parameters = {
            name: self.get_submodule(self._layer_of[name])
            if name in self._layer_of
            else self._find(name)
            for name in self._network.parameters
        }
        x = pixels.permute(0, 2, 3, 1)
        found: dict[str, Tensor] = run_network(table, self._network, parameters, x, [target])
        return found[target]

    def _find(self, name: str) -> Any:
        path, _, last = name.rpartition(".")
        return getattr(self.get_submodule(path), last)

    def _add_layer(self, path: str, layer: nn.Module) -> None:
        outer, _, last = path.rpartition(".")
        container = self._container(outer)
        if last in container._modules:
            # Layers below it came first.
            for name, module in container._modules.pop(last).named_children():
                layer.add_module(name, module)
        container.add_module(last, layer)

    def _add_parameter(self, name: str, tensor: Tensor) -> None:
        path, _, last = name.rpartition(".")
        container = self._container(path)
        if last in container._parameters or last in container._buffers:
            return
        if last in _STATISTICS:
            container.register_buffer(last, tensor)
        else:
            container.register_parameter(last, nn.Parameter(tensor))

    def _container(self, path: str) -> nn.Module:
        """The module at ``path``; what is missing on the way there is made."""
        module: nn.Module = self
        for name in path.split(".") if path else ():
            if name not in module._modules:
                module.add_module(name, nn.ModuleDict())
            module = module._modules[name]
        return module


class _LayerTable(TorchTable):
    """PyTorch's table, where the first weight of a primitive may be the layer that computes it.

    So layers are called, with the hooks they have, and may be replaced by others.
    """

    def conv2d(
        self,
        x: Tensor,
        kernel: Tensor | nn.Module,
        bias: Tensor | nn.Module | None = None,
        *,
        stride: tuple[int, int],
        padding: Padding,
        groups: int = 1,
    ) -> Tensor:
        if not isinstance(kernel, nn.Module):
            return super().conv2d(x, kernel, bias, stride=stride, padding=padding, groups=groups)
        if not _is_symmetric(padding):
            x = self.pad(x, padding=padding)
        return self._call(kernel, x)

    def batch_norm(
        self,
        x: Tensor,
        scale: Tensor | nn.Module,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        *,
        epsilon: float,
    ) -> Tensor:
        if not isinstance(scale, nn.Module):
            return super().batch_norm(x, scale, shift, mean, variance, epsilon=epsilon)
        return self._call(scale, x)

    def linear(self, x: Tensor, weight: Tensor | nn.Module, bias: Tensor) -> Tensor:
        if not isinstance(weight, nn.Module):
            return super().linear(x, weight, bias)
        found: Tensor = weight(x)
        return found

    def _call(self, layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


def _layer_name(node: Node) -> str | None:
    """What the layer is called that has the parameters of a node; None if it can be no layer."""
    paths = {name.rpartition(".")[0] for name in node.parameters}
    suffixes = [name.rpartition(".")[2] for name in node.parameters]
    if len(paths) == 1 and suffixes in _SUFFIXES.get(node.operation, ()):
        return paths.pop() or None
    return None


def _make_layer(node: Node, tensors: list[Tensor]) -> nn.Module:
    """PyTorch's layer of a node, with these parameters."""
    first = tensors[0]
    attributes: Any = node.attributes
    layer: nn.Module
    # On "meta" nothing is drawn: the parameters are there, and the global generator is not ours.
    if node.operation == "conv2d":
        groups, padding = attributes.get("groups", 1), attributes["padding"]
        layer = nn.Conv2d(
            first.shape[1] * groups,
            first.shape[0],
            tuple(first.shape[2:]),
            stride=attributes["stride"],
            padding=tuple(before for before, _ in padding) if _is_symmetric(padding) else 0,
            groups=groups,
            bias=len(tensors) > 1,
            device="meta",
        )
    elif node.operation == "batch_norm":
        layer = nn.BatchNorm2d(len(first), eps=attributes["epsilon"], device="meta")
    else:
        layer = nn.Linear(first.shape[1], first.shape[0], device="meta")
    state = {name.rpartition(".")[2]: t for name, t in zip(node.parameters, tensors, strict=True)}
    if node.operation == "batch_norm":
        state["num_batches_tracked"] = torch.tensor(0, device=first.device)
    layer.load_state_dict(state, assign=True)
    return layer


def _is_symmetric(padding: Padding) -> bool:
    return all(before == after for before, after in padding)
