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


class TensorFlowBackend(Backend):
    """TensorFlow."""

    name: ClassVar[str] = "tensorflow"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE, GRADIENTS})

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.table: TensorFlowTable = TensorFlowTable(on_cpu=self.device.startswith("CPU"))

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
        traces = _Traces(function)

        def run(*tensors: Any) -> Any:
            # One trace for all batch sizes is as fast as one for each, and lets finished images
            # be left out of the batch. Compilation with XLA is slower.
            signature = tuple(
                ((None, *tensor.shape[1:])[: len(tensor.shape)], tensor.dtype) for tensor in tensors
            )
            with tf.device(self.device):
                return traces.get(signature)(*tensors)

        return run

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        def run(*tensors: Any) -> dict[str, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tensors[0])
                result = function(*tensors)
                outputs = result if isinstance(result, Mapping) else {"value": result}
            gradient = tape.gradient(outputs["value"], tensors[0])
            if gradient is None:
                raise no_gradient_error()
            return {**outputs, "gradient": gradient}

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
