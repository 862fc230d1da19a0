"""The ONNX Runtime backend: it records a function as an ONNX graph and runs the graph."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from transferkit.backends.base import API_VERSION, INFERENCE, INT8, Backend
from transferkit.backends.calibration import Calibration
from transferkit.backends.forks import FORK_FIRST, forked_process_error, was_started_before_fork
from transferkit.backends.onnx.integer_products import are_sums_exact
from transferkit.backends.onnx.quantization import run_quantized
from transferkit.backends.onnx.table import (
    OnnxTable,
    SymbolicTensor,
    placeholder,
    write_model_and_arrays,
)
from transferkit.networks.graph import Network, Weights
from transferkit.support.locks import ForkSafeLock

__all__ = ["OnnxRuntimeBackend"]

# Measured with MobileNetV2 on two cores: batches of 4 run a third faster than batches of 32.
_MICRO_BATCH_SIZE = 4
_CPU = "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime, which is installed with transferkit. It has no gradients."""

    name: ClassVar[str] = "onnxruntime"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[frozenset[str]] = frozenset({INFERENCE, INT8})
    table: OnnxTable

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device)
        self.table = OnnxTable()
        self.micro_batch_size = _MICRO_BATCH_SIZE if self.device == _CPU else None

    @classmethod
    def version(cls) -> str:
        return str(onnxruntime.__version__)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        # The Azure provider is not a device of this machine: it sends inputs to a remote service.
        return tuple(
            sorted(
                set(onnxruntime.get_available_providers()) - {"AzureExecutionProvider"},
                key=lambda name: (name != _CPU, name),
            )
        )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # By process too: a forked child has none of the threads that its parent's sessions use.
        recordings: dict[tuple[int, tuple[int, ...]], _Recording] = {}
        lock = ForkSafeLock()

        def run(*arrays: npt.NDArray[np.float32]) -> Any:
            ranks = tuple(np.ndim(array) for array in arrays)
            key = (os.getpid(), ranks)
            with lock:
                if key not in recordings:
                    recordings[key] = _Recording(function, ranks, self.device)
                recording = recordings[key]
            return recording.run(arrays)

        return run

    def load_int8(
        self,
        network: Network,
        weights: Weights,
        layers: Sequence[str],
        calibration: Calibration,
    ) -> Callable[..., Any]:
        def function(pixels: SymbolicTensor) -> dict[str, SymbolicTensor]:
            return run_quantized(self.table, network, weights, calibration, pixels, layers)[0]

        return function


class _Recording:
    """A function recorded for inputs of certain ranks, whose shapes may differ in each run."""

    def __init__(self, function: Callable[..., Any], ranks: tuple[int, ...], device: str) -> None:
        if device != _CPU and was_started_before_fork(f"ONNX Runtime on {device}"):
            raise forked_process_error(f"ONNX Runtime on {device}", FORK_FIRST)
        inputs = {f"input_{index}": placeholder(rank) for index, rank in enumerate(ranks)}
        result = function(*inputs.values())
        # The names of a mapping may be any strings, so the graph uses different names.
        self._names = None if isinstance(result, SymbolicTensor) else list(result)
        values = [result] if isinstance(result, SymbolicTensor) else list(result.values())
        outputs = {f"output_{index}": value for index, value in enumerate(values)}
        options = onnxruntime.SessionOptions()
        # Otherwise idle threads spin and take CPU time from the threads that decode the next
        # images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # With it, int8 is slower than float32 on CPUs with VNNI; without it, products of 8-bit
        # integers overflow on other x86 CPUs.
        if not are_sums_exact():
            options.add_session_config_entry("session.x64quantprecision", "1")
        # ONNX Runtime has no variable of its own, and starts a thread for each core of the machine,
        # even where several processes share it.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal():
            options.intra_op_num_threads = int(threads)
        # Weights inside the model would be copied four times and be limited to 2 GB.
        model, arrays = write_model_and_arrays(inputs, outputs)
        # The session uses the memory of the arrays, which must live as long as the session.
        self._arrays = arrays
        self._values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()
        ]
        # The first call is for graph optimizations, which read and replace weights. The second is
        # for the remaining weights, which would otherwise be copied before kernels pack them.
        options.add_external_initializers(list(arrays), self._values)
        if device == _CPU:
            for name, value in zip(arrays, self._values, strict=True):
                options.add_initializer(name, value)
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=[device]
        )
        # Called when the recording is freed, or when the process exits.
        weakref.finalize(self, _keep_in_forked_child, self._session, os.getpid())

    def run(self, arrays: tuple[npt.NDArray[np.float32], ...]) -> Any:
        feed = {
            f"input_{index}": np.asarray(array, np.float32, order="C")
            for index, array in enumerate(arrays)
        }
        # Results without axes are NumPy scalars.
        results = list(map(np.asarray, self._session.run(None, feed)))
        return results[0] if self._names is None else dict(zip(self._names, results, strict=True))


def _keep_in_forked_child(session: onnxruntime.InferenceSession, process: int) -> None:
    """Prevent a forked child from destroying a session of its parent, process ``process``.

    The destructor waits for the session's threads, which the child does not have. One reference
    that is never released keeps it from being called.
    """
    if os.getpid() != process:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
