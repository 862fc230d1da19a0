"""The course of a run with one learning rate: its state, its records and its candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transferkit.classification.fine_tuning.candidates import Candidates
from transferkit.training.history import EpochRecord, StepRecord
from transferkit.training.step import TrainingState

__all__ = ["Course"]


@dataclass
class Course:
    """What training with one learning rate has done so far.

    Parameters
    ----------
    learning_rate
        The learning rate, before the schedule.
    state
        The state after the last complete epoch.
    candidates
        The weights that were evaluated.
    steps, epochs
        The records of all steps, and of the complete epochs.
    """

    learning_rate: float
    state: TrainingState
    candidates: Candidates
    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)

    def has_stalled(self, patience: int | None) -> bool:
        """Return whether the validation loss has not decreased for ``patience`` epochs."""
        losses = [record.validation_loss for record in self.epochs]
        if patience is None or len(losses) <= patience:
            return False
        finite = [math.inf if loss is None or not math.isfinite(loss) else loss for loss in losses]
        return min(finite[-patience:]) >= min(finite[:-patience])
