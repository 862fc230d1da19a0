"""The TensorFlow backend: ``tf.function`` traces functions once for inputs of any size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
from transferkit.backends.tensorflow.table import TensorFlowTable
from transferkit.backends.tensorflow.wrap import KerasModel
from transferkit.networks.graph import Network, Weights

__all__ = ["TensorFlowBackend"]


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
        names = [
            device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()
        ]
        return tuple(sorted(names))

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> KerasModel:
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
        with tf.device(self.device):
            return keras_model(network, weights)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        traced: dict[tuple[Any, ...], Callable[..., Any]] = {}
        lock = threading.Lock()

        def run(*arrays: npt.NDArray[np.float32]) -> Any:
            # One trace for all batch sizes and image sizes is as fast as one for each, and a
            # smaller last batch needs no new one.
            key = tuple((np.ndim(array), np.shape(array)[-1:]) for array in arrays)
            with lock, tf.device(self.device):
                if key not in traced:
                    traced[key] = self._trace(function, key)
            with tf.device(self.device):
                result = traced[key](*map(self.table.asarray, arrays))
            return tf.nest.map_structure(self.table.to_numpy, result)

        return run

    def _trace(self, function: Callable[..., Any], key: tuple[Any, ...]) -> Callable[..., Any]:
        """Return ``function`` traced for inputs of these ranks and last axes, else of any size."""
        signature = [
            tf.TensorSpec([*[None] * (rank - 1), *last], self.table.dtype) for rank, last in key
        ]
        traced = tf.function(function, input_signature=signature, autograph=False)
        concrete: Callable[..., Any] = traced.get_concrete_function()
        return concrete

    def compile_tensors(self, function: Callable[..., Any]) -> Callable[..., Any]:
        traced: dict[tuple[Any, ...], Callable[..., Any]] = {}
        lock = threading.Lock()

        def run(*tensors: Any) -> Any:
            # One trace for all batch sizes is as fast as one for each, and lets finished images
            # be left out of the batch. Compilation with XLA is slower.
            key = tuple((tensor.dtype, len(tensor.shape), *tensor.shape[1:]) for tensor in tensors)
            with lock, tf.device(self.device):
                if key not in traced:
                    signature = [
                        tf.TensorSpec([None, *tensor.shape[1:]][: len(tensor.shape)], tensor.dtype)
                        for tensor in tensors
                    ]
                    compiled = tf.function(function, input_signature=signature, autograph=False)
                    traced[key] = compiled.get_concrete_function()
            with tf.device(self.device):
                return traced[key](*tensors)

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
