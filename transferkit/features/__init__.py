"""`FeatureExtractor`, and extraction of a network's activations from images."""

from transferkit.features.cache import CachedFeatures, FeatureCache
from transferkit.features.extraction import (
    ExtractionInterrupted,
    Features,
    NoneReadableError,
    check_finite,
    compute_features,
)
from transferkit.features.extractor import FeatureExtractor

__all__ = [
    "CachedFeatures",
    "ExtractionInterrupted",
    "FeatureCache",
    "FeatureExtractor",
    "Features",
    "NoneReadableError",
    "check_finite",
    "compute_features",
]
