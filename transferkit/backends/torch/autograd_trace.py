"""How the output of a module is computed, from the graph that autograd records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from transferkit.backends.output_sources import (
    LinearCall,
    OutputSource,
    Step,
    are_probabilities,
    find_linear_calls,
)
from transferkit.backends.wrapping import PRE_ACTIVATION, TensorLocation, is_vector_per_image

__all__ = ["FinalActivations", "GraphTrace"]

_SOFTMAX = frozenset(
    {
        torch.softmax,
        torch.log_softmax,
        torch.special.softmax,
        torch.special.log_softmax,
        torch.nn.functional.softmax,
        torch.nn.functional.log_softmax,
        Tensor.softmax,
        Tensor.log_softmax,
    }
)
_SIGMOID = frozenset(
    {
        torch.sigmoid,
        torch.special.expit,
        torch.nn.functional.sigmoid,
        torch.nn.functional.logsigmoid,
        Tensor.sigmoid,
        Tensor.sigmoid_,
        torch.sigmoid_,
    }
)

# The names of autograd nodes without "Backward" and the number.
# Those that reshape a tensor, convert it, or select some of its values.
_RESHAPING = frozenset(
    [
        "Alias",
        "Clone",
        "Copy",
        "Expand",
        "Flatten",
        "Permute",
        "ReshapeAlias",
        "Select",
        "Slice",
        "Squeeze",
        "T",
        "ToCopy",
        "Transpose",
        "Unsqueeze",
        "UnsafeView",
        "View",
    ]
)
# Those that may follow a softmax or sigmoid, without changing which class has the maximum.
_AFTER_ACTIVATION = _RESHAPING | frozenset(["Clamp", "ClampMax", "ClampMin", "Exp", "Log"])
# Those that may lie between a linear layer and logits.
_SCALING = _RESHAPING | frozenset(["Add", "Cat", "Div", "Mul", "Neg", "Rsub", "Stack", "Sub"])
_LINEAR = frozenset(
    [
        "Addbmm",
        "Addmm",
        "Addmv",
        "Baddbmm",
        "Bmm",
        "Convolution",
        "Einsum",
        "Linear",
        "MkldnnConvolution",
        "MkldnnLinear",
        "Mm",
        "Mv",
        "CudnnConvolution",
    ]
)
_PARAMETER = "torch::autograd::AccumulateGrad"


class FinalActivations(TorchFunctionMode):  # type: ignore[misc]
    """Observes the calls of softmax, log-softmax and sigmoid in this thread.

    Parameters
    ----------
    before
        Called with the location and the input of each call, before the call.
    after
        Called with the location, the shape of the input, the axis of a softmax (None: unknown or
        a sigmoid), and the output of each call.
    """

    def __init__(
        self,
        before: Callable[[TensorLocation, Tensor], None] | None = None,
        after: Callable[[TensorLocation, tuple[int, ...], int | None, Any], None] | None = None,
    ) -> None:
        super().__init__()
        self._before = before
        self._after = after
        self._calls = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        is_softmax = func in _SOFTMAX
        if not is_softmax and func not in _SIGMOID:
            return func(*args, **keywords)
        location = TensorLocation(PRE_ACTIVATION, "", self._calls)
        self._calls += 1
        x = args[0] if args else keywords.get("input")
        shape = tuple(x.shape) if isinstance(x, Tensor) else ()
        if self._before is not None and isinstance(x, Tensor):
            self._before(location, x)
        output = func(*args, **keywords)
        if self._after is not None:
            axis = (args[1] if len(args) > 1 else keywords.get("dim")) if is_softmax else None
            self._after(location, shape, axis if isinstance(axis, int) else None, output)
        return output


@dataclass
class GraphTrace:
    """The linear layers and final activations of one run of a module, by autograd node."""

    _linear: dict[Any, LinearCall] = field(default_factory=dict)
    _activations: dict[Any, tuple[TensorLocation, tuple[int, ...], int | None]] = field(
        default_factory=dict
    )

    def add_linear(self, output: Tensor, embedding: TensorLocation, key: Hashable) -> None:
        """Add a call of a linear layer.

        Parameters
        ----------
        output
            Its output, one vector per image.
        embedding
            The location of its input.
        key
            The same for the same input; None if unknown.
        """
        if output.grad_fn is not None:
            key = embedding if key is None else key
            self._linear[output.grad_fn] = LinearCall(embedding, key, output.shape[1])

    def add_activation(
        self, location: TensorLocation, shape: tuple[int, ...], axis: int | None, output: Any
    ) -> None:
        """Add a call that `FinalActivations` observed."""
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._activations[output.grad_fn] = (location, shape, axis)

    def source(self, output: Tensor) -> OutputSource | None:
        """Return how ``output`` is computed; None if it is not one vector per image."""
        shape = tuple(output.shape)
        if output.ndim != 1 and not is_vector_per_image(shape, 1):
            return None
        node, is_probability = self._last_activation(output.grad_fn)
        logits = None
        if is_probability and node in self._activations:
            location, activation_shape, axis = self._activations[node]
            size = OutputSource(activation_shape).size
            length = size if axis is None else activation_shape[axis]
            if size == length == OutputSource(shape).size:
                logits = location
        values = output.detach().float().cpu().numpy()
        is_probability = logits is None and (is_probability or are_probabilities(values))
        # Of logarithms of probabilities the softmax is the probabilities: they are logits.
        is_log = logits is None and values.max(initial=0) <= 0 and are_probabilities(np.exp(values))
        start = output.grad_fn if logits is None else node
        through_all = is_probability or is_log or logits is not None
        linear, is_linear = find_linear_calls(
            [] if start is None else [start], self._classify, _preceding, through_all=through_all
        )
        # Without a graph, nothing is known; what may be anything is taken as linear.
        is_linear = is_linear or start is None
        size = OutputSource(shape).size
        embeddings = {call.embedding: call.key for call in linear if call.length == size}
        return OutputSource(shape, embeddings, is_linear, logits, is_probability)

    def _last_activation(self, node: Any) -> tuple[Any, bool]:
        """Return the node of the softmax or sigmoid that ends a computation, and whether it has."""
        while node is not None:
            name = _name(node)
            if node in self._activations or name in ("Softmax", "LogSoftmax", "Sigmoid"):
                return node, True
            before = _preceding(node)
            if name not in _AFTER_ACTIVATION or len(before) != 1:
                break
            (node,) = before
        return node, False

    def _classify(self, node: Any) -> LinearCall | Step:
        name = _name(node)
        if node in self._linear:
            return self._linear[node]
        if node.name() == _PARAMETER:
            return Step.CONSTANT
        if not _is_vector(node):
            return Step.FEATURE_MAP
        # A custom function or a compiled graph, which may be anything, is taken as linear.
        if name in _LINEAR or name is None:
            return Step.LINEAR
        return Step.SCALING if name in _SCALING else Step.OTHER


def _name(node: Any) -> str | None:
    """Return the name of a node of PyTorch's own operations; None for another."""
    match = re.fullmatch(r"(\w+?)Backward\d+", str(node.name()))
    return match[1] if match else None


def _preceding(node: Any) -> list[Any]:
    return [preceding for preceding, _ in node.next_functions if preceding is not None]


def _is_vector(node: Any) -> bool:
    """Return whether the result of a node is one vector per image, as far as is known."""
    results = getattr(node, "_input_metadata", None)
    if not results:
        return True
    lengths = tuple(results[0].shape)[1:]
    return bool(math.prod(lengths) == max(lengths, default=1))
