"""The learning rate range test."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from transferkit.backends import get_backend
from transferkit.backends.base import TRAINING
from transferkit.classification.classifier import Classifier
from transferkit.classification.fine_tuning.run import FineTuningRun
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.datasets import LabelledImages
from transferkit.datasets.labels import Labels
from transferkit.errors import ArgumentTypeError, NotFiniteError, shorten
from transferkit.images import Images
from transferkit.support.progress import show_progress
from transferkit.support.random_state import as_seed
from transferkit.training.learning_rate_range import LearningRateRange, geometric_learning_rates

__all__ = ["find_learning_rate"]

# The test ends when the loss exceeds its minimum by this factor: nothing more can be learned.
_MAX_LOSS_RATIO = 10.0
_MIN_STEPS_BEFORE_END = 10


def find_learning_rate(
    classifier: Classifier,
    X: Images | LabelledImages,
    y: Labels | None = None,
    *,
    smallest: float = 1e-6,
    largest: float = 0.1,
    steps: int = 100,
) -> LearningRateRange:
    """Run a learning rate range test: steps of training with increasing learning rates.

    Parameters
    ----------
    classifier
        Its ``fine_tuning`` is what is tested, or the defaults of `FineTuning`. Steps start from
        its weights if it is fitted, and otherwise from a head that is fitted first. It is not
        changed.
    X, y
        Labeled images, as for `Classifier.fit`.
    smallest, largest
        The first and the last learning rate, greater than 0; those between are a geometric
        sequence.
    steps
        The number of steps, at least 2. The test ends earlier when the loss is ten times its
        minimum or not finite.

    Returns
    -------
    LearningRateRange
        The loss at each learning rate, with a ``suggestion``.

    Raises
    ------
    DatasetError
        If there are no images, or a label is not a class of the fitted classifier.
    ArgumentTypeError
        If ``classifier`` is not a `Classifier`.
    ParameterError
        If a parameter is invalid.
    UnsupportedError
        If the backend cannot train.

    References
    ----------
    Smith, 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
    """
    if not isinstance(classifier, Classifier):
        raise ArgumentTypeError(
            f"classifier is {shorten(classifier)}; expected a Classifier, fitted or not"
        )
    learning_rates = geometric_learning_rates(smallest, largest, steps)
    settings = clone(classifier.fine_tuning or FineTuning())
    settings.set_params(validation=None, checkpoint=None, patience=None, soup=0, interpolation=())
    settings.set_params(learning_rate=smallest, epochs=1)
    settings.check()
    fitted = classifier
    if not hasattr(classifier, "model_"):
        fitted = clone(classifier).set_params(fine_tuning=None).fit(X, y)
    wrapped = fitted.model_.wrapped
    backend = get_backend(
        fitted.backend if wrapped is None else wrapped.backend,
        needs=TRAINING,
        device=fitted.device if wrapped is None else None,
    )
    run = FineTuningRun(
        fitted.model_,
        backend,
        fitted._labeled_images(X, y, None),
        None,
        settings,
        start="start",
        seed=as_seed(fitted.random_state),
        progress=classifier.progress,
    )
    return _run_steps(run, learning_rates, classifier.progress)


def _run_steps(
    run: FineTuningRun, learning_rates: npt.NDArray[np.float64], progress: bool | None
) -> LearningRateRange:
    state = run.trainer.step.initial_state(run.preparation.parameters)
    losses: list[float] = []
    batches = itertools.chain.from_iterable(
        run.trainer.batches(epoch) for epoch in itertools.count()
    )
    steps = len(learning_rates)
    with show_progress("Testing learning rates", steps, shown=progress) as advance:
        for rate, batch in zip(learning_rates.tolist(), batches, strict=False):
            optimizer = dataclasses.replace(run.optimizer, learning_rate=rate, schedule="constant")
            coefficients = optimizer.coefficients(len(losses), steps)
            try:
                state, result = run.trainer.step.run(state, batch, coefficients)
            except NotFiniteError:
                losses.append(math.nan)
                break
            losses.append(result.loss)
            advance(1)
            is_over = result.loss > _MAX_LOSS_RATIO * min(losses)
            if is_over and len(losses) >= _MIN_STEPS_BEFORE_END:
                break
    return LearningRateRange(learning_rates[: len(losses)], np.asarray(losses))
