"""The TensorFlow backend: ``tf.function`` traces functions once for inputs of any size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from transferkit.backends.base import (
    API_VERSION,
    GRADIENTS,
    INFERENCE,
    TRAINING,
    Backend,
    no_gradient_error,
)
from transferkit.backends.tensorflow.native import keras_model
from transferkit.backends.tensorflow.table import TensorFlowTable, check_not_forked
from transferkit.backends.tensorflow.wrap import KerasModel
from transferkit.networks.graph import Network, Weights
from transferkit.support.locks import ForkSafeLock

__all__ = ["TensorFlowBackend"]

_MAX_TRACES = 64
# MobileNetV2 on two CPU cores: parts of 8 are as fast as 16 images at once, and take less memory.
_TRAINING_MICRO_BATCH_SIZE = 8


class TensorFlowBackend(Backend):
    """TensorFlow."""

    name: ClassVar[str] = "tensorflow"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE, GRADIENTS, TRAINING})

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.table: TensorFlowTable = TensorFlowTable(on_cpu=self.device.startswith("CPU"))
        self.training_micro_batch_size = (
            _TRAINING_MICRO_BATCH_SIZE if self.device.startswith("CPU") else None
        )

    @classmethod
    def version(cls) -> str:
        return str(tf.__version__)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        # Listing devices starts TensorFlow's threads.
        check_not_forked()
        names = [
            device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()
        ]
        return tuple(sorted(names))

    @classmethod
    def owns(cls, model: object) -> bool:
        return isinstance(model, keras.Model)

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> KerasModel:
        check_not_forked()
        return KerasModel(
            self,
            self.table,
            model,
            input_size=input_size,
            mean=mean,
            std=std,
            channel_order=channel_order,
        )

    def to_native(self, network: Network, weights: Weights) -> Any:
        check_not_forked()
        with tf.device(self.device):
            return keras_model(network, weights)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        traces = _Traces(function)

        def run(*arrays: npt.NDArray[np.float32]) -> Any:
            # One trace for all batch sizes and image sizes is as fast as one for each, and a
            # smaller last batch needs no new one.
            signature = tuple(
                ((*[None] * (np.ndim(array) - 1), *np.shape(array)[-1:]), self.table.dtype)
                for array in arrays
            )
            with tf.device(self.device):
                result = traces.get(signature)(*map(self.table.asarray, arrays))
            return tf.nest.map_structure(self.table.to_numpy, result)

        return run

    def compile_tensors(self, function: Callable[..., Any]) -> Callable[..., Any]:
        traces: dict[Any, _Traces] = {}

        def run(*arguments: Any) -> Any:
            structure = tuple(map(_structure, arguments))
            if structure not in traces:
                # Several threads may make the same traces; only the last ones are kept.
                traces[structure] = _Traces(_of_flat_tensors(function, arguments))
            # One trace for all batch sizes is as fast as one for each, and lets finished images
            # be left out of the batch. The tensors of a mapping, such as parameters, keep their
            # shapes. Compilation with XLA is slower.
            signature: list[tuple[tuple[int | None, ...], Any]] = []
            for argument in arguments:
                if isinstance(argument, Mapping):
                    tensors = tf.nest.flatten(argument)
                    signature += [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
                else:
                    shape = (None, *argument.shape[1:])[: len(argument.shape)]
                    signature.append((shape, argument.dtype))
            with tf.device(self.device):
                return traces[structure].get(tuple(signature))(*tf.nest.flatten(arguments))

        return run

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        def run(*arguments: Any) -> dict[str, Any]:
            first = arguments[0]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(first)
                result = function(*arguments)
                outputs = result if isinstance(result, Mapping) else {"value": result}
            gradient = tape.gradient(outputs["value"], first)
            if all(part is None for part in tf.nest.flatten(gradient)):
                raise no_gradient_error()
            if isinstance(first, Mapping):
                gradient = {
                    name: tf.zeros_like(tensor) if gradient[name] is None else gradient[name]
                    for name, tensor in first.items()
                }
            return {**outputs, "gradient": gradient}

        return run


def _structure(value: Any) -> Any:
    """Return the names in a mapping, and those in the mappings in it; None for a tensor."""
    if not isinstance(value, Mapping):
        return None
    return tuple((name, _structure(value[name])) for name in sorted(value))


def _of_flat_tensors(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Callable[..., Any]:
    """Return ``function`` over the tensors of ``arguments``, in the order of ``tf.nest``.

    The names of a mapping may be any strings, which a signature does not allow.
    """
    # Not the arguments themselves, whose tensors would be kept in memory.
    template = tf.nest.map_structure(lambda _: 0, arguments)

    def run(*tensors: Any) -> Any:
        return function(*tf.nest.pack_sequence_as(template, tensors))

    return run


class _Traces:
    """The traces of a function by ``tf.function``, one for each of the last 64 signatures.

    They are safe in several threads.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._traces: OrderedDict[tuple[Any, ...], Callable[..., Any]] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, signature: tuple[tuple[tuple[int | None, ...], Any], ...]) -> Callable[..., Any]:
        """Return the trace for arguments of these shapes and dtypes; None is any size."""
        with self._lock:
            if signature not in self._traces:
                # The key has no `tf.TensorSpec`, which takes long to create.
                specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
                traced = tf.function(self._function, input_signature=specs, autograph=False)
                self._traces[signature] = traced.get_concrete_function()
                if len(self._traces) > _MAX_TRACES:
                    self._traces.popitem(last=False)
            self._traces.move_to_end(signature)
            return self._traces[signature]
