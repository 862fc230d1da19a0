"""Convolutions in float32 on NVIDIA GPUs, where PyTorch uses TF32 unless told otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["float32_convolutions"]


def float32_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which convolutions on ``device`` are computed in float32.

    TF32 has 10 bits of mantissa instead of 23: the embeddings of MobileNetV2 are off by 2e-3 of
    the largest value with it, and by 2e-7 without. The setting is one of the process, so it is
    restored when the last of the threads in such a context leaves it.
    """
    return nullcontext() if device.type != "cuda" else _SETTING.float32()


class _Setting:
    """PyTorch's setting, with the number of contexts that need it to be off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._restored: bool | str = False

    @contextmanager
    def float32(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._restored = _allow_tf32(False)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    _allow_tf32(self._restored)


def _allow_tf32(value: bool | str) -> bool | str:
    """Set whether convolutions may use TF32, and return the value before."""
    cudnn = torch.backends.cudnn
    try:
        before: bool | str = cudnn.allow_tf32
    except RuntimeError:
        # The precision was set for convolutions alone, which PyTorch 2.9 introduced.
        before = cudnn.conv.fp32_precision
        cudnn.conv.fp32_precision = "ieee" if value is False else value
        return before
    cudnn.allow_tf32 = value
    return before


# One for all backends, like the setting itself.
_SETTING = _Setting()
