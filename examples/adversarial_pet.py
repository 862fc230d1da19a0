"""Adversarial pets: photos changed by so little that nobody sees it, and taken for something else.

``python examples/adversarial_pet.py [PHOTO ...] --target "Egyptian cat"``; without photos, a cat
that comes with the package becomes a golden retriever. Each photo's panel (original, the change
magnified, result) and the result itself are written to a folder. Needs PyTorch or TensorFlow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import ImageOptimizer
from transferkit.demo import CAT


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Make pets look like others to a network.")
    parser.add_argument("photos", type=Path, nargs="*", help="by default, a cat")
    parser.add_argument("--target", default="golden retriever", help="what they are to become")
    parser.add_argument("--epsilon", type=float, default=2, help="how far, in 255 levels")
    parser.add_argument("--backend", help="torch or tensorflow")
    parser.add_argument("--output", type=Path, default=Path("adversarial"), help="a folder")
    arguments = parser.parse_args()

    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)
    found = optimizer.attack(
        arguments.photos or CAT, target=arguments.target, epsilon=arguments.epsilon / 255
    )
    found.save(arguments.output)
    found.panel().save(arguments.output / "panel.png")
    print(found)
    for source, before, after in zip(found.sources, found.before, found.after_uint8, strict=True):
        print(
            f"{source}: {before.label} ({before.probability:.0%}) is now "
            f"{after.label} ({after.probability:.0%})"
        )


if __name__ == "__main__":
    main()
