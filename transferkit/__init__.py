"""Transfer learning for images: one network, the same results on every framework.

The public names are loaded when they are first used, so that importing the package is fast and
imports no framework.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from transferkit.support.version import __version__ as __version__

if TYPE_CHECKING:
    from transferkit.classification import Classifier as Classifier
    from transferkit.classification import Evaluation as Evaluation
    from transferkit.classification import FineTuning as FineTuning
    from transferkit.classification import Prediction as Prediction
    from transferkit.classification import find_learning_rate as find_learning_rate
    from transferkit.comparison import Comparison as Comparison
    from transferkit.comparison import compare as compare
    from transferkit.errors import TransferkitError as TransferkitError
    from transferkit.features import FeatureCache as FeatureCache
    from transferkit.features import FeatureExtractor as FeatureExtractor
    from transferkit.features import Features as Features
    from transferkit.images import Preprocessing as Preprocessing
    from transferkit.images import list_images as list_images
    from transferkit.images import list_labeled_images as list_labeled_images
    from transferkit.inspection import inspect_images as inspect_images
    from transferkit.optimization import ImageOptimizer as ImageOptimizer
    from transferkit.sources import open_sources as open_sources
    from transferkit.store import FeatureStore as FeatureStore


# As the documentation of `logging` recommends for libraries: nothing is printed unless the
# application configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "Classifier": "transferkit.classification",
    "Comparison": "transferkit.comparison",
    "Evaluation": "transferkit.classification",
    "FeatureCache": "transferkit.features",
    "FeatureExtractor": "transferkit.features",
    "FeatureStore": "transferkit.store",
    "Features": "transferkit.features",
    "FineTuning": "transferkit.classification",
    "ImageOptimizer": "transferkit.optimization",
    "Prediction": "transferkit.classification",
    "Preprocessing": "transferkit.images",
    "TransferkitError": "transferkit.errors",
    "compare": "transferkit.comparison",
    "find_learning_rate": "transferkit.classification",
    "inspect_images": "transferkit.inspection",
    "list_images": "transferkit.images",
    "list_labeled_images": "transferkit.images",
    "open_sources": "transferkit.sources",
}

__all__ = [
    "Classifier",
    "Comparison",
    "Evaluation",
    "FeatureCache",
    "FeatureExtractor",
    "FeatureStore",
    "Features",
    "FineTuning",
    "ImageOptimizer",
    "Prediction",
    "Preprocessing",
    "TransferkitError",
    "compare",
    "find_learning_rate",
    "inspect_images",
    "list_images",
    "list_labeled_images",
    "open_sources",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'transferkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
