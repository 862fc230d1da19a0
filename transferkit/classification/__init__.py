"""`Classifier`, its fine-tuning, its file, and its evaluation."""

from transferkit.classification.classifier import Classifier, Prediction, top_predictions
from transferkit.classification.evaluation import ClassScore, Confusion, Evaluation, Mistake
from transferkit.classification.fine_tuning import FineTuning
from transferkit.classification.fine_tuning.rate_range import find_learning_rate

__all__ = [
    "ClassScore",
    "Classifier",
    "Confusion",
    "Evaluation",
    "FineTuning",
    "Mistake",
    "Prediction",
    "find_learning_rate",
    "top_predictions",
]
