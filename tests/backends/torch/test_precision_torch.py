"""The precision of convolutions on GPUs, a setting that PyTorch has on any machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from transferkit.backends.torch.backend import TorchBackend
from transferkit.backends.torch.precision import float32_convolutions

cudnn = torch.backends.cudnn
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _default_setting() -> Iterator[None]:
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = True
    yield
    cudnn.allow_tf32 = before


def test_tf32_is_off_in_the_context_alone() -> None:
    with float32_convolutions(CUDA):
        assert not cudnn.allow_tf32
        with float32_convolutions(CUDA):
            assert not cudnn.allow_tf32
        assert not cudnn.allow_tf32
    assert cudnn.allow_tf32


def test_other_devices_leave_the_setting_alone() -> None:
    with float32_convolutions(torch.device("cpu")):
        assert cudnn.allow_tf32


def test_setting_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), float32_convolutions(CUDA):
        _ = 1 / 0
    assert cudnn.allow_tf32


def test_setting_that_is_off_stays_off() -> None:
    cudnn.allow_tf32 = False
    with float32_convolutions(CUDA):
        pass
    assert not cudnn.allow_tf32


def test_setting_is_restored_when_the_last_thread_leaves() -> None:
    entered, leave = threading.Event(), threading.Event()

    def run() -> None:
        with float32_convolutions(CUDA):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=run)
    with float32_convolutions(CUDA):
        thread.start()
        assert entered.wait(10)
    assert not cudnn.allow_tf32
    leave.set()
    thread.join()
    assert cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="PyTorch 2.9 introduced it")
def test_precision_set_for_convolutions_alone_is_restored() -> None:
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "ieee"
    try:
        with float32_convolutions(CUDA):
            assert cudnn.conv.fp32_precision == "ieee"
        assert cudnn.conv.fp32_precision == "tf32"
    finally:
        cudnn.rnn.fp32_precision = "tf32"


def test_backend_on_a_gpu_computes_in_the_context() -> None:
    backend = TorchBackend()
    backend.table.device = CUDA
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(cudnn.allow_tf32)
        # A derivative is computed after the function has returned.
        if x.requires_grad:
            x.register_hook(lambda _: seen.append(cudnn.allow_tf32))
        return x * x

    backend.compile_tensors(function)(torch.ones(1))
    backend.value_and_grad(function)(torch.ones(1))
    backend.compile(lambda: function(torch.ones(1)))()
    assert seen == [False] * 4
    assert cudnn.allow_tf32
