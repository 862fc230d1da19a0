"""A network with its weights, preprocessing and labels, loaded once and run on any backend."""

from transferkit.models.class_names import ClassNames
from transferkit.models.model import AnyWeights, Model, find_architecture, load_model

__all__ = ["AnyWeights", "ClassNames", "Model", "find_architecture", "load_model"]
