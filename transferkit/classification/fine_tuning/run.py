"""A run of fine-tuning: its choices, the epochs, and the model with the best weights."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.candidates import Candidates, Score
from transferkit.classification.fine_tuning.checkpoint import Checkpoint, CheckpointFolder
from transferkit.classification.fine_tuning.choices import (
    LEARNING_RATES,
    choose_epochs,
    is_mirrored_recognized,
)
from transferkit.classification.fine_tuning.examples import (
    Examples,
    ImageExamples,
    store_activations,
)
from transferkit.classification.fine_tuning.memory import check_memory
from transferkit.classification.fine_tuning.preparation import Preparation, prepare, with_tuned
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.classification.fine_tuning.trainer import (
    DivergedError,
    LabeledExamples,
    Trainer,
    summarize,
)
from transferkit.images.augmentation import Augmentation, HorizontalFlip, RandomResizedCrop
from transferkit.models import Model
from transferkit.support.progress import print_progress, show_progress
from transferkit.support.warning import warn
from transferkit.training.history import (
    Candidate,
    EpochRecord,
    History,
    StepRecord,
    Trial,
    epoch_name,
)
from transferkit.training.optimizers import Optimizer, find_optimizer
from transferkit.training.schedules import Warmup, find_schedule
from transferkit.training.step import TrainingState, TrainingStep

__all__ = ["FineTuningRun", "LabeledImages", "fine_tune_model"]

_LOGGER = logging.getLogger(__name__)

Array: TypeAlias = npt.NDArray[Any]
Weights: TypeAlias = Mapping[str, Array]

_TRIAL_STEPS = 48
# How far a random crop zooms in: the share of the area of the image.
_CROP_SCALE = (0.35, 1.0)


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images with their classes and weights.

    Attributes
    ----------
    images
        (n,) images: paths, arrays and so on.
    sources
        (n,) their names.
    classes
        (n,) the index of the class of each.
    weights
        (n,) the weight of each, greater than 0.
    """

    images: Sequence[Any]
    sources: Sequence[str]
    classes: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float64]

    def take(self, rows: npt.NDArray[np.intp]) -> LabeledImages:
        """Return some of the images."""
        return LabeledImages(
            [self.images[row] for row in rows],
            [self.sources[row] for row in rows],
            self.classes[rows],
            self.weights[rows],
        )


def fine_tune_model(
    model: Model,
    backend: Backend,
    train: LabeledImages,
    validation: LabeledImages | None,
    settings: FineTuning,
    *,
    start: str,
    seed: int,
    progress: bool | None,
) -> tuple[Model, History]:
    """Train a model with a head further.

    Parameters
    ----------
    model
        The model, from which training starts; it is not changed.
    backend
        A backend with the capability ``"training"``, which runs the model.
    train, validation
        The images; ``validation`` is None for none.
    settings
        What is trained, and how; checked.
    start
        The name of the model as the first candidate, such as ``"probe"``.
    seed
        The seed of all randomness.
    progress
        Whether to show progress; None: on a terminal or in a notebook.

    Returns
    -------
    model : Model
        With the best weights: the given model if nothing is better.
    history : History
        What happened.

    Raises
    ------
    UnknownNameError
        If a layer does not exist.
    ParameterError
        If the settings need what the network does not have.
    FileFormatError
        If ``settings.checkpoint`` has a checkpoint of another run.
    OutputError
        If a file cannot be written.
    """
    return FineTuningRun(
        model, backend, train, validation, settings, start=start, seed=seed, progress=progress
    ).run()


