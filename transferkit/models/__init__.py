"""A network with its weights, preprocessing and labels, loaded once and run on any backend."""

from transferkit.models.class_names import ClassNames
from transferkit.models.model import AnyWeights, LazyProgram, Model, load_model

__all__ = ["AnyWeights", "ClassNames", "LazyProgram", "Model", "load_model"]
