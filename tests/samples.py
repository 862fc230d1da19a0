"""Small networks and images for tests that do not need real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import transferkit
from transferkit import Classifier, FeatureExtractor, Preprocessing
from transferkit.networks import INPUT, Network, NetworkBuilder
from transferkit.testing.strategies import random_weights_and_statistics

DEMO = Path(transferkit.__file__).parent / "demo"
"""The images of the demo: 24 for training, 24 for testing, and a cat."""

SIDE = 16


def tiny_network(width: int = 6) -> Network:
    """Return a network of two convolutions."""
    builder = NetworkBuilder("tiny", input_size=SIDE)
    x = builder.conv2d("conv1", INPUT, 3, 4, size=3, stride=2, padding=1, bias=False)
    x = builder.batch_norm("norm1", x, 4, epsilon=1e-5)
    x = builder.add_node("relu1", "relu", x)
    x = builder.conv2d("conv2", x, 4, width, size=3, stride=2)
    x = builder.add_node("tanh2", "tanh", x)
    x = builder.add_node("pooled", "mean", x, axes=(1, 2))
    builder.alias("embedding", x)
    builder.linear("logits", x, width, 3)
    return builder.build()


def residual_network() -> Network:
    """Return a small network with the parts of which those of the catalog are made."""
    builder = NetworkBuilder("residual", input_size=SIDE)
    x = builder.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))

    def convolution(name: str, x: str, inputs: int, outputs: int, **settings: Any) -> str:
        x = builder.conv2d(f"{name}.conv", x, inputs, outputs, bias=False, **settings)
        return builder.batch_norm(f"{name}.norm", x, outputs, epsilon=1e-5)

    x = convolution("stem", x, 3, 8, size=3, stride=2, padding=1)
    x = builder.add_node("stem.relu", "relu", x)
    x = convolution("depthwise", x, 8, 8, size=3, padding=1, groups=8)
    x = builder.add_node("depthwise.clip", "clip", x, low=0.0, high=6.0)
    shortcut = convolution("narrow", x, 8, 12, size=1)
    x = convolution("wide", shortcut, 12, 24, size=1)
    x = builder.add_node("wide.swish", "hard_swish", x)
    y = builder.add_node("squeeze.mean", "mean", x, axes=(1, 2), keepdims=True)
    y = builder.conv2d("squeeze.conv", y, 24, 24, size=1)
    y = builder.add_node("squeeze.sigmoid", "hard_sigmoid", y)
    x = builder.add_node("squeeze", "multiply", x, y)
    x = convolution("project", x, 24, 12, size=1)
    x = builder.add_node("add", "add", shortcut, x)
    x = builder.add_node("add.relu", "relu", x)
    x = builder.add_node(
        "pool", "max_pool2d", x, size=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0))
    )
    x = convolution("last", x, 12, 32, size=3, padding=1)
    x = builder.add_node("last.relu", "relu", x)
    x = builder.add_node("pooled", "mean", x, axes=(1, 2))
    x = builder.linear("hidden", x, 32, 16)
    builder.alias("embedding", builder.add_node("hidden.relu", "relu", x))
    builder.linear("logits", "hidden.relu", 16, 3)
    return builder.build()


NETWORK = tiny_network()
WEIGHTS = random_weights_and_statistics(NETWORK, seed=0)


def tiny_extractor(**parameters: Any) -> FeatureExtractor:
    parameters = {
        "network": NETWORK,
        "weights": WEIGHTS,
        "preprocessing": Preprocessing(SIDE),
        "batch_size": 4,
        **parameters,
    }
    return FeatureExtractor(**parameters)


def tiny_classifier(**parameters: Any) -> Classifier:
    parameters = {
        "network": NETWORK,
        "weights": WEIGHTS,
        "preprocessing": Preprocessing(SIDE),
        "batch_size": 4,
        **parameters,
    }
    return Classifier(**parameters)


def noise(number: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Return images of noise of different sizes."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 256, (*generator.integers(SIDE, 40, 2), 3), dtype=np.uint8)
        for _ in range(number)
    ]


def colored(numbers: npt.ArrayLike, seed: int = 0, spread: int = 60) -> list[npt.NDArray[np.uint8]]:
    """Return for each number from 0 to 4 an image of noise around one of five colors."""
    generator = np.random.default_rng(seed)
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60], [60, 180, 180]])
    return [
        np.clip(
            colors[number] + generator.integers(-spread, spread + 1, (SIDE, SIDE, 3)), 0, 255
        ).astype(np.uint8)
        for number in np.asarray(numbers)
    ]


def write_images(folder: Path, images: list[npt.NDArray[np.uint8]]) -> list[Path]:
    """Write images as PNG files to a new folder; return their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{index:03}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def labeled_folder(folder: Path, number: int = 6, classes: int = 2, seed: int = 0) -> Path:
    """Create a folder for each class, with ``number`` images of one color; return the parent."""
    for index, name in enumerate(("blood", "grass", "sky", "straw", "sea")[:classes]):
        write_images(folder / name, colored([index] * number, seed=seed + index))
    return folder
