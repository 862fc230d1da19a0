"""Fine-tuning of a model, and a second run on all images with what the first one chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sklearn.base import clone

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.candidates import AVERAGE, MEAN
from transferkit.classification.fine_tuning.examples import TrainingImages
from transferkit.classification.fine_tuning.run import FineTuningRun
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.classification.temperature import temperature_of, with_temperature
from transferkit.images.augmentation import Augmentation, CutMix, MixUp
from transferkit.models import Model
from transferkit.training.history import History

__all__ = ["FineTuned", "RefitStart", "fine_tune_model"]

# The folder in that of the checkpoint for the second run.
_FOLDER = "refit"


@dataclass(frozen=True, eq=False)
class RefitStart:
    """What a second run on all images starts from.

    Attributes
    ----------
    model
        The model, with a head that is fitted to all images.
    images
        The training and the validation images.
    """

    model: Model
    images: TrainingImages


class FineTuned(NamedTuple):
    """A fine-tuned model.

    Attributes
    ----------
    model
        With the best weights; the given model if nothing is better.
    history
        What happened.
    compared
        The model that was compared on the validation images, and not trained on them: another
        one only after a second run on all images.
    """

    model: Model
    history: History
    compared: Model


def fine_tune_model(
    model: Model,
    backend: Backend,
    train: TrainingImages,
    validation: TrainingImages | None,
    settings: FineTuning,
    *,
    refit: RefitStart | None,
    start: str,
    seed: int,
    progress: bool | None,
) -> FineTuned:
    """Train a model with a head further.

    Parameters
    ----------
    model, backend, train, validation, settings, start, seed, progress
        As for `FineTuningRun`.
    refit
        What a second run starts from, if the first one finds weights that are better than those
        at the start; None: no second run.
    """
    run = FineTuningRun(
        model, backend, train, validation, settings, start=start, seed=seed, progress=progress
    )
    tuned, history = run.run()
    if refit is None or tuned is model or history.interrupted:
        return FineTuned(tuned, history, tuned)
    repeated = _settings_of_refit(settings, history, run.augmentations, run.kind)
    fraction = run.fraction
    # Its tensors and activations are not needed any more.
    del run
    again = FineTuningRun(
        refit.model,
        backend,
        refit.images,
        None,
        repeated,
        start=start,
        seed=seed,
        progress=progress,
        note=", all images",
    )
    of_all, second = again.run(fraction)
    if len(second.epochs) < len(history.epochs):
        # Interrupted or diverged: what was compared on validation images is kept.
        history = dataclasses.replace(history, interrupted=second.interrupted)
        return FineTuned(tuned, history, tuned)
    # Without validation images, the second run has no temperature of its own.
    of_all = with_temperature(of_all, temperature_of(tuned))
    return FineTuned(of_all, dataclasses.replace(history, refit=second), tuned)


def _settings_of_refit(
    settings: FineTuning, history: History, augmentations: Sequence[Augmentation], kind: str
) -> FineTuning:
    mixing = [entry for entry in settings.augmentation or () if isinstance(entry, MixUp | CutMix)]
    rate = history.choices.get("learning_rate", settings.learning_rate)
    folder = settings.checkpoint
    again: FineTuning = clone(settings).set_params(
        epochs=len(history.epochs),
        learning_rate=rate,
        augmentation=[*augmentations, *mixing],
        validation=None,
        patience=None,
        # Without validation images, an average is kept if there is one. After few steps it is
        # still near the start, so that it does not stand for the weights after an epoch.
        average_decay=settings.average_decay if kind == AVERAGE else None,
        swa=kind == MEAN,
        soup=0,
        interpolation=None,
        checkpoint=None if folder is None else Path(folder, _FOLDER),
    )
    return again
