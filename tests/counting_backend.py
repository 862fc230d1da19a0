"""A backend that counts the images that it runs on, in a module that other processes can import."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.onnx.backend import OnnxRuntimeBackend

Floats = npt.NDArray[np.float32]


class CountingBackend(OnnxRuntimeBackend):
    """ONNX Runtime; each run of a network on images adds a byte for each image to a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (CountingBackend, (self.file,))

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = super().compile(function)

        def run(*arrays: Floats) -> Any:
            if arrays[0].shape[3:] == (3,):
                descriptor = os.open(self.file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
                os.write(descriptor, b"1" * len(arrays[0]))
                os.close(descriptor)
            return compiled(*arrays)

        return run

    def count(self) -> int:
        return self.file.stat().st_size
