"""A user's own ``torch.nn.Module`` as a network: hooks see its layers while it runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transferkit.backends.base import Backend, WrappedModel
from transferkit.backends.torch.table import TorchTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    OUTPUT,
    ShapeCache,
    TensorLocation,
    assign_layer_names,
    build_wrapped_network,
    find_producer,
    is_vector_per_image,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError

__all__ = ["TorchModel"]

# What the model's layers are learnt from: two, so that an axis of pictures can be told.
_PICTURES = 2

# One for all models, since they may share modules, whose mode and hooks are changed and restored.
_LOCK = threading.RLock()


class TorchModel(WrappedModel):
    """A ``torch.nn.Module``, run in evaluation mode where it is and as it is.

    Parameters
    ----------
    backend
        What wraps it.
    table
        The primitives of ``backend``.
    model
        Takes one tensor, (n, 3, h, w).
    input_size
        The side of the pictures that it is run on, once, to learn its layers.
    mean, std, channel_order
        What it expects of pixels.

    Raises
    ------
    UnsupportedError
        If it is no module, or gives no tensor.
    ShapeError
        If it cannot take such pictures.

    Notes
    -----
    What has four axes is taken for torch's (n, c, h, w), and given as (n, h, w, c). A module
    whose output is not one tensor of fractions with a row for each picture is no layer.
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
        if not isinstance(model, nn.Module):
            raise UnsupportedError(
                f"backend 'torch' runs a torch.nn.Module, not a {type(model).__name__}"
            )
        self.backend = backend
        self.model: nn.Module = model
        self._table = table
        self._shapes = ShapeCache()
        self._places, aliases = self._learn(input_size)
        self.network = build_wrapped_network(
            type(model).__name__,
            input_size,
            self._places,
            aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
        )

    def load(self, layers: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        places = {layer: self._places[layer] for layer in layers}

        def function(x: Tensor) -> dict[str, Tensor]:
            found = self._run(x, set(places.values()))
            missing = [layer for layer, place in places.items() if place not in found]
            if missing:
                raise UnsupportedError(
                    f"layers {', '.join(missing)} of {self.network.name} were not computed for "
                    f"pictures of shape {tuple(x.shape)}: the model runs other layers for these"
                )
            return {layer: self._from_model(found[place]) for layer, place in places.items()}

        return function

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        def find() -> Mapping[str, tuple[int, ...]]:
            pixels = torch.zeros((1, height, width, 3), device=self._table.device)
            try:
                with torch.no_grad():
                    found = self.load(list(self._places))(pixels)
            except Exception as error:
                raise ShapeError(_cannot_take(self.model, height, width, error)) from error
            return {layer: tuple(tensor.shape[1:]) for layer, tensor in found.items()}

        return self._shapes.get((height, width), find)

    def _learn(self, side: int) -> tuple[dict[str, TensorLocation], dict[str, str]]:
        """Where the model's layers are, and aliases, from running it once."""
        calls: list[tuple[str, int]] = []
        # The step of autograd that each linear layer is, and what the layer gave.
        linear: dict[Any, tuple[TensorLocation, int]] = {}
        # The layers that take one row for each picture.
        rows: set[TensorLocation] = set()

        def see(module: nn.Module, place: TensorLocation, output: Any) -> None:
            if _is_activation(output):
                calls.append((place.name, place.call))
                is_linear = isinstance(module, (nn.Linear, nn.Conv2d)) and place in rows
                if (
                    is_linear
                    and output.grad_fn is not None
                    and is_vector_per_image(output.shape, 1)
                ):
                    linear[output.grad_fn] = (place._replace(kind=LAYER_INPUT), output.shape[1])

        def see_input(place: TensorLocation, value: object) -> None:
            if isinstance(value, Tensor) and is_vector_per_image(value.shape, 1):
                rows.add(place._replace(kind=LAYER))

        names = {name for name, _ in self.model.named_modules() if name}
        try:
            with (
                torch.enable_grad(),
                _undisturbed(self.model),
                _seeing(self.model, names, see, see_input),
            ):
                pixels = torch.zeros((_PICTURES, side, side, 3)).requires_grad_()
                output = self.model(self._to_model(pixels))
        except Exception as error:
            raise ShapeError(_cannot_take(self.model, side, side, error)) from error
        outputs = named_outputs(output, _is_activation)
        embedding = logits = None
        name = "output" if len(outputs) == 1 else "logits"
        if name in outputs and outputs[name].ndim == 2:
            logits = TensorLocation(OUTPUT, name)
            classes = outputs[name].shape[1]
            sources = {step: place for step, (place, size) in linear.items() if size == classes}
            embedding = find_producer(outputs[name].grad_fn, sources, _steps_before)
        if "embedding" in outputs and outputs["embedding"].ndim == 2:
            embedding = TensorLocation(OUTPUT, "embedding")
        return assign_layer_names(calls, list(outputs), embedding=embedding, logits=logits)

    def _run(self, x: Tensor, places: set[TensorLocation]) -> dict[TensorLocation, Tensor]:
        """The tensors at ``places`` when the model gets ``x`` (n, h, w, 3)."""
        found: dict[TensorLocation, Tensor] = {}

        def see(_: nn.Module, place: TensorLocation, output: object) -> None:
            # A copy, since what follows may write into the layer's output.
            if place in places and isinstance(output, Tensor):
                found[place] = output.clone()

        def see_input(place: TensorLocation, value: object) -> None:
            if place in places and isinstance(value, Tensor):
                found[place] = value.clone().flatten(1)

        names = {place.name for place in places if place.kind != OUTPUT}
        with _undisturbed(self.model), _seeing(self.model, names, see, see_input):
            output = self.model(self._to_model(x))
        wanted = {place.name for place in places if place.kind == OUTPUT}
        if wanted:
            outputs = named_outputs(output, _is_tensor)
            found |= {
                TensorLocation(OUTPUT, name): outputs[name] for name in wanted & outputs.keys()
            }
        return found

    def _to_model(self, x: Tensor) -> Tensor:
        """What the model takes: its own number type, device and order of axes, and a copy."""
        numbers = [tensor for tensor in self.model.parameters() if tensor.is_floating_point()]
        first = numbers[0] if numbers else x
        x = x.permute(0, 3, 1, 2).to(first.device, first.dtype)
        # Contiguous, since models flatten by `view`, and a copy, since they may write into it.
        return x.clone(memory_format=torch.contiguous_format)

    def _from_model(self, x: Tensor) -> Tensor:
        x = x.to(self._table.device, self._table.dtype)
        return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which `model` is afterwards what it was, whatever happens."""
    with _LOCK:
        # Flags, and not `eval()` and `train()`, which modules may override to do more.
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
                # Not written to without need: autograd may have kept it for the way back.
                if _version(buffer) != version:
                    with torch.no_grad():
                        buffer.copy_(values)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; those of inference mode do not count that."""
    return 0 if tensor.is_inference() else tensor._version


@contextmanager
def _seeing(
    model: nn.Module,
    names: set[str],
    see: Callable[[nn.Module, TensorLocation, Any], None],
    see_input: Callable[[TensorLocation, Any], None],
) -> Iterator[None]:
    """Calls ``see`` with each output of the modules called ``names``, in this thread."""
    thread = threading.get_ident()
    started: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    handles = []

    def add_hooks(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if threading.get_ident() == thread:
                value = inputs[0] if inputs else next(iter(named.values()), None)
                see_input(TensorLocation(LAYER_INPUT, name, started[name]), value)
                started[name] += 1

        def after(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            if threading.get_ident() == thread:
                see(module, TensorLocation(LAYER, name, ended[name]), output)
                ended[name] += 1

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
        and value.shape[0] == _PICTURES
    )


def _steps_before(step: Any) -> list[Any]:
    return [before for before, _ in step.next_functions if before is not None]


def _cannot_take(model: nn.Module, height: int, width: int, error: Exception) -> str:
    return (
        f"{type(model).__name__} fails on pictures of {height} x {width}: "
        f"{type(error).__name__}: {error}"
    )
