"""Objectives, which image optimization maximizes, and regularizers, which it keeps small.

An objective is a value per image, computed from a network's activations. Objectives can be
added, subtracted and multiplied by numbers::

    from transferkit.optimization import objectives as o

    o.Class("zebra") - 0.5 * o.Class("tabby") + 0.1 * o.Layer("features.4")

A regularizer is a value per image, computed from its pixels, that is added to the loss.

Most of these objectives are from Olah, Mordvintsev and Schubert, 2017, "Feature Visualization",
https://doi.org/10.23915/distill.00007.
"""

from transferkit.optimization.objectives.activations import (
    Channel,
    Class,
    Custom,
    Direction,
    Layer,
    Neuron,
)
from transferkit.optimization.objectives.base import Activations, Evaluate, Objective, Subject
from transferkit.optimization.objectives.regularizers import (
    L2,
    DistanceToStart,
    Regularizer,
    TotalVariation,
)

__all__ = [
    "L2",
    "Activations",
    "Channel",
    "Class",
    "Custom",
    "Direction",
    "DistanceToStart",
    "Evaluate",
    "Layer",
    "Neuron",
    "Objective",
    "Regularizer",
    "Subject",
    "TotalVariation",
]
