"""`FeatureExtractor`, and extraction of a network's activations from images."""

from transferkit.features.extraction import (
    ExtractionInterrupted,
    Features,
    NoneReadableError,
    check_finite,
    compute_features,
)
from transferkit.features.extractor import FeatureExtractor

__all__ = [
    "ExtractionInterrupted",
    "FeatureExtractor",
    "Features",
    "NoneReadableError",
    "check_finite",
    "compute_features",
]
