"""The table of primitives over Keras's symbolic tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferkit.backends.base import OPERATIONS
from transferkit.backends.tensorflow.symbolic import SizeRequiredError, SymbolicTable
from transferkit.errors import UnsupportedError
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import PRIMITIVE_CALLS, PrimitiveCall

_UNSUPPORTED = {"sample"}
_SUPPORTED = sorted(PRIMITIVE_CALLS.keys() - _UNSUPPORTED)


def _build_model(call: PrimitiveCall, are_sizes_known: bool) -> keras.Model:
    """Return a model that computes ``call``; if asked, with unknown batch size and image size."""
    inputs = [
        keras.Input(
            batch_shape=array.shape
            if are_sizes_known or array.ndim != 4
            else (None, None, None, array.shape[3])
        )
        for array in call.arrays
    ]
    return keras.Model(inputs, call.run(SymbolicTable(), *inputs))


def _run(model: keras.Model, call: PrimitiveCall) -> npt.NDArray[Any]:
    return np.asarray(model(list(call.arrays)))


def test_every_primitive_is_tested() -> None:
    assert PRIMITIVE_CALLS.keys() == OPERATIONS


@pytest.mark.parametrize("operation", _SUPPORTED)
def test_primitive_agrees_with_reference(operation: str) -> None:
    @settings(max_examples=60 if operation == "conv2d" else 12)
    @given(PRIMITIVE_CALLS[operation], st.booleans())
    def agrees(call: PrimitiveCall, are_sizes_known: bool) -> None:
        try:
            model = _build_model(call, are_sizes_known)
        except SizeRequiredError:
            assert not are_sizes_known
            model = _build_model(call, are_sizes_known=True)
        table = ReferenceTable()
        expected = call.run(table, *map(table.asarray, call.arrays))
        assert_close(_run(model, call), expected, ACTIVATION_TOLERANCE, operation)

    agrees()


@pytest.mark.parametrize("operation", _SUPPORTED)
def test_primitive_is_saved_and_loaded_by_keras(operation: str, tmp_path: Path) -> None:
    @settings(max_examples=2)
    @given(PRIMITIVE_CALLS[operation])
    def is_saved(call: PrimitiveCall) -> None:
        model = _build_model(call, are_sizes_known=True)
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
        np.testing.assert_array_equal(_run(loaded, call), _run(model, call))

    is_saved()


@pytest.mark.parametrize("operation", sorted(_UNSUPPORTED))
def test_unsupported_primitive_raises_typed_error(operation: str) -> None:
    @settings(max_examples=1)
    @given(PRIMITIVE_CALLS[operation])
    def is_rejected(call: PrimitiveCall) -> None:
        message = rf"does not support '{operation}'; backend 'torch'"
        with pytest.raises(UnsupportedError, match=message):
            _build_model(call, are_sizes_known=True)

    is_rejected()
