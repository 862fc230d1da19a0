"""The number of multiply-accumulate operations, compared with a count by hand."""

from __future__ import annotations

import pytest

from transferkit.backends.macs import count_macs
from transferkit.errors import ShapeError
from transferkit.networks import INPUT, NetworkBuilder


def test_macs_equal_a_count_by_hand() -> None:
    builder = NetworkBuilder("small", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 4, size=3, stride=2, padding=((0, 1), (1, 1)))
    x = builder.batch_norm("norm", x, 4, epsilon=1e-5)
    x = builder.conv2d("grouped", x, 4, 6, size=1, groups=2)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 6, 5)
    network = builder.build()
    # 8 + 1 rows and 9 + 2 columns with padding: an output of 4 x 5 pixels.
    convolution = 4 * 5 * 4 * (3 * 3 * 3)
    grouped = 4 * 5 * 6 * 2
    assert count_macs(network, 8, 9) == convolution + grouped + 6 * 5
    with pytest.raises(ShapeError, match="layer 'conv'"):
        count_macs(network, 1, 9)
