"""How the outputs of a Keras model are computed, from the graph that TensorFlow records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from transferkit.backends.observed_model import TRACE_BATCH_SIZE
from transferkit.backends.output_sources import (
    LinearCall,
    Meanings,
    OutputSource,
    Step,
    are_probabilities,
    find_linear_calls,
    locate_meanings,
)
from transferkit.backends.wrapping import (
    LAYER_INPUT,
    PRE_ACTIVATION,
    TensorLocation,
    assign_layer_names,
    is_vector_per_image,
    named_outputs,
)

__all__ = ["LayerTrace", "find_last_activation"]

_ACTIVATIONS = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
_RESHAPING = frozenset(
    {
        "Cast",
        "EnsureShape",
        "ExpandDims",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "StopGradient",
        "StridedSlice",
        "Transpose",
    }
)
# Those that may follow a softmax or sigmoid, without changing which class has the maximum.
_AFTER_ACTIVATION = _RESHAPING | {"ClipByValue", "Exp", "Log", "Maximum", "Minimum"}
# Those that may lie between a linear layer and logits.
_SCALING = _RESHAPING | frozenset(
    {
        "Add",
        "AddN",
        "AddV2",
        "BiasAdd",
        "ConcatV2",
        "Div",
        "Mul",
        "Neg",
        "Pack",
        "RealDiv",
        "Sub",
    }
)
_LINEAR = frozenset({"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Einsum", "MatMul"})
# Those that contain a graph, which may be anything; it is taken as linear.
_FUNCTIONS = frozenset({"If", "PartitionedCall", "StatefulPartitionedCall", "While"})
# Those by which probabilities may be computed in other ways than by a last activation.
_PROBABLE = _ACTIVATIONS | _FUNCTIONS | {"Exp"}


class LayerTrace:
    """The calls of layers while a model is traced.

    Parameters
    ----------
    pixels
        The input of the model, in the graph that records it.
    """

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels
        self._order: list[tuple[str, int]] = []
        # By operation.
        self._linear: dict[Any, LinearCall] = {}

    def add(self, layer: Any, location: TensorLocation, layer_input: Any, output: Any) -> None:
        """Record a call of a layer."""
        if not self._is_activation(output):
            return
        self._order.append((location.name, location.call))
        is_linear = (
            isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D))
            and self._is_activation(layer_input)
            and is_vector_per_image(tuple(layer_input.shape))
            and is_vector_per_image(tuple(output.shape))
        )
        operation = _find_linear_operation(output, layer_input) if is_linear else None
        if operation is not None:
            self._linear[operation] = LinearCall(
                location._replace(kind=LAYER_INPUT), layer_input.ref(), output.shape[-1]
            )

    def outputs(self, output: object) -> dict[str, Any]:
        """Return the tensors that the model returned, by name."""
        return named_outputs(output, self._is_activation)

    def locate(
        self,
        outputs: Mapping[str, Any],
        compute: Callable[[], Mapping[str, npt.NDArray[np.floating[Any]]]],
    ) -> tuple[dict[str, TensorLocation], dict[str, str], Mapping[str, str]]:
        """Return the layers' locations, aliases and hints.

        Parameters
        ----------
        outputs
            From `outputs`.
        compute
            Returns the values of ``outputs`` for some images. Called only if they may be
            probabilities whose logits cannot be located.
        """
        dependent = self._dependent_operations()
        sources: dict[str, OutputSource | None] = {}
        for name, tensor in outputs.items():
            source = self._source(name, tensor, dependent)
            if source is not None and source.is_probability and source.logits is None:
                source = replace(source, is_probability=are_probabilities(compute()[name]))
            sources[name] = source
        meanings: Meanings = locate_meanings(sources)
        locations, aliases = assign_layer_names(
            self._order, list(outputs), embedding=meanings.embedding, logits=meanings.logits
        )
        return locations, aliases, meanings.hints

    def _source(self, name: str, output: Any, dependent: set[Any]) -> OutputSource | None:
        """Return how ``output`` is computed; None if it is not one vector per image.

        ``is_probability`` is whether it may consist of probabilities.
        """
        shape = tuple(output.shape)
        if None in shape or (len(shape) != 1 and not is_vector_per_image(shape)):
            return None
        size = OutputSource(shape).size
        activation = find_last_activation(output)
        logits = None
        start = output
        if activation is not None:
            start = activation.inputs[0]
            length = start.shape[-1] if activation.type != "Sigmoid" else size
            if length == size == OutputSource(tuple(start.shape)).size:
                logits = TensorLocation(PRE_ACTIVATION, name)
        linear, is_linear = find_linear_calls(
            [start.op],
            lambda operation: self._classify(operation, dependent),
            lambda operation: [tensor.op for tensor in operation.inputs],
            through_all=activation is not None,
        )
        embeddings = {call.embedding: call.key for call in linear if call.length == size}
        is_probability = logits is None and self._may_be_probability(output, dependent)
        return OutputSource(shape, embeddings, is_linear, logits, is_probability)

    def _classify(self, operation: Any, dependent: set[Any]) -> LinearCall | Step:
        if operation not in dependent:
            return Step.CONSTANT
        if operation in self._linear:
            return self._linear[operation]
        if not _is_vector(operation.outputs[0]):
            return Step.FEATURE_MAP
        if operation.type in _LINEAR | _FUNCTIONS:
            return Step.LINEAR
        return Step.SCALING if operation.type in _SCALING else Step.OTHER

    def _may_be_probability(self, output: Any, dependent: set[Any]) -> bool:
        """Return whether an operation on vectors that may make probabilities ends in ``output``."""
        visited: set[Any] = set()
        stack = [output]
        while stack:
            tensor = stack.pop()
            operation = tensor.op
            if operation in visited or operation not in dependent or not _is_vector(tensor):
                continue
            if operation.type in _PROBABLE:
                return True
            visited.add(operation)
            if operation.type not in _LINEAR:
                stack.extend(operation.inputs)
        return False

    def _dependent_operations(self) -> set[Any]:
        """Return the operations whose results depend on the pixels."""
        dependent: set[Any] = set()
        stack = [self._pixels]
        while stack:
            for operation in stack.pop().consumers():
                if operation not in dependent and operation.type != "Shape":
                    dependent.add(operation)
                    stack.extend(operation.outputs)
        return dependent

    def _is_activation(self, value: Any) -> bool:
        # Tensors inside the graph of a loop or function cannot be used outside it.
        return (
            tf.is_tensor(value)
            and getattr(value, "graph", None) is self._pixels.graph
            and value.dtype.is_floating
            and bool(value.shape.rank)
            and value.shape[0] == TRACE_BATCH_SIZE
        )


def find_last_activation(output: Any) -> Any:
    """Return the softmax, log-softmax or sigmoid that ends a computation in a graph.

    Parameters
    ----------
    output
        The result of the computation.

    Returns
    -------
    tf.Operation or None
        None if the computation does not end in one; what follows it at most reshapes its
        result, or is increasing.
    """
    operation = output.op
    while operation.type in _AFTER_ACTIVATION and operation.inputs:
        operation = operation.inputs[0].op
    return operation if operation.type in _ACTIVATIONS else None


def _find_linear_operation(output: Any, layer_input: Any) -> Any:
    """Return the product with the weights in the call of a linear layer; None if not found."""
    visited: set[Any] = set()
    stack = [output]
    while stack:
        tensor = stack.pop()
        if tensor is layer_input or tensor.op in visited:
            continue
        visited.add(tensor.op)
        if tensor.op.type in _LINEAR:
            return tensor.op
        stack.extend(tensor.op.inputs)
    return None


def _is_vector(tensor: Any) -> bool:
    """Return whether a tensor is one vector per image, as far as its shape is known."""
    shape = tensor.shape
    if shape.rank is None or None in tuple(shape)[1:]:
        return True
    lengths = tuple(shape)[1:]
    return bool(tf.TensorShape(lengths).num_elements() == max(lengths, default=1))
