"""Make the pictures of the documentation, and tell how long each took.

``python examples/ideal_pictures.py [--backend torch]`` writes them to ``docs/images``.
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

PICTURES = Path(__file__).parents[1] / "docs" / "images"
CLASSES = ["Siamese cat", "zebra"]
OTHERS = ["flamingo", "goldfish", "Pembroke", "golden retriever", "strawberry", "castle"]
LAYERS = ("features.3", "features.10", "features.17")


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("--backend", help="torch or tensorflow")
    arguments = parser.parse_args()
    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)

    lesson = {
        "parametrization": "pixels",
        "optimizer": NormalizedGradientDescent(0.01),
        "transforms": (),
        "octaves": 1,
    }
    without = optimizer.visualize(CLASSES, **lesson)
    with_variation = optimizer.visualize(CLASSES, regularizers=[o.TotalVariation(2e-3)], **lesson)
    ideal = optimizer.visualize(CLASSES)
    write_comparison(
        [
            ("gradient alone", without),
            ("with variation loss", with_variation),
            ("the defaults", ideal),
        ]
    )
    tell("classes-others", optimizer.visualize(OTHERS))
    for layer in LAYERS:
        tell(layer, optimizer.visualize([o.Channel(layer, channel) for channel in range(16)]))
    for octaves in (1, 4):
        dream = optimizer.visualize(
            o.Layer("features.10"), start=CAT, size=320, octaves=octaves, steps=64
        )
        tell(f"dream-{octaves}", dream)


def write_comparison(runs: list[tuple[str, IdealImages]]) -> None:
    """The two classes by each method, side by side."""
    tiles, labels = [], []
    for place, name in enumerate(CLASSES):
        for method, found in runs:
            tiles.append(to_uint8(found.images[place]))
            labels.append(
                f"{name}: {method}\n{found.probability[place]:.3f}, "
                f"robustness {found.robustness[place]:.3f}"
            )
    grid = labeled_grid(tiles, labels, columns=len(runs), side=224)
    write("classes", grid)
    for method, found in runs:
        print(f"classes, {method}: {found.seconds:.1f} s")


def tell(name: str, found: IdealImages) -> None:
    """Write one run's pictures, and how it went."""
    if len(found.images) == 1:
        write(name, Image.fromarray(to_uint8(found.images[0])))
    else:
        write(name, labeled_grid(list(to_uint8(found.images)), found.labels, side=160))
    print(f"{name}: {found.seconds:.1f} s, {found.probability}, {found.robustness}")


def write(name: str, picture: Image.Image) -> None:
    """As a JPEG file of moderate size."""
    picture.save(PICTURES / f"{name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
