"""A user's ``torch.nn.Module`` as a network: hooks observe its layers while it runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transferkit.backends.base import Backend
from transferkit.backends.observed_model import (
    TRACE_BATCH_SIZE,
    ObservedModel,
    first_argument,
    locate_embedding_output,
    locate_logits_output,
    select_outputs,
)
from transferkit.backends.torch.table import TorchTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    OUTPUT,
    TensorLocation,
    assign_layer_names,
    build_wrapped_network,
    find_producer,
    is_vector_per_image,
    named_outputs,
)
from transferkit.errors import UnsupportedError

__all__ = ["TorchModel"]

# One lock for all models: they may share modules, whose mode and hooks are changed and restored.
_MODEL_LOCK = threading.RLock()


class TorchModel(ObservedModel):
    """A ``torch.nn.Module``, run in evaluation mode on its own device and in its own dtype.

    Parameters
    ----------
    backend
        The backend that wraps the model.
    table
        The primitives of ``backend``.
    model
        Takes one tensor, (n, 3, h, w).
    input_size
        The height and width of the images that the model is run on, once, to find its layers.
    mean, std, channel_order
        The normalization that the model expects, as for `NetworkBuilder.normalize`.

    Raises
    ------
    UnsupportedError
        If ``model`` is not a module, or does not return a tensor.
    ShapeError
        If the model fails on images of ``input_size``.

    Notes
    -----
    Tensors with four axes are assumed to be (n, c, h, w), and are returned as (n, h, w, c). A
    module is a layer only if its output is one floating-point tensor with one row per image.
    """

    def __init__(
        self,
        backend: Backend,
        table: TorchTable,
        model: object,
        *,
        input_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channel_order: str,
    ) -> None:
        name = type(model).__name__
        if not isinstance(model, nn.Module):
            raise UnsupportedError(f"backend 'torch' runs a torch.nn.Module, not a {name}")
        super().__init__(backend, model, name)
        self._table = table
        self._locations, aliases = self._trace_layers(input_size)
        self.network = build_wrapped_network(
            name,
            input_size,
            self._locations,
            aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
        )

    def _compute_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        pixels = torch.zeros((1, height, width, 3), device=self._table.device)
        with torch.no_grad():
            tensors = self.load(list(self._locations))(pixels)
        return {layer: tuple(tensor.shape[1:]) for layer, tensor in tensors.items()}

    def _trace_layers(self, side: int) -> tuple[dict[str, TensorLocation], dict[str, str]]:
        """Return the locations of the model's layers, and aliases, from running it once."""
        calls: list[tuple[str, int]] = []
        # The location of the input of each linear layer and the length of its output, by the
        # layer's node in the graph of autograd.
        linear: dict[Any, tuple[TensorLocation, int]] = {}
        # The layers that take one vector per image.
        takes_vector: set[TensorLocation] = set()

        def on_output(module: nn.Module, location: TensorLocation, output: Any) -> None:
            if not _is_activation(output):
                return
            calls.append((location.name, location.call))
            is_linear = isinstance(module, (nn.Linear, nn.Conv2d)) and location in takes_vector
            node = output.grad_fn
            if is_linear and node is not None and is_vector_per_image(output.shape, 1):
                linear[node] = (location._replace(kind=LAYER_INPUT), output.shape[1])

        def on_input(location: TensorLocation, value: object) -> None:
            if isinstance(value, Tensor) and is_vector_per_image(value.shape, 1):
                takes_vector.add(location._replace(kind=LAYER))

        names = {name for name, _ in self.model.named_modules() if name}
        try:
            with (
                torch.enable_grad(),
                _evaluation_mode(self.model),
                _observed_layers(self.model, names, on_output, on_input),
            ):
                pixels = torch.zeros((TRACE_BATCH_SIZE, side, side, 3)).requires_grad_()
                output = self.model(self._to_model(pixels))
        except Exception as error:
            raise self._size_error(side, side, error) from error
        outputs = named_outputs(output, _is_activation)
        logits = locate_logits_output(outputs)
        embedding = locate_embedding_output(outputs)
        if logits is not None and embedding is None:
            scores = outputs[logits.name]
            candidates = {
                node: location
                for node, (location, length) in linear.items()
                if length == scores.shape[1]
            }
            embedding = find_producer(scores.grad_fn, candidates, _preceding_nodes)
        return assign_layer_names(calls, list(outputs), embedding=embedding, logits=logits)

    def _run(
        self, x: Tensor, locations: Collection[TensorLocation]
    ) -> dict[TensorLocation, Tensor]:
        tensors: dict[TensorLocation, Tensor] = {}

        def on_output(_: nn.Module, location: TensorLocation, output: object) -> None:
            # A copy, since later layers may write into the output.
            if location in locations and isinstance(output, Tensor):
                tensors[location] = output.clone()

        def on_input(location: TensorLocation, value: object) -> None:
            if location in locations and isinstance(value, Tensor):
                tensors[location] = value.clone().flatten(1)

        names = {location.name for location in locations if location.kind != OUTPUT}
        with (
            _evaluation_mode(self.model),
            _observed_layers(self.model, names, on_output, on_input),
        ):
            output = self.model(self._to_model(x))
        tensors |= select_outputs(output, locations, _is_tensor)
        return {location: self._from_model(tensor) for location, tensor in tensors.items()}

    def _to_model(self, x: Tensor) -> Tensor:
        """Return a copy of ``x`` with the model's dtype, device and order of axes."""
        parameters = [tensor for tensor in self.model.parameters() if tensor.is_floating_point()]
        first = parameters[0] if parameters else x
        x = x.permute(0, 3, 1, 2).to(first.device, first.dtype)
        # Contiguous, since models flatten with `view`, and a copy, since they may write into it.
        return x.clone(memory_format=torch.contiguous_format)

    def _from_model(self, x: Tensor) -> Tensor:
        x = x.to(self._table.device, self._table.dtype)
        return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode; restore its modes and buffers afterward."""
    with _MODEL_LOCK:
        # Flags instead of `eval()` and `train()`, which modules may override to do more.
        training = [module for module in model.modules() if module.training]
        buffers = [
            (module, name, buffer, buffer.detach().clone(), _version(buffer))
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True
            for module, name, buffer, values, version in buffers:
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
                # Written only if changed: autograd may have saved it for the backward pass.
                if _version(buffer) != version:
                    with torch.no_grad():
                        buffer.copy_(values)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count writes."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def _observed_layers(
    model: nn.Module,
    names: set[str],
    on_output: Callable[[nn.Module, TensorLocation, Any], None],
    on_input: Callable[[TensorLocation, Any], None],
) -> Iterator[None]:
    """Call the callbacks for each call of the modules in ``names`` from this thread."""
    thread = threading.get_ident()
    started: Counter[str] = Counter()
    finished: Counter[str] = Counter()
    handles = []

    def add_hooks(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if threading.get_ident() == thread:
                location = TensorLocation(LAYER_INPUT, name, started[name])
                on_input(location, first_argument(inputs, keywords))
                started[name] += 1

        def after(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            if threading.get_ident() == thread:
                on_output(module, TensorLocation(LAYER, name, finished[name]), output)
                finished[name] += 1

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))

    try:
        for name, module in model.named_modules():
            if name in names:
                add_hooks(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_activation(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim >= 1
        and value.shape[0] == TRACE_BATCH_SIZE
    )


def _preceding_nodes(node: Any) -> list[Any]:
    return [preceding for preceding, _ in node.next_functions if preceding is not None]
