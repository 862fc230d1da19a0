"""`Classifier`, its fine-tuning, its file, and its evaluation."""

from transferkit.classification.calibration import Calibration, ReliabilityBin
from transferkit.classification.classifier import Classifier, Prediction, top_predictions
from transferkit.classification.evaluation import (
    ClassScore,
    Confusion,
    EvaluatedImage,
    Evaluation,
    Mistake,
)
from transferkit.classification.fine_tuning import FineTuning
from transferkit.classification.fine_tuning.rate_range import find_learning_rate
from transferkit.classification.provenance import Provenance

__all__ = [
    "Calibration",
    "ClassScore",
    "Classifier",
    "Confusion",
    "EvaluatedImage",
    "Evaluation",
    "FineTuning",
    "Mistake",
    "Prediction",
    "Provenance",
    "ReliabilityBin",
    "find_learning_rate",
    "top_predictions",
]
