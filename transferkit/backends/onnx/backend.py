"""The ONNX Runtime backend: a function is recorded as an ONNX graph and run from there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from transferkit.backends.base import API_VERSION, Backend
from transferkit.backends.onnx.table import (
    OnnxTable,
    Recorded,
    placeholder,
    write_model_and_arrays,
)

__all__ = ["OnnxRuntimeBackend"]


# Measured with MobileNetV2 on two cores: 4 at a time run a third faster than 32.
_MICRO_BATCH_SIZE = 4
_CPU = "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime, which comes with transferkit. It has no gradients."""

    name: ClassVar[str] = "onnxruntime"
    api_version: ClassVar[int] = API_VERSION

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.table = OnnxTable()
        self.micro_batch_size = _MICRO_BATCH_SIZE if self.device == _CPU else None

    @classmethod
    def version(cls) -> str:
        return str(onnxruntime.__version__)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        # The Azure provider sends inputs to a service elsewhere: no device of this machine.
        return tuple(
            sorted(
                set(onnxruntime.get_available_providers()) - {"AzureExecutionProvider"},
                key=lambda name: (name != _CPU, name),
            )
        )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        recordings: dict[tuple[int, ...], _Recording] = {}
        lock = threading.Lock()

        def run(*arrays: npt.NDArray[np.float32]) -> Any:
            ranks = tuple(np.ndim(array) for array in arrays)
            with lock:
                if ranks not in recordings:
                    recordings[ranks] = _Recording(function, ranks, self.device)
                recording = recordings[ranks]
            return recording.run(arrays)

        return run


class _Recording:
    """A function recorded for inputs of certain ranks; their sizes may differ at each run."""

    def __init__(self, function: Callable[..., Any], ranks: tuple[int, ...], device: str) -> None:
        inputs = {f"input_{index}": placeholder(rank) for index, rank in enumerate(ranks)}
        found = function(*inputs.values())
        # A mapping's names may be any text; the graph has names of its own.
        self._names = None if isinstance(found, Recorded) else list(found)
        values = [found] if isinstance(found, Recorded) else list(found.values())
        outputs = {f"output_{index}": value for index, value in enumerate(values)}
        options = onnxruntime.SessionOptions()
        # Idle threads would otherwise turn in a loop and take the cores from those that
        # decode the next pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Inside the model, weights would be copied four times and could not exceed 2 GB.
        model, arrays = write_model_and_arrays(inputs, outputs)
        # They stay the arrays', which have to be there for as long as the session is.
        self._arrays = arrays
        self._values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()
        ]
        # The first is for the passes over the graph, which read and replace weights; the second
        # for what is left of them, which would otherwise be copied before kernels pack it.
        options.add_external_initializers(list(arrays), self._values)
        if device == _CPU:
            for name, value in zip(arrays, self._values, strict=True):
                options.add_initializer(name, value)
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[device]
        )

    def run(self, arrays: tuple[npt.NDArray[np.float32], ...]) -> Any:
        feed = {
            f"input_{index}": np.asarray(array, np.float32, order="C")
            for index, array in enumerate(arrays)
        }
        # What has no axes comes as a NumPy scalar.
        found = list(map(np.asarray, self._session.run(None, feed)))
        return found[0] if self._names is None else dict(zip(self._names, found, strict=True))
