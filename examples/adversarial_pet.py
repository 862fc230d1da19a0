"""Make adversarial images of pets: small changes that make a network predict another class.

``python examples/adversarial_pet.py [IMAGE ...] --target "Egyptian cat"``; without images, a photo
of a dog is used. For each image, the result and a panel (original, magnified change, result) are
written to a folder. This needs PyTorch or TensorFlow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import ImageOptimizer

DOG = Path(__file__).parents[1] / "docs" / "images" / "dog.jpg"


def main() -> None:
    """Attack the images on the command line."""
    parser = argparse.ArgumentParser(description="Make adversarial images of pets.")
    parser.add_argument("images", type=Path, nargs="*", help="default: a photo of a dog")
    parser.add_argument("--target", default="Egyptian cat", help="the target class")
    parser.add_argument("--epsilon", type=float, default=2, help="largest change, of 255 levels")
    parser.add_argument("--backend", help="torch or tensorflow")
    parser.add_argument("--output", type=Path, default=Path("adversarial"), help="a folder")
    arguments = parser.parse_args()

    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)
    result = optimizer.attack(
        arguments.images or DOG, target=arguments.target, epsilon=arguments.epsilon / 255
    )
    result.save(arguments.output)
    result.panel().save(arguments.output / "panel.png")
    print(result)
    for source, before, after in zip(
        result.sources, result.before, result.after_uint8, strict=True
    ):
        print(
            f"{source}: {before.label} ({before.probability:.0%}) is now classified as "
            f"{after.label} ({after.probability:.0%})"
        )


if __name__ == "__main__":
    main()
