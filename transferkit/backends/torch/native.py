"""Conversion of a network to a ``torch.nn.Module``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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

# The last parts of the names of a layer's parameters, by operation.
_PARAMETER_SUFFIXES = {
    "conv2d": (["weight"], ["weight", "bias"]),
    "batch_norm": (["weight", "bias", "running_mean", "running_var"],),
    "linear": (["weight", "bias"],),
}


class TorchNetwork(nn.Module):  # type: ignore[misc]
    """A network from pixels to logits made of PyTorch's own layers.

    Convolutions, batch norms and linear layers are ``torch.nn.Conv2d``, ``BatchNorm2d`` and
    ``Linear``, named after their parameters. The ``state_dict`` therefore has the names and
    shapes of the weights' source, torchvision for most. Containers of numbered modules are
    ``Sequential``, so that ``model.features[17:]`` works. In training mode batch norm normalizes
    by the batch and updates its running statistics. The module has no dropout, since networks
    have none.

    Parameters
    ----------
    network, weights
        What to convert; the weights are copied.
    device
        The device of the parameters.

    Raises
    ------
    UnsupportedError
        If the name of a parameter is not allowed in a ``torch.nn.Module``.
    """

    def __init__(self, network: Network, weights: Weights, device: torch.device) -> None:
        super().__init__()
        self._network = keep_needed(network, ["logits"])
        # The name of the layer of each parameter that belongs to one.
        self._layer_of: dict[str, str] = {}
        self._numbered = _numbered_containers(self._network.parameters)
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
                    f"does not allow: {error}"
                ) from error

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (n, classes) of pixels (n, 3, h, w), RGB, in [0, 1]."""
        table = _LayerTable(pixels.device, pixels.dtype)
        target = self._network.resolve("logits")
        parameters = {
            name: self.get_submodule(self._layer_of[name])
            if name in self._layer_of
            else self._get_tensor(name)
            for name in self._network.parameters
        }
        x = pixels.permute(0, 2, 3, 1)
        outputs: dict[str, Tensor] = run_network(table, self._network, parameters, x, [target])
        return outputs[target]

    def _get_tensor(self, name: str) -> Any:
        path, _, last = name.rpartition(".")
        return getattr(self.get_submodule(path), last)

    def _add_layer(self, path: str, layer: nn.Module) -> None:
        outer, _, last = path.rpartition(".")
        container = self._container(outer)
        if last in container._modules:
            # A layer inside this one was added earlier, in a container of the same name.
            for name, module in container._modules.pop(last).named_children():
                layer.add_module(name, module)
        container.add_module(last, layer)

    def _add_parameter(self, name: str, tensor: Tensor) -> None:
        path, _, last = name.rpartition(".")
        container = self._container(path)
        if last in container._parameters or last in container._buffers:
            return
        if name in self._network.statistics:
            container.register_buffer(last, tensor)
        else:
            container.register_parameter(last, nn.Parameter(tensor))

    def _container(self, path: str) -> nn.Module:
        """Return the module at ``path``, creating the missing modules on the path."""
        module: nn.Module = self
        inner = ""
        for name in path.split(".") if path else ():
            inner = f"{inner}.{name}".lstrip(".")
            if name not in module._modules:
                is_numbered = inner in self._numbered
                module.add_module(name, _Numbered() if is_numbered else nn.ModuleDict())
            module = module._modules[name]
        return module


class _Numbered(nn.Sequential):  # type: ignore[misc]
    """A container whose modules are numbered, as torchvision's are: it can be sliced and iterated.

    Between the modules belong operations without parameters, such as activations and residual
    connections, which are in the forward pass of the whole network.
    """

    def forward(self, *_: object) -> Tensor:
        raise UnsupportedError(
            "a part of this module has no activations and cannot be called; call the whole module, "
            "or extract a layer with a FeatureExtractor"
        )


def _numbered_containers(names: Iterable[str]) -> frozenset[str]:
    """Return the paths below which all modules are numbered, from the names of parameters."""
    children: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            children.setdefault(".".join(parts[:depth]), set()).add(parts[depth])
    return frozenset(
        path for path, inner in children.items() if all(child.isdecimal() for child in inner)
    )


class _LayerTable(TorchTable):
    """PyTorch's table, in which the first weight of a primitive may be the layer to call.

    Calling the layers runs their hooks and lets users replace them.
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
        y: Tensor = weight(x)
        return y

    def _call(self, layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


def _layer_name(node: Node) -> str | None:
    """Return the name of the layer with a node's parameters; None if no layer has them."""
    paths = {name.rpartition(".")[0] for name in node.parameters}
    suffixes = [name.rpartition(".")[2] for name in node.parameters]
    if len(paths) == 1 and suffixes in _PARAMETER_SUFFIXES.get(node.operation, ()):
        return paths.pop() or None
    return None


def _make_layer(node: Node, tensors: list[Tensor]) -> nn.Module:
    """Return the PyTorch layer of a node, with these parameters."""
    first = tensors[0]
    attributes: Any = node.attributes
    layer: nn.Module
    # Device "meta" skips the initialization, which would use the global random generator.
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
