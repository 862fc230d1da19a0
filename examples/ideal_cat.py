"""Optimize the ideal image of a class, by default a Siamese cat, with PyTorch or TensorFlow.

``python examples/ideal_cat.py [--backend torch] [--class zebra] [--output ideal.png]``

With ``--plain`` the method is plain gradient descent: the pixels of a noise image are optimized,
with total variation as the regularizer, which penalizes differences between neighboring pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import ImageOptimizer
from transferkit.optimization import objectives as o
from transferkit.training import NormalizedGradientDescent


def main() -> None:
    """Optimize the image, write it, and print its scores."""
    parser = argparse.ArgumentParser(description="Optimize the ideal image of a class.")
    parser.add_argument("--class", dest="target", default="Siamese cat", help="an ImageNet class")
    parser.add_argument("--backend", help="torch or tensorflow")
    parser.add_argument("--plain", action="store_true", help="use plain gradient descent")
    parser.add_argument("--output", type=Path, default=Path("ideal.png"), help="the image file")
    arguments = parser.parse_args()

    optimizer = ImageOptimizer("mobilenet_v2", backend=arguments.backend, random_state=0)
    if arguments.plain:
        ideal = optimizer.visualize(
            arguments.target,
            parametrization="pixels",
            optimizer=NormalizedGradientDescent(0.01),
            transforms=(),
            octaves=1,
            regularizers=[o.TotalVariation(2e-3)],
        )
    else:
        ideal = optimizer.visualize(arguments.target)
    ideal.save(arguments.output)
    print(f"{arguments.output}: {ideal}")
    print(f"probability {ideal.probability[0]:.4f}, robustness {ideal.robustness[0]:.4f}")


if __name__ == "__main__":
    main()
