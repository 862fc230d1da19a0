"""How often backends that trace or record a function call it."""

import numpy as np
import pytest

from transferkit.backends import Backend


@pytest.fixture
def tracing_backend(backend: Backend) -> Backend:
    if backend.name not in ("tensorflow", "onnxruntime"):
        pytest.skip(f"{backend.name} does not trace functions")
    return backend


def test_a_function_is_traced_at_most_once_per_shape(tracing_backend: Backend) -> None:
    table = tracing_backend.table
    traced = []

    def function(x: object) -> object:
        traced.append(x)
        return table.relu(x)

    compiled = tracing_backend.compile(function)
    for shape in [(2, 3), (2, 3), (2, 3), (4, 3), (4, 3), (2, 3)]:
        compiled(np.ones(shape, np.float32))
    assert 1 <= len(traced) <= 2


def test_onnxruntime_records_a_function_once_for_all_shapes(backend: Backend) -> None:
    if backend.name != "onnxruntime":
        pytest.skip(f"{backend.name} does not record functions")
    table = backend.table
    recorded = []

    def function(x: object) -> object:
        recorded.append(x)
        return table.relu(x)

    compiled = backend.compile(function)
    for length in (1, 2, 3):
        compiled(np.ones((length, length), np.float32))
    assert len(recorded) == 1
