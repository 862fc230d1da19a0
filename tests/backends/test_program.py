"""The caches of a program."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from samples import NETWORK, WEIGHTS

from transferkit.backends import Program
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
