"""Pictures made to excite a network: parametrisations, random transforms, the run, its result."""

from transferkit.optimization.visualization.parametrizations import (
    Fourier,
    Parametrization,
    Pixels,
    find_parametrization,
)
from transferkit.optimization.visualization.result import IdealImages
from transferkit.optimization.visualization.run import Recipe, optimize_images
from transferkit.optimization.visualization.transforms import (
    Affine,
    Jitter,
    Pad,
    Rotate,
    Scale,
    Transform,
)

__all__ = [
    "Affine",
    "Fourier",
    "IdealImages",
    "Jitter",
    "Pad",
    "Parametrization",
    "Pixels",
    "Recipe",
    "Rotate",
    "Scale",
    "Transform",
    "find_parametrization",
    "optimize_images",
]
