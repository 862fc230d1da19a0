"""``transferkit layers``."""

from __future__ import annotations

from command_line import error_of, output_of


def test_layers_are_listed_with_their_shapes() -> None:
    text = output_of("layers", "mobilenet_v2")
    (row,) = (line for line in text.splitlines() if line.startswith("│ features.6 "))
    assert "28 x 28 x 32" in row
    assert "alias of features.0.2" in text
    assert output_of("layers") == text


def test_unknown_network_is_rejected() -> None:
    assert "unknown network 'vgg'" in error_of("layers", "vgg")
