"""Optimize the ideal images of the documentation, and print how long each run took.

``python examples/ideal_images.py [--backend torch]`` writes them to ``docs/images``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from transferkit import ImageOptimizer
from transferkit.demo import CAT
from transferkit.images.conversion import to_uint8
from transferkit.optimization import objectives as o
from transferkit.optimization.visualization import IdealImages
from transferkit.support.drawing import labeled_grid
from transferkit.training import NormalizedGradientDescent

OUTPUT = Path(__file__).parents[1] / "docs" / "images"
CLASSES = ["Siamese cat", "zebra"]
MORE_CLASSES = ["flamingo", "goldfish", "Pembroke", "golden retriever", "strawberry", "castle"]
LAYERS = ("features.3", "features.10", "features.17")


def main() -> None:
    """Optimize and write all images."""
    parser = argparse.ArgumentParser(description="Optimize the images of the documentation.")
    parser.add_argument("--backend", help="torch or tensorflow")
    arguments = parser.parse_args()
    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)

    baseline = {
        "parametrization": "pixels",
        "optimizer": NormalizedGradientDescent(0.01),
        "transforms": (),
        "octaves": 1,
    }
    unregularized = optimizer.visualize(CLASSES, **baseline)
    regularized = optimizer.visualize(CLASSES, regularizers=[o.TotalVariation(2e-3)], **baseline)
    default = optimizer.visualize(CLASSES)
    write_comparison(
        [
            ("gradient descent", unregularized),
            ("with total variation", regularized),
            ("defaults", default),
        ]
    )
    write_result("classes-others", optimizer.visualize(MORE_CLASSES))
    for layer in LAYERS:
        channels = [o.Channel(layer, channel) for channel in range(16)]
        write_result(layer, optimizer.visualize(channels))
    for octaves in (1, 4):
        dream = optimizer.visualize(
            o.Layer("features.10"), start=CAT, size=320, octaves=octaves, steps=64
        )
        write_result(f"dream-{octaves}", dream)


def write_comparison(runs: list[tuple[str, IdealImages]]) -> None:
    """Write a grid with a row for each class and a column for each method."""
    tiles, labels = [], []
    for row, name in enumerate(CLASSES):
        for method, ideal in runs:
            tiles.append(to_uint8(ideal.images[row]))
            labels.append(
                f"{name}: {method}\n{ideal.probability[row]:.3f}, "
                f"robustness {ideal.robustness[row]:.3f}"
            )
    write("classes", labeled_grid(tiles, labels, columns=len(runs), side=224))
    for method, ideal in runs:
        print(f"classes, {method}: {ideal.seconds:.1f} s")


def write_result(name: str, ideal: IdealImages) -> None:
    """Write the images of one run, and print its duration and scores."""
    images = list(to_uint8(ideal.images))
    if len(images) == 1:
        write(name, Image.fromarray(images[0]))
    else:
        write(name, labeled_grid(images, ideal.labels, side=160))
    print(f"{name}: {ideal.seconds:.1f} s, {ideal.probability}, {ideal.robustness}")


def write(name: str, image: Image.Image) -> None:
    """Write a JPEG file of moderate size."""
    image.save(OUTPUT / f"{name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
