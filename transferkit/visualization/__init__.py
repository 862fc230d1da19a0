"""Pictures made to excite a network: parametrisations, random transforms, the run, its result."""

from transferkit.visualization.parametrizations import (
    Fourier,
    Parametrization,
    Pixels,
    find_parametrization,
)
from transferkit.visualization.result import IdealImages
from transferkit.visualization.run import Recipe, optimize_images
from transferkit.visualization.transforms import Affine, Jitter, Pad, Rotate, Scale, Transform

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
