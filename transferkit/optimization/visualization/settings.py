"""`VisualizationSettings`: how images are optimized, whatever the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transferkit.optimization.objectives import Regularizer
from transferkit.optimization.visualization.parametrizations import Parametrization
from transferkit.optimization.visualization.transforms import Transform
from transferkit.training import Optimizer

__all__ = ["VisualizationSettings"]


@dataclass(frozen=True)
class VisualizationSettings:
    """The settings of a visualization, apart from the network and the objectives.

    Attributes
    ----------
    steps
        The number of steps of all octaves together.
    octaves
        The number of sizes, each 1.4 times the one before; None: 1 from images, and from noise
        3, or as many as the network, the objectives and the steps allow.
    parametrization, transforms, regularizers, optimizer
        Each can be chosen independently of the others.
    frames
        The number of intermediate images that are recorded.
    batch_size
        The number of images that are computed at once.
    """

    steps: int
    octaves: int | None
    parametrization: Parametrization
    transforms: Sequence[Transform]
    regularizers: Sequence[Regularizer]
    optimizer: Optimizer
    frames: int
    batch_size: int
