"""The caches of a program."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from samples import NETWORK, WEIGHTS

from transferkit.backends import Backend, Program
from transferkit.backends.interpreter import load_parameters
from transferkit.testing import ReferenceBackend


def test_checked_image_sizes_are_bounded() -> None:
    program = Program(ReferenceBackend(), NETWORK, WEIGHTS)
    layer = NETWORK.layers[0]
    for width in range(NETWORK.input_size, NETWORK.input_size + 200):
        program.run(np.zeros((1, NETWORK.input_size, width, 3), np.float32), [layer])
    (compiled,) = program._compiled.values()
    assert len(compiled.valid_sizes) <= 64


def test_compiled_sets_of_layers_are_bounded_in_any_number_of_threads() -> None:
    program = Program(ReferenceBackend(), NETWORK, WEIGHTS)
    pixels = np.zeros((1, NETWORK.input_size, NETWORK.input_size, 3), np.float32)
    expected = program.run(pixels, NETWORK.layers)

    def is_same(layer: str) -> bool:
        # Batch normalization is folded unless the layer before it is requested.
        return np.allclose(program.run(pixels, [layer])[layer], expected[layer], 1e-4, 1e-5)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(is_same, list(NETWORK.layers) * 5))
    assert len(program._compiled) <= 4


def test_sets_of_layers_share_the_weights_on_the_device(differentiable: Backend) -> None:
    """Each compiled set of layers, and each gradient, would hold its own copy otherwise."""
    made = 0

    class Counted:
        """The table, counting the tensors that are made."""

        def __getattr__(self, name: str) -> Any:
            return getattr(differentiable.table, name)

        def asarray(self, array: Any) -> Any:
            nonlocal made
            made += 1
            return differentiable.table.asarray(array)

        def kernel(self, array: Any, groups: int) -> Any:
            nonlocal made
            made += 1
            return differentiable.table.kernel(array, groups=groups)

    shared: dict[tuple[str, int | None], Any] = {}
    for _ in range(3):
        load_parameters(Counted(), NETWORK, WEIGHTS, shared)  # type: ignore[arg-type]
    assert made == len(shared)

    program = Program(differentiable, NETWORK, WEIGHTS)
    functions = [program.load(["logits"])]
    number = len(program._parameters)
    assert number > 0
    functions += [program.load(["logits"]), program.load(["logits", "embedding"])]
    assert len(program._parameters) == number
    pixels = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    expected = program.run(pixels, ["logits"])["logits"]
    for function in functions:
        result = differentiable.compile(lambda x, function=function: function(x)["logits"])(pixels)
        np.testing.assert_array_equal(result, expected)
    # They are freed with the last function.
    del functions, function, result, program._compiled[frozenset(["logits"])]
    gc.collect()
    assert len(program._parameters) == 0
