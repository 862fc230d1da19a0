"""Visualization: parametrizations, random transforms, octaves, the run and its result."""

from transferkit.optimization.visualization.parametrizations import (
    Fourier,
    Parametrization,
    Pixels,
    find_parametrization,
)
from transferkit.optimization.visualization.result import IdealImages
from transferkit.optimization.visualization.run import optimize_images
from transferkit.optimization.visualization.settings import VisualizationSettings
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
    "Rotate",
    "Scale",
    "Transform",
    "VisualizationSettings",
    "find_parametrization",
    "optimize_images",
]
