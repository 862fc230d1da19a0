"""`ImageOptimizer`: images optimized by gradient descent on a network, ideal and adversarial."""

from transferkit.optimization.image_optimizer import DEFAULT_TRANSFORMS, ImageOptimizer

__all__ = ["DEFAULT_TRANSFORMS", "ImageOptimizer"]