class FineTuningRun:
    """The parts of a run, for `fine_tune_model` and the learning rate range test.

    Parameters
    ----------
    model, backend, train, validation, settings, start, seed, progress
        As for `fine_tune_model`.

    Attributes
    ----------
    preparation
        The part of the model that is trained.
    trainer
        The training loop.
    optimizer
        The optimizer of the settings.
    """

    def __init__(
        self,
        model: Model,
        backend: Backend,
        train: LabeledImages,
        validation: LabeledImages | None,
        settings: FineTuning,
        *,
        start: str,
        seed: int,
        progress: bool | None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._start = start
        self._progress = progress
        self._seed = seed
        self._program = model.program(backend)
        self.preparation: Preparation = prepare(model, settings, seed)
        self.optimizer: Optimizer = find_optimizer(settings.optimizer)
        self._folder: CheckpointFolder | None = None
        self._saved: Checkpoint | None = None
        if settings.checkpoint is not None:
            description = _describe_run(model, backend, train, validation, settings, seed)
            # The names of two functions may be equal.
            trained = self.preparation.groups.learning_rate_factors
            description["trained parameters"] = _digest_of_names(trained)
            self._folder = CheckpointFolder(settings.checkpoint, description)
            self._saved = self._folder.read()
        check_memory(
            model,
            self.preparation,
            backend,
            batch_size=min(settings.batch_size, len(train.classes)),
            num_slots=self.optimizer.num_slots,
            has_average=settings.average_decay is not None,
            needs_whole_batch=settings.batch_norm == "update",
        )
        self._choices: dict[str, Any] = {}
        self._trials: list[Trial] = []
        self._steps: list[StepRecord] = []
        self._epochs: list[EpochRecord] = []
        self._candidates = Candidates(settings.soup)
        # The weights after the last epoch, which are kept if there are no validation images.
        self._last: Weights | None = None
        if self._saved is not None:
            self._restore_records(self._saved)
        number = len(train.classes)
        self._num_epochs = int(
            settings.epochs or self._choose("epochs", lambda: choose_epochs(number))
        )
        augmentations = self._augmentations(validation)
        self._validation = None if validation is None else self._labeled(validation, (), 1)
        self.trainer = self._make_trainer(
            backend, self._labeled(train, augmentations, settings.views), len(model.labels or ())
        )

    def run(self) -> tuple[Model, History]:
        """Train, and return the best model and the history."""
        interrupted = False
        try:
            state = self._first_state()
            optimizer = self._with_schedule(self._learning_rate(state))
            state = self._run_epochs(state, optimizer)
            self._candidates.add_averages(
                self._score, self.preparation.parameters, self._start, self._settings.interpolation
            )
        except KeyboardInterrupt:
            interrupted = True
            warn(
                f"training was interrupted after {len(self._epochs)} of {self._num_epochs} epochs; "
                "the best weights so far are kept"
            )
        name, weights = self._candidates.choose(self._start, self._last)
        if not self._candidates.records:
            self._candidates.records.append(Candidate(name, None, None))
        _LOGGER.info("kept the weights of %s", name)
        history = dataclasses.replace(
            self._history(),
            candidates=tuple(self._candidates.records),
            best=name,
            interrupted=interrupted,
        )
        return self._model if weights is None else with_tuned(self._model, weights), history

    def _first_state(self) -> TrainingState:
        """Return the state to begin with: that of the checkpoint if there is one."""
        if self._saved is not None:
            return self.trainer.step.state_from_numpy(
                {"average": {}, "fixed": {}, **self._saved.arrays}
            )
        state = self.trainer.step.initial_state(self.preparation.parameters)
        if self._validation is not None:
            score = self._score(self.preparation.parameters)
            self._candidates.add(self._start, score, None)
        return state

    def _run_epochs(self, state: TrainingState, optimizer: Optimizer) -> TrainingState:
        elapsed = self._epochs[-1].seconds if self._epochs else 0.0
        started = time.monotonic() - elapsed
        for epoch in range(len(self._epochs), self._num_epochs):
            if self._is_stopped():
                break
            records: list[StepRecord] = []
            title = f"Epoch {epoch + 1} of {self._num_epochs}"
            try:
                with show_progress(
                    title, self.trainer.steps_per_epoch, shown=self._progress
                ) as advance:
                    state = self.trainer.run_epoch(
                        state,
                        optimizer,
                        epoch,
                        self._num_epochs,
                        report=_recorder(records, advance),
                        started=started,
                    )
            except DivergedError as error:
                warn(f"training stopped: {error}. The best weights so far are kept")
                self._steps += records
                break
            self._finish_epoch(state, epoch, records)
        return state

    def _finish_epoch(self, state: TrainingState, epoch: int, records: list[StepRecord]) -> None:
        """Evaluate the weights after an epoch and their moving average, and write a checkpoint."""
        self._last = self._changed(state, state.trained)
        score = None
        if self._validation is not None:
            parameters = {"epoch": {**state.fixed, **state.trained}}
            if state.average:
                parameters["average"] = {**parameters["epoch"], **state.average}
            scores = self.trainer.evaluate(parameters, self._validation)
            score = scores["epoch"]
            self._candidates.add_epoch(epoch + 1, score, self._last)
            if state.average:
                average = self._changed(state, state.average)
                name = f"moving average after {epoch_name(epoch + 1)}"
                self._candidates.add(name, scores["average"], average)
        if self._settings.swa and 2 * (epoch + 1) > self._num_epochs:
            self._candidates.mean.add(self._last)
        self._steps += records
        record = summarize(epoch, records, score)
        self._epochs.append(record)
        print_progress(_format_epoch(record, self._num_epochs), shown=self._progress)
        if self._folder is not None:
            self._folder.write(self._to_checkpoint(state))

    def _is_stopped(self) -> bool:
        """Return whether the validation loss has not decreased for too many epochs."""
        patience = self._settings.patience
        losses = [record.validation_loss for record in self._epochs]
        if patience is None or len(losses) <= patience:
            return False
        finite = [np.inf if loss is None or not np.isfinite(loss) else loss for loss in losses]
        return bool(min(finite[-patience:]) >= min(finite[:-patience]))

    def _changed(self, state: TrainingState, values: Mapping[str, Any]) -> Weights:
        """Return the arrays of all parameters that training changes."""
        statistics = {name: state.fixed[name] for name in self.preparation.groups.statistics}
        return self.trainer.step.to_numpy({**statistics, **values})

    def _score(self, weights: Weights) -> Score:
        """Return the score of some weights on the validation images."""
        return self._evaluate(
            self.trainer.step.from_numpy({**self.preparation.parameters, **weights})
        )

    def _evaluate(self, parameters: Mapping[str, Any]) -> Score:
        if self._validation is None:
            raise RuntimeError("there are no validation images")
        return self.trainer.evaluate({"": parameters}, self._validation)[""]

    def _labeled(
        self, data: LabeledImages, augmentations: tuple[Augmentation, ...], views: int
    ) -> LabeledExamples:
        """Return the inputs of the trained part of the network with their classes and weights."""
        images = ImageExamples(data.images, self._model.preprocessing, augmentations, self._seed)
        examples: Examples = images
        if self.preparation.cut is not None:
            views = views if augmentations else 1
            with show_progress(
                "Computing features", views * len(images), shown=self._progress
            ) as advance:
                examples = store_activations(
                    self._program,
                    self.preparation.cut,
                    images,
                    views,
                    self._settings.batch_size,
                    advance,
                )
        return LabeledExamples(examples, data.classes, data.weights / data.weights.mean())

    def _make_trainer(self, backend: Backend, train: LabeledExamples, num_classes: int) -> Trainer:
        settings, preparation = self._settings, self.preparation
        anchors: Weights = {}
        if settings.l2_sp:
            names = preparation.pretrained & preparation.groups.decayed
            anchors = {name: preparation.parameters[name] for name in sorted(names)}
        step = TrainingStep(
            backend,
            preparation.network,
            preparation.groups,
            self.optimizer,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            l2_sp=settings.l2_sp,
            average_decay=settings.average_decay,
            wrapped=preparation.stateless,
            anchors=anchors,
        )
        return Trainer(step, preparation, settings, train, num_classes, self._seed)

    def _choose(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a choice, which is measured unless the checkpoint has it."""
        if name not in self._choices:
            self._choices[name] = measure()
        return self._choices[name]

    def _augmentations(self, validation: LabeledImages | None) -> tuple[Augmentation, ...]:
        """Return the augmentations of single images."""
        settings = self._settings
        if settings.augmentation is not None:
            return tuple(
                entry for entry in settings.augmentation if isinstance(entry, Augmentation)
            )
        if self.preparation.cut is not None and settings.views == 1:
            return ()
        flips: tuple[Augmentation, ...] = ()
        if validation is not None and self._choose(
            "horizontal_flip", lambda: self._is_mirrored_recognized(validation)
        ):
            flips = (HorizontalFlip(),)
        return (RandomResizedCrop(scale=_CROP_SCALE), *flips)

    def _is_mirrored_recognized(self, validation: LabeledImages) -> bool:
        hits = []
        for augmentations in ((), (HorizontalFlip(probability=1.0),)):
            images = ImageExamples(
                validation.images, self._model.preprocessing, augmentations, self._seed
            )
            rows = np.empty(len(images), bool)
            batches = images.batches(range(len(images)), self._settings.batch_size, 0)
            for pixels, indices in batches:
                logits = self._program.run(pixels, ["logits"])["logits"]
                rows[indices] = logits.argmax(axis=1) == validation.classes[indices]
            hits.append(rows)
        return is_mirrored_recognized(*hits)

    def _learning_rate(self, state: TrainingState) -> float:
        """Return the learning rate: the given one, or the best of short trials."""
        if self._settings.learning_rate is not None:
            return float(self._settings.learning_rate)
        if not isinstance(self._settings.optimizer, str):
            return self.optimizer.learning_rate
        if self._validation is None:
            return float(self._choose("learning_rate", lambda: LEARNING_RATES[0]))
        return float(self._choose("learning_rate", lambda: self._best_trial(state)))

    def _best_trial(self, state: TrainingState) -> float:
        """Return the rate after whose first steps the validation loss is lowest.

        It is that of the moving average, if there is one: at a rate that is best in the end, the
        weights themselves are often worse than before for some epochs.
        """
        epochs = math.ceil(_TRIAL_STEPS / self.trainer.steps_per_epoch)
        total = _TRIAL_STEPS * len(LEARNING_RATES)
        with show_progress("Choosing the learning rate", total, shown=self._progress) as advance:
            for rate in LEARNING_RATES:
                try:
                    after = self._take_trial_steps(state, rate, epochs, advance)
                except DivergedError:
                    break
                score = self._evaluate({**after.fixed, **after.trained, **after.average})
                self._trials.append(Trial(rate, score.loss, score.accuracy))
        finite = [trial for trial in self._trials if np.isfinite(trial.validation_loss)]
        if not finite:
            return LEARNING_RATES[0]
        return min(finite, key=lambda trial: trial.validation_loss).learning_rate

    def _take_trial_steps(
        self, state: TrainingState, rate: float, epochs: int, advance: Callable[[int], None]
    ) -> TrainingState:
        """Return the state after the first steps at a constant rate, with the warm-up."""
        optimizer = dataclasses.replace(
            self.optimizer, learning_rate=rate, schedule=Warmup("constant")
        )
        left = _TRIAL_STEPS
        for epoch in range(epochs):
            state = self.trainer.run_epoch(
                state,
                optimizer,
                epoch,
                epochs,
                report=_recorder([], advance),
                started=0.0,
                max_steps=left,
            )
            left -= self.trainer.steps_per_epoch
        return state

    def _with_schedule(self, learning_rate: float) -> Optimizer:
        """Return the optimizer with a learning rate and the schedule of the settings."""
        schedule = self._settings.schedule
        if schedule is None:
            is_name = isinstance(self._settings.optimizer, str)
            schedule = "cosine" if is_name else self.optimizer.schedule
        schedule = find_schedule(schedule, epochs=self._num_epochs)
        if self._settings.warmup:
            schedule = Warmup(schedule, self._settings.warmup)
        return dataclasses.replace(self.optimizer, learning_rate=learning_rate, schedule=schedule)

    def _history(self) -> History:
        """Return the history so far, without candidates."""
        return History(
            steps=self._steps, epochs=self._epochs, trials=self._trials, choices=self._choices
        )

    def _to_checkpoint(self, state: TrainingState) -> Checkpoint:
        arrays = self.trainer.step.state_to_numpy(state)
        candidates, kept = self._candidates.to_dict()
        progress = {"history": self._history().to_dict(), "candidates": candidates}
        return Checkpoint({**arrays, **kept}, progress)

    def _restore_records(self, saved: Checkpoint) -> None:
        history = History.from_dict(saved.progress["history"])
        self._steps, self._epochs = list(history.steps), list(history.epochs)
        self._trials, self._choices = list(history.trials), dict(history.choices)
        self._candidates = Candidates.from_dict(
            self._settings.soup, saved.progress["candidates"], saved.arrays
        )
        trained = self.preparation.groups.learning_rate_factors
        fixed = saved.arrays.get("fixed", {})
        self._last = {
            **{name: fixed[name] for name in self.preparation.groups.statistics},
            **{name: saved.arrays["trained"][name] for name in trained},
        }


def _recorder(
    records: list[StepRecord], advance: Callable[[int], None]
) -> Callable[[StepRecord], None]:
    def report(record: StepRecord) -> None:
        records.append(record)
        advance(1)

    return report


def _format_epoch(record: EpochRecord, epochs: int) -> str:
    text = f"epoch {record.epoch}/{epochs}: loss {record.loss:.4f}, accuracy {record.accuracy:.4f}"
    if record.validation_loss is not None and record.validation_accuracy is not None:
        text += (
            f", validation loss {record.validation_loss:.4f}, validation accuracy "
            f"{record.validation_accuracy:.4f}"
        )
    return f"{text}, {record.seconds:.0f} s"


def _describe_run(
    model: Model,
    backend: Backend,
    train: LabeledImages,
    validation: LabeledImages | None,
    settings: FineTuning,
    seed: int,
) -> dict[str, str]:
    """Return what determines a run, by name, for its checkpoint."""
    parameters = settings.get_params(deep=False)
    parameters.pop("checkpoint")
    parameters.pop("validation")
    described = {name: _describe(value) for name, value in parameters.items()}
    return {
        **described,
        "backend": f"{backend.name} on {backend.device}",
        "network": model.network.name,
        "weights": _digest_of_weights(model),
        "preprocessing": repr(model.preprocessing),
        "training images": _digest_of_images(train),
        "validation images": "none" if validation is None else _digest_of_images(validation),
        "random_state": str(seed),
    }


def _describe(value: object) -> str:
    # The default repr of a function has an address.
    return getattr(value, "__qualname__", None) or repr(value)


def _digest_of_weights(model: Model) -> str:
    sha256 = hashlib.sha256()
    for name, array in model.weights.items():
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    if model.wrapped is not None:
        for name, array in model.wrapped.parameters().items():
            sha256.update(name.encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()[:16]


def _digest_of_names(names: Collection[str]) -> str:
    return f"{len(names)}, {hashlib.sha256(repr(sorted(names)).encode()).hexdigest()[:16]}"


def _digest_of_images(data: LabeledImages) -> str:
    sha256 = hashlib.sha256()
    for image, source in zip(data.images, data.sources, strict=True):
        sha256.update(os.fsencode(source))
        if isinstance(image, np.ndarray):
            sha256.update(np.ascontiguousarray(image).tobytes())
    sha256.update(data.classes.astype("<i8").tobytes())
    sha256.update(data.weights.astype("<f8").tobytes())
    return f"{len(data.classes)} images, {sha256.hexdigest()[:16]}"
