"""Fine-tuning of a classifier: settings, choices, the training loop and its candidates."""

from transferkit.classification.fine_tuning.settings import FineTuning

__all__ = ["FineTuning"]
