"""A user's ``torch.nn.Module`` as a network: hooks observe the layers of a copy while it runs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from transferkit.backends.base import Backend
from transferkit.backends.observed_model import (
    TRACE_BATCH_SIZE,
    ObservedModel,
    StatelessCall,
    first_argument,
    select_outputs,
)
from transferkit.backends.output_sources import locate_meanings
from transferkit.backends.torch.autograd_trace import FinalActivations, GraphTrace
from transferkit.backends.torch.evaluation_copy import copy_for_evaluation, original_module
from transferkit.backends.torch.table import TorchTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    PRE_ACTIVATION,
    TensorLocation,
    assign_layer_names,
    build_wrapped_network,
    gray_weights,
    is_vector_per_image,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError
from transferkit.support.locks import ForkSafeLock

__all__ = ["TorchModel"]

# Batch norms of any number of axes, and instance norms.
_NORM = nn.modules.batchnorm._NormBase
_COMPILED = "_orig_mod."
# For the whole process, as the generators are: training in other threads waits.
_RANDOM_LOCK = ForkSafeLock()


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
    Each run uses a new copy of the module objects, in evaluation mode, which shares the parameters
    but not the mode, the hooks and the buffers; see `copy_for_evaluation`. Runs in several threads
    are therefore independent of each other and of the training of the model, except that
    the parameters change during a run if an optimizer step happens at the same time.

    Tensors with four axes are assumed to be (n, c, h, w), and are returned as (n, h, w, c). A
    module is a layer only if its output is one floating-point tensor with one row per image. The
    modules inside a TorchScript module cannot be observed, so they are not layers.
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
        original = original_module(model)
        name = getattr(original, "original_name", type(original).__name__)
        _check_runnable(model, name)
        super().__init__(backend, model, name)
        self._table = table
        # The weights of the input's channels in a gray pixel; None for a model of color images.
        self._gray_weights: tuple[float, ...] | None = None
        try:
            self._locations, aliases, hints = self._trace_layers(input_size)
        except ShapeError as error:
            self._check_gray(error)
            self._gray_weights = gray_weights(name, mean, std, channel_order)
            self._locations, aliases, hints = self._trace_layers(input_size)
        self.network = build_wrapped_network(
            name,
            input_size,
            self._locations,
            aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
            hints=hints,
        )

    def _check_gray(self, error: ShapeError) -> None:
        """Check that a model that failed on color images takes gray ones.

        Raises
        ------
        ShapeError
            ``error``, if the first kernel of the model takes neither one channel nor, in an
            obvious way, a number of channels other than three.
        UnsupportedError
            If the model takes another number of channels.
        """
        kernels = (tensor for tensor in self.model.parameters() if tensor.ndim == 4)
        channels = next((kernel.shape[1] for kernel in kernels), 3)
        if channels == 3:
            raise error
        if channels != 1:
            raise UnsupportedError(
                f"model {self._name!r} takes images of {channels} channels; expected 3 (RGB) or 1 "
                "(gray). Wrap it in a torch.nn.Module that computes its input from RGB"
            ) from error

    def _compute_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        pixels = torch.zeros((1, height, width, 3), device=self._table.device)
        with torch.no_grad():
            tensors = self.load(list(self._locations))(pixels)
        return {layer: tuple(tensor.shape[1:]) for layer, tensor in tensors.items()}

    def _trace_layers(
        self, side: int
    ) -> tuple[dict[str, TensorLocation], dict[str, str], Mapping[str, str]]:
        """Return the locations of the layers, aliases and hints, from running the model once."""
        calls: list[tuple[str, int]] = []
        trace = GraphTrace()
        # The layers that take one vector per image, with the autograd node of that vector.
        takes_vector: dict[TensorLocation, Any] = {}

        def on_output(module: nn.Module, location: TensorLocation, output: Any) -> None:
            if not _is_activation(output):
                return
            calls.append((location.name, location.call))
            is_linear = isinstance(module, (nn.Linear, nn.Conv2d)) and location in takes_vector
            if is_linear and is_vector_per_image(output.shape, 1):
                trace.add_linear(
                    output, location._replace(kind=LAYER_INPUT), takes_vector[location]
                )

        def on_input(location: TensorLocation, value: object) -> None:
            if isinstance(value, Tensor) and is_vector_per_image(value.shape, 1):
                takes_vector[location._replace(kind=LAYER)] = value.grad_fn

        # The caller may be in inference mode, in which a copy could not be part of a graph.
        with torch.inference_mode(False), torch.enable_grad():
            module = copy_for_evaluation(self.model)
        # Without a graph, only the layers and the outputs are known.
        has_graph = not _has_inference_tensors(module)
        try:
            with (
                torch.inference_mode(not has_graph),
                torch.set_grad_enabled(has_graph),
                _observed_layers(module, None, on_output, on_input),
                FinalActivations(after=trace.add_activation),
            ):
                pixels = torch.zeros((TRACE_BATCH_SIZE, side, side, 3), requires_grad=has_graph)
                output = module(self._to_model(pixels))
        except Exception as error:
            raise self._size_error(side, side, error) from error
        outputs = named_outputs(output, _is_activation)
        embedding, logits, hints = locate_meanings(
            {name: trace.source(tensor) for name, tensor in outputs.items()}
        )
        if "embedding" in hints and isinstance(module, torch.jit.ScriptModule):
            reason = "the layers of a TorchScript model cannot be observed, only its outputs"
            remedy = "pass the torch.nn.Module that it was made from, or its output with layer="
            hints = {**hints, "embedding": f"{reason}; {remedy}{next(iter(outputs))!r}"}
        locations, aliases = assign_layer_names(
            calls, list(outputs), embedding=embedding, logits=logits
        )
        return locations, aliases, hints

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def parameters(self) -> Mapping[str, npt.NDArray[Any]]:
        parameters = {
            name: _to_numpy(tensor)
            for name, tensor in _parameters_and_buffers(self.model).items()
            if tensor.requires_grad
        }
        if not parameters:
            raise UnsupportedError(
                f"no parameter of model {self._name!r} has requires_grad=True, so that nothing is "
                "trained; call its requires_grad_(True), or train the head only"
            )
        return parameters

    def statistics(self) -> Mapping[str, npt.NDArray[Any]]:
        return {name: _to_numpy(tensor) for name, tensor in _statistics(self.model).items()}

    def with_parameters(self, parameters: Mapping[str, npt.NDArray[Any]]) -> TorchModel:
        wrapped = copy.copy(self)
        wrapped.model = self._copied_model()
        tensors = _parameters_and_buffers(wrapped.model)
        with torch.inference_mode(False), torch.no_grad():
            for name, array in parameters.items():
                tensors[name].copy_(torch.as_tensor(np.array(array)))
        return wrapped

    def _copied_model(self) -> nn.Module:
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules()):
            raise UnsupportedError(
                f"TorchScript model {self._name!r} cannot be trained further; pass the "
                "torch.nn.Module that it was made from, or train the head only"
            )
        # A copy that is made in inference mode could not be trained further.
        with torch.inference_mode(False):
            return super()._copied_model()

    def _deepcopy(self) -> nn.Module:
        # PyTorch copies no tensor with a graph. Those that a call left in attributes, such as the
        # weight that `torch.nn.utils.weight_norm` computes, are replaced by the next call.
        left = {
            id(value): value.detach().clone()
            for module in self.model.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor) and not value.is_leaf
        }
        return copy.deepcopy(self.model, left)

    def _run(
        self,
        x: Tensor,
        locations: Collection[TensorLocation],
        call: StatelessCall | None = None,
    ) -> dict[TensorLocation, Tensor]:
        tensors: dict[TensorLocation, Tensor] = {}

        def on_output(_: nn.Module, location: TensorLocation, output: object) -> None:
            # A copy, since later layers may write into the output.
            if location in locations and isinstance(output, Tensor):
                tensors[location] = output.clone()

        def on_input(location: TensorLocation, value: object) -> None:
            if location in locations and isinstance(value, Tensor):
                tensors[location] = value.clone().flatten(1)

        def on_activation(location: TensorLocation, value: Tensor) -> None:
            if location in locations:
                tensors[location] = value.clone()

        names = {location.name for location in locations if location.kind in (LAYER, LAYER_INPUT)}
        has_activation = any(location.kind == PRE_ACTIVATION for location in locations)
        module = copy_for_evaluation(self.model, self._values(call))
        if torch.is_grad_enabled() and _has_inference_tensors(module):
            raise UnsupportedError(
                f"TorchScript model {self._name!r} was made in inference mode, so it has no "
                "gradients; make or load it outside torch.inference_mode()"
            )
        with (
            _observed_layers(module, names, on_output, on_input),
            FinalActivations(before=on_activation) if has_activation else nullcontext(),
        ):
            output = self._call(module, self._to_model(x), call)
        tensors |= select_outputs(output, locations, _is_tensor)
        return {location: self._from_model(tensor) for location, tensor in tensors.items()}

    def _values(self, call: StatelessCall | None) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters and buffers of the model that a call replaces, with the new ones.

        They are copies where the model may write into them.
        """
        tensors = _parameters_and_buffers(self.model)
        given = {} if call is None else call.parameters
        return [
            (
                tensors[name],
                value.to(
                    tensors[name].device,
                    tensors[name].dtype,
                    copy=not isinstance(tensors[name], nn.Parameter),
                ),
            )
            for name, value in given.items()
            if name in tensors
        ]

    def _call(self, module: nn.Module, x: Tensor, call: StatelessCall | None) -> Any:
        """Return the output of a copy of the model, which is run once."""
        if call is None or not call.training:
            return module(x)
        for inner in module.modules():
            # Not by `train`, which a subclass may override to change its weights.
            inner.training = call.update_batch_norm or not isinstance(inner, _NORM)
        with _seeded(int(call.seed[0]), x.device):
            output = module(x)
        if call.update_batch_norm:
            call.updates.update(
                {
                    name: tensor.to(self._table.device, self._table.dtype)
                    for name, tensor in _statistics(module).items()
                }
            )
        return output

    def _to_model(self, x: Tensor) -> Tensor:
        """Return a copy of ``x`` with the model's dtype, device and order of axes."""
        parameters = [tensor for tensor in self.model.parameters() if tensor.is_floating_point()]
        first = parameters[0] if parameters else x
        if self._gray_weights is not None:
            weights = torch.tensor(self._gray_weights, dtype=x.dtype, device=x.device)
            x = (x * weights).sum(-1, keepdim=True)
        x = x.permute(0, 3, 1, 2).to(first.device, first.dtype)
        # Contiguous, since models flatten with `view`, and a copy, since they may write into it.
        return x.clone(memory_format=torch.contiguous_format)

    def _from_model(self, x: Tensor) -> Tensor:
        x = x.to(self._table.device, self._table.dtype)
        return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _parameters_and_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model, by the names that they have in its copies."""
    return _without_compiled([*model.named_parameters(), *model.named_buffers()])


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of the norms of a model, and their numbers of batches."""
    return _without_compiled(
        named
        for path, module in model.named_modules()
        if isinstance(module, _NORM)
        for named in module.named_buffers(path, recurse=False)
    )


