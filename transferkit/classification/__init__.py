"""`Classifier`, its file, and its evaluation."""

from transferkit.classification.classifier import Classifier, Prediction, top_predictions
from transferkit.classification.evaluation import ClassScore, Confusion, Evaluation, Mistake

__all__ = [
    "ClassScore",
    "Classifier",
    "Confusion",
    "Evaluation",
    "Mistake",
    "Prediction",
    "top_predictions",
]
