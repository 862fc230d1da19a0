"""A fine-tuning that `test_killed_runs.py` kills: ``killed_run.py BACKEND CHECKPOINT OUTPUT``."""

from __future__ import annotations

import sys

import numpy as np
from samples import colored, tiny_classifier

from transferkit import FineTuning
from transferkit.images.augmentation import HorizontalFlip, RandomResizedCrop


def main() -> None:
    """Fit, and write the weights."""
    backend, checkpoint, output = sys.argv[1:]
    labels = [0, 1, 2] * 16
    settings = FineTuning(
        epochs=4,
        learning_rate=0.01,
        batch_size=4,
        augmentation=(RandomResizedCrop(), HorizontalFlip()),
        checkpoint=checkpoint,
    )
    classifier = tiny_classifier(backend=backend, C=1.0, fine_tuning=settings)
    classifier.fit(colored(labels, spread=120), labels)
    np.savez(output, **classifier.model_.weights)


if __name__ == "__main__":
    main()