def _without_compiled(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors by their names, without the part that ``torch.compile`` adds to names."""
    return {name.replace(_COMPILED, ""): tensor for name, tensor in named}


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of random layers on the CPU and on a device, and restore them."""
    states: list[tuple[Any, tuple[Any, ...], Tensor]] = []
    # Not `torch.manual_seed`, which seeds the generators of all devices.
    with _RANDOM_LOCK:
        try:
            for each in {torch.device("cpu"), device}:
                module = torch if each.type == "cpu" else getattr(torch, each.type)
                arguments = (each,) if each.type in ("cuda", "xpu") else ()
                states.append((module, arguments, module.get_rng_state(*arguments)))
                state = torch.Generator(each).manual_seed(seed).get_state()
                module.set_rng_state(state, *arguments)
            yield
        finally:
            for module, arguments, state in states:
                module.set_rng_state(state, *arguments)


def _to_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    return np.array(tensor.detach().float().cpu().numpy())


def _has_inference_tensors(module: nn.Module) -> bool:
    """Return whether a copy has tensors of inference mode, since TorchScript is not copied."""
    return any(tensor.is_inference() for tensor in module.parameters())


def _check_runnable(model: nn.Module, name: str) -> None:
    """Check that a model can be run without changing it.

    TorchScript modules are not copied, so their mode cannot be changed. Modules without initialized
    parameters would be initialized by the first run.
    """
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule) and getattr(module, "training", False):
            raise UnsupportedError(
                f"TorchScript model {name!r} is in training mode; call its eval() first"
            )
    if any(is_lazy(tensor) for tensor in model.parameters()):
        raise UnsupportedError(
            f"model {name!r} has lazy modules without weights; call it once on a batch of images"
        )


@contextmanager
def _observed_layers(
    model: nn.Module,
    names: set[str] | None,
    on_output: Callable[[nn.Module, TensorLocation, Any], None],
    on_input: Callable[[TensorLocation, Any], None],
) -> Iterator[None]:
    """Call the callbacks for each call of the modules in ``names``, by default of all.

    ``model`` is a copy that is run once, so the hooks are not removed.
    """
    started: Counter[str] = Counter()
    finished: Counter[str] = Counter()

    def add_hooks(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            location = TensorLocation(LAYER_INPUT, name, started[name])
            on_input(location, first_argument(inputs, keywords))
            started[name] += 1

        def after(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            on_output(module, TensorLocation(LAYER, name, finished[name]), output)
            finished[name] += 1

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)

    for name, module in model.named_modules():
        is_observable = name and not isinstance(module, torch.jit.ScriptModule)
        if is_observable and (names is None or name in names):
            add_hooks(name, module)
    yield


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_activation(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim >= 1
        and value.shape[0] == TRACE_BATCH_SIZE
    )
