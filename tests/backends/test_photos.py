"""The published weights on photos, compared with the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, Program
from transferkit.testing import reference_activations
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.weights import find_weights, load_weights


def test_every_layer_agrees_with_the_reference(
    backend: Backend, photos: npt.NDArray[np.float32]
) -> None:
    network, weights = load_weights(find_weights("mobilenet_v2"))
    program = Program(backend, network, weights)
    # The reference is slow, so only some photos are used; test_parity.py uses all of them.
    for photo in photos[::10]:
        pixels = photo[None]
        expected = reference_activations(network, weights, pixels, network.layers)
        outputs = program.run(pixels, network.layers)
        for layer in network.layers:
            assert_close(outputs[layer], expected[layer], ACTIVATION_TOLERANCE, layer)
