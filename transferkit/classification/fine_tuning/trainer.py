"""The training loop: epochs of steps, with a validation after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.classification.fine_tuning.candidates import Score
from transferkit.classification.fine_tuning.choices import calibrated_losses
from transferkit.classification.fine_tuning.draws import MIXING, epoch_order, generator_for
from transferkit.classification.fine_tuning.examples import Examples
from transferkit.classification.fine_tuning.preparation import Preparation
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.errors import NotFiniteError
from transferkit.images.augmentation import CutMix, MixUp
from transferkit.training.history import EpochRecord, StepRecord
from transferkit.training.losses import one_hot, smooth_labels
from transferkit.training.optimizers import Optimizer
from transferkit.training.step import TrainingBatch, TrainingState, TrainingStep

__all__ = ["DivergedError", "LabeledExamples", "Trainer"]

Array: TypeAlias = npt.NDArray[Any]


class DivergedError(NotFiniteError):
    """The loss or the gradient of a step is not finite."""


@dataclass(frozen=True, eq=False)
class LabeledExamples:
    """Inputs with their classes and weights.

    Attributes
    ----------
    examples
        The inputs of the trained part of the network.
    classes
        (n,) the index of the class of each.
    weights
        (n,) the weight of each; the mean is 1.
    """

    examples: Examples
    classes: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float64]


class Trainer:
    """Trains the prepared part of a network on a backend.

    Parameters
    ----------
    step
        The compiled step.
    preparation
        What is trained.
    settings
        How; checked.
    train
        The training images.
    num_classes
        The number of classes.
    seed
        The seed of the order, the masks and the mixing of images.
    """

    def __init__(
        self,
        step: TrainingStep,
        preparation: Preparation,
        settings: FineTuning,
        train: LabeledExamples,
        num_classes: int,
        seed: int,
    ) -> None:
        self.step = step
        self.preparation = preparation
        self._settings = settings
        self._train = train
        self._num_classes = num_classes
        self._seed = seed
        number = len(train.classes)
        self.steps_per_epoch = max(1, math.ceil(number / settings.batch_size))
        # The batches of an epoch are of nearly equal size.
        self.batch_size = math.ceil(number / self.steps_per_epoch)
        augmentation = settings.augmentation or ()
        self._mixing = [entry for entry in augmentation if isinstance(entry, MixUp | CutMix)]

    def run_epoch(
        self,
        state: TrainingState,
        optimizer: Optimizer,
        epoch: int,
        epochs: int,
        *,
        report: Callable[[StepRecord], None],
        started: float,
    ) -> TrainingState:
        """Train for an epoch.

        Parameters
        ----------
        state
            The state before.
        optimizer
            The optimizer, with its learning rate and schedule.
        epoch, epochs
            The index of the epoch, from 0, and their number.
        report
            Called after each step.
        started
            The time of `time.monotonic` at which training started.

        Raises
        ------
        DivergedError
            If the loss or the gradient is NaN or infinite.
        """
        total = epochs * self.steps_per_epoch
        for index, batch in enumerate(self.batches(epoch)):
            number = epoch * self.steps_per_epoch + index
            learning_rate = optimizer.learning_rate_at(number, total)
            try:
                state, result = self.step.run(state, batch, optimizer.coefficients(number, total))
            except NotFiniteError as error:
                raise DivergedError(
                    f"{error} at step {number + 1} (epoch {epoch + 1}), with a learning rate of "
                    f"{learning_rate:.3g}; use a lower learning_rate"
                ) from error
            report(
                StepRecord(
                    number + 1,
                    epoch + 1,
                    result.loss,
                    result.accuracy,
                    learning_rate,
                    result.gradient_norm,
                    time.monotonic() - started,
                )
            )
        return state

    def evaluate(
        self, candidates: Mapping[str, Mapping[str, Any]], validation: LabeledExamples
    ) -> dict[str, Score]:
        """Return the score of some sets of parameters on validation images, read once for all.

        Parameters
        ----------
        candidates
            Name to all parameters of the network, as tensors of the backend.
        validation
            The images.
        """
        classes, weights = validation.classes, validation.weights
        return {
            name: score_logits(logits, classes, weights)
            for name, logits in self.logits(candidates, validation).items()
        }

    def logits(
        self, candidates: Mapping[str, Mapping[str, Any]], validation: LabeledExamples
    ) -> dict[str, Array]:
        """Return the logits (n, c) of validation images; see `evaluate`."""
        order = range(len(validation.classes))
        logits: dict[str, list[Array]] = {name: [] for name in candidates}
        for x, _ in validation.examples.batches(order, self.batch_size, 0):
            for name, parameters in candidates.items():
                logits[name].append(self.step.logits(parameters, x))
        return {name: np.concatenate(rows) for name, rows in logits.items()}

    def batches(self, epoch: int) -> Iterator[TrainingBatch]:
        """Yield the batches of an epoch, counted from 0, with their targets and masks."""
        train, settings = self._train, self._settings
        order = epoch_order(
            train.classes, self._seed, epoch, balanced=settings.sampling == "balanced"
        )
        batches = train.examples.batches(order.tolist(), self.batch_size, epoch)
        for index, (x, indices) in enumerate(batches):
            if settings.batch_norm == "update" and len(indices) == 1:
                # The statistics of a single image are meaningless; each epoch leaves out another.
                continue
            targets = one_hot(train.classes[indices], self._num_classes)
            for mixing in self._mixing:
                generator = generator_for(self._seed, MIXING, epoch, index)
                x, targets = mixing.apply(x, targets, generator)  # noqa: PLW2901
            targets = smooth_labels(targets, settings.label_smoothing)
            weights = train.weights[indices].astype(np.float32)
            yield TrainingBatch(x, targets, weights, self.preparation.masks.draw(indices, epoch))


def score_logits(
    logits: Array, classes: npt.NDArray[np.intp], weights: npt.NDArray[np.float64]
) -> Score:
    """Return the weighted accuracy and cross-entropy of logits (n, c), in float64.

    The cross-entropy also after temperature scaling. The standard error is that of a proportion
    with one more hit and one more miss, so that it is above 0 if there is no miss.
    """
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses = -log_probabilities[np.arange(len(classes)), classes]
    accuracy = float(np.average(logits.argmax(axis=1) == classes, weights=weights))
    number = float(weights.sum() ** 2 / (weights**2).sum())
    share = (accuracy * number + 1) / (number + 2)
    return Score(
        accuracy,
        -float(np.average(losses, weights=weights)),
        float(calibrated_losses(logits, classes, weights).mean()),
        math.sqrt(share * (1 - share) / number),
    )


def summarize(epoch: int, steps: Sequence[StepRecord], score: Score | None) -> EpochRecord:
    """Return the means of an epoch's steps, with its score on the validation images."""
    return EpochRecord(
        epoch + 1,
        float(np.mean([step.loss for step in steps])),
        float(np.mean([step.accuracy for step in steps])),
        None if score is None else score.loss,
        None if score is None else score.accuracy,
        float(np.mean([step.learning_rate for step in steps])),
        float(np.mean([step.gradient_norm for step in steps])),
        steps[-1].seconds,
    )
