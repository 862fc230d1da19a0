"""Drawings of layers: channels, colors, and invalid input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from samples import DEMO, tiny_extractor

from transferkit.errors import ArgumentTypeError, ImageError, ShapeError, UnknownNameError
from transferkit.features.layer_grid import show_layer
from transferkit.support.drawing import colormap

CAT = DEMO / "cat.jpg"


def _colors(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def _color_of(value: float) -> tuple[int, ...]:
    return tuple(colormap(np.array([[value]]))[0, 0].tolist())


def test_the_range_of_colors_is_that_of_a_channel_or_of_the_layer() -> None:
    activations = np.zeros((2, 2, 3), np.float32)
    activations[0, 0] = [1.0, 4.0, 0.0]
    activations[1, 1] = [0.5, 4.0, 0.0]
    half = _color_of(0.5)
    assert half in _colors(show_layer(activations, channels=[0]))
    shared = _colors(show_layer(activations, channels=[0], scale="layer"))
    assert {_color_of(0.25), _color_of(0.125)} <= shared
    # A constant channel is dark.
    assert _color_of(0.0) in _colors(show_layer(activations, channels=[2]))


def test_an_extractor_draws_its_activations() -> None:
    extractor = tiny_extractor(backend="onnxruntime")
    found = extractor.extract(CAT, ["conv2"])["conv2"][0]
    for options in ({}, {"channels": [3, 0]}, {"scale": "layer"}):
        shown = extractor.show_layer(CAT, "conv2", **options)
        size = " x ".join(map(str, found.shape))
        image = extractor.model().preprocessing.apply(Image.open(CAT).convert("RGB"))
        expected = show_layer(found, image=image, title=f"tiny, conv2: {size}", **options)
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))
    assert extractor.show_layer(np.ones((40, 30, 3)), "conv2").mode == "RGB"


def test_invalid_input_is_rejected() -> None:
    extractor = tiny_extractor(backend="onnxruntime")
    with pytest.raises(ShapeError, match=r"layer 'logits' has shape \(3,\).*conv2, tanh2"):
        extractor.show_layer(CAT, "logits")
    with pytest.raises(UnknownNameError, match="did you mean 'conv2'"):
        extractor.show_layer(CAT, "conv3")
    with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
        extractor.show_layer("missing.jpg", "conv2")
    for options, message in (
        ({"channels": [0, 6]}, "channels has 6; the layer has channels 0 to 5"),
        ({"channels": [-1]}, "channels has -1"),
        ({"channels": []}, "channels is empty"),
        ({"scale": "all"}, "scale is 'all'"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor.show_layer(CAT, "conv2", **options)
    for channels in (3, "3", [1.5]):
        with pytest.raises(ArgumentTypeError, match="expected a list of integers"):
            extractor.show_layer(CAT, "conv2", channels=channels)
    with pytest.raises(ValueError, match="values that are not finite"):
        show_layer(np.full((2, 2, 1), np.nan, np.float32))
    with pytest.raises(ShapeError, match="expected"):
        show_layer(np.zeros((1, 2, 2, 1), np.float32))
