"""How often a backend that traces a function runs it."""

import numpy as np
import pytest

from transferkit.backends import Backend


@pytest.fixture
def tracing_backend(backend: Backend) -> Backend:
    if backend.name not in ("tensorflow", "onnxruntime"):
        pytest.skip(f"{backend.name} runs functions as they are")
    return backend


def test_a_function_is_traced_once_for_each_shape(tracing_backend: Backend) -> None:
    table = tracing_backend.table
    traced = []

    def function(x: object) -> object:
        traced.append(x)
        return table.relu(x)

    compiled = tracing_backend.compile(function)
    for shape in [(2, 3), (2, 3), (2, 3), (4, 3), (4, 3), (2, 3)]:
        compiled(np.ones(shape, np.float32))
    assert 1 <= len(traced) <= 2


def test_onnxruntime_records_once_for_all_sizes(backend: Backend) -> None:
    if backend.name != "onnxruntime":
        pytest.skip("a property of onnxruntime's backend")
    table = backend.table
    recorded = []

    def function(x: object) -> object:
        recorded.append(x)
        return table.relu(x)

    compiled = backend.compile(function)
    for length in (1, 2, 3):
        compiled(np.ones((length, length), np.float32))
    assert len(recorded) == 1
