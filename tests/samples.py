"""Small networks and pictures for the tests, where the real ones are not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import transferkit
from transferkit import Classifier, FeatureExtractor
from transferkit.networks import INPUT, Network, NetworkBuilder
from transferkit.testing.strategies import random_weights_and_statistics

DEMO = Path(transferkit.__file__).parent / "demo"
"""Two dozen small photos to train on, as many to judge on, and a cat."""

SIDE = 16


def tiny_network(width: int = 6) -> Network:
    """A network of two convolutions that runs in no time."""
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


NETWORK = tiny_network()
WEIGHTS = random_weights_and_statistics(NETWORK, seed=0)


def tiny_extractor(**parameters: Any) -> FeatureExtractor:
    parameters = {"network": NETWORK, "weights": WEIGHTS, "batch_size": 4, **parameters}
    return FeatureExtractor(**parameters)


def tiny_classifier(**parameters: Any) -> Classifier:
    parameters = {"network": NETWORK, "weights": WEIGHTS, "batch_size": 4, **parameters}
    return Classifier(**parameters)


def noise(number: int, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
    """Pictures of noise, of different sizes."""
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 256, (*generator.integers(SIDE, 40, 2), 3), dtype=np.uint8)
        for _ in range(number)
    ]


def colored(numbers: npt.ArrayLike, seed: int = 0, spread: int = 60) -> list[npt.NDArray[np.uint8]]:
    """A picture of noise around one of five colours for each of ``numbers``, 0 to 4."""
    generator = np.random.default_rng(seed)
    colours = np.array(
        [[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60], [60, 180, 180]]
    )
    return [
        np.clip(
            colours[number] + generator.integers(-spread, spread + 1, (SIDE, SIDE, 3)), 0, 255
        ).astype(np.uint8)
        for number in np.asarray(numbers)
    ]


def write_images(folder: Path, pictures: list[npt.NDArray[np.uint8]]) -> list[Path]:
    """The pictures as PNG files in a new folder; their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{index:03}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def labeled_folder(folder: Path, number: int = 6, classes: int = 2, seed: int = 0) -> Path:
    """A folder of labelled folders: ``number`` pictures of each of the first colours."""
    for index, name in enumerate(("blood", "grass", "sky", "straw", "sea")[:classes]):
        write_images(folder / name, colored([index] * number, seed=seed + index))
    return folder
