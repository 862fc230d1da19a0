"""Weights as NumPy arrays, whatever file they came from, and what is known about them."""

from transferkit.weights.catalogue import WEIGHTS, WeightsEntry, find_weights, load_weights
from transferkit.weights.classes import ImageClass, imagenet_classes, imagenet_classes_called
from transferkit.weights.files import read_safetensors, write_safetensors

__all__ = [
    "WEIGHTS",
    "ImageClass",
    "WeightsEntry",
    "find_weights",
    "imagenet_classes",
    "imagenet_classes_called",
    "load_weights",
    "read_safetensors",
    "write_safetensors",
]
