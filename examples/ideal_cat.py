"""What a network takes for the ideal Siamese cat, on either framework.

``python examples/ideal_cat.py [--backend torch] [--class zebra] [--output ideal.png]``

The lesson's way stands below ours: gradient descent on the pixels of a noisy picture, with a
variation loss that holds neighbouring pixels together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import ImageOptimizer
from transferkit.optimization import objectives as o
from transferkit.training import NormalizedGradientDescent


def main() -> None:
    """Make the picture that the command line asks for, and tell how good it is."""
    parser = argparse.ArgumentParser(description="Make the ideal picture of a class.")
    parser.add_argument("--class", dest="wanted", default="Siamese cat", help="an ImageNet class")
    parser.add_argument("--backend", help="torch or tensorflow")
    parser.add_argument("--lesson", action="store_true", help="by the lesson's method")
    parser.add_argument("--output", type=Path, default=Path("ideal.png"))
    arguments = parser.parse_args()

    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)
    if arguments.lesson:
        ideal = optimizer.visualize(
            arguments.wanted,
            parametrization="pixels",
            optimizer=NormalizedGradientDescent(0.01),
            transforms=(),
            octaves=1,
            regularizers=[o.TotalVariation(2e-3)],
        )
    else:
        ideal = optimizer.visualize(arguments.wanted)
    ideal.save(arguments.output)
    print(f"{arguments.output}: {ideal}")
    print(f"probability {ideal.probability[0]:.4f}, robustness {ideal.robustness[0]:.4f}")


if __name__ == "__main__":
    main()
