"""A run of fine-tuning: its choices, the epochs, and the model with the best weights."""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.candidates import (
    AVERAGE,
    EPOCH,
    Candidates,
    Score,
    Weights,
    interpolate,
)
from transferkit.classification.fine_tuning.checkpoint import Checkpoint, CheckpointFolder
from transferkit.classification.fine_tuning.choices import (
    LEARNING_RATES,
    are_mirror_images_different,
    calibrated_losses,
    choose_epochs,
    is_lower_beyond_error,
)
from transferkit.classification.fine_tuning.course import Course
from transferkit.classification.fine_tuning.description import describe_run, digest_of_names
from transferkit.classification.fine_tuning.draws import MIRRORED, generator_for
from transferkit.classification.fine_tuning.examples import (
    Examples,
    ImageExamples,
    TrainingImages,
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
from transferkit.classification.temperature import fit_temperature, with_temperature
from transferkit.errors import ParameterError
from transferkit.images.augmentation import (
    Augmentation,
    CutMix,
    HorizontalFlip,
    RandomResizedCrop,
)
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

__all__ = ["FineTuningRun"]

_LOGGER = logging.getLogger(__name__)

Array: TypeAlias = npt.NDArray[Any]

# The share of the epochs after which the learning rate is chosen.
_TRIAL = 1 / 3
# The largest number of images that are compared with their mirror images.
_MAX_MIRRORED = 200
# How far weights that are compared are from the start on the way to the best ones.
_FRACTIONS = (0.5,)
# How far a random crop zooms in: the share of the area of the image.
_CROP_SCALE = (0.35, 1.0)


class FineTuningRun:
    """A run: its choices, its epochs, and what is kept.

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
    note
        Added to the titles of the progress.

    Attributes
    ----------
    preparation
        The part of the model that is trained.
    optimizer
        The optimizer of the settings.

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

    def __init__(
        self,
        model: Model,
        backend: Backend,
        train: TrainingImages,
        validation: TrainingImages | None,
        settings: FineTuning,
        *,
        start: str,
        seed: int,
        progress: bool | None,
        note: str = "",
    ) -> None:
        self._model = model
        self._backend = backend
        self._train = train
        self._validation_images = validation
        self._settings = settings
        self._start = start
        self._note = note
        self._progress = progress
        self._seed = seed
        self._program = model.program(backend)
        self.preparation: Preparation = prepare(model, settings, seed)
        self.optimizer: Optimizer = find_optimizer(settings.optimizer)
        self._check_batches()
        self._folder: CheckpointFolder | None = None
        self._saved: Checkpoint | None = None
        if settings.checkpoint is not None:
            description = describe_run(model, backend, train, validation, settings, seed)
            # The names of two functions may be equal.
            trained = self.preparation.groups.learning_rate_factors
            description["trained parameters"] = digest_of_names(trained)
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
        # The course that is kept; None before the learning rate is chosen.
        self._course: Course | None = None
        # That of the best of the learning rates that were tried so far.
        self._tried: Course | None = None
        self._started = time.monotonic()
        if self._saved is not None:
            self._course = self._restored(self._saved)
        number = len(train.classes)
        self._num_epochs = int(
            settings.epochs or self._choose("epochs", lambda: choose_epochs(number))
        )

    def _check_batches(self) -> None:
        """Check that the batches can be normalized and mixed as the settings say."""
        settings, cut = self._settings, self.preparation.cut
        if settings.batch_norm == "update" and len(self._train.classes) == 1:
            raise ParameterError(
                "there is one training image with batch_norm='update', which normalizes by the "
                "batch; add images, or use batch_norm='frozen'"
            )
        entries = settings.augmentation or ()
        if cut is None or not entries:
            return
        is_vector = len(self._model.layers()[cut]) == 1
        if is_vector and any(isinstance(entry, CutMix) for entry in entries):
            raise ParameterError(
                f"augmentation has CutMix, but the trained part begins after layer {cut!r}, whose "
                "output has no height and width; train an earlier layer, or use MixUp"
            )
        if settings.views == 1 and any(isinstance(entry, Augmentation) for entry in entries):
            warn(
                "images are not augmented: what comes before the first trained layer runs once "
                "for each image; set views to the number of augmentations of each image"
            )

    @cached_property
    def trainer(self) -> Trainer:
        """The training loop; it reads images when it is made."""
        labeled = self._labeled(self._train, self.augmentations, self._settings.views)
        return self._make_trainer(labeled)

    @cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentations of single images, given or chosen."""
        settings = self._settings
        if self.preparation.cut is not None and settings.views == 1:
            return ()
        if settings.augmentation is not None:
            return tuple(
                entry for entry in settings.augmentation if isinstance(entry, Augmentation)
            )
        flips: tuple[Augmentation, ...] = ()
        if self._choose("horizontal_flip", lambda: not self._are_mirror_images_different()):
            flips = (HorizontalFlip(),)
        return (RandomResizedCrop(scale=_CROP_SCALE), *flips)

    @cached_property
    def _validation(self) -> LabeledExamples | None:
        data = self._validation_images
        return None if data is None else self._labeled(data, (), 1)

    def run(self, fraction: float = 1.0) -> tuple[Model, History]:
        """Train, and return the best model and the history.

        Parameters
        ----------
        fraction
            How far the weights of the model are on the way from those at the start to the best
            ones, in (0, 1].
        """
        interrupted = False
        try:
            self._train_and_average()
        except KeyboardInterrupt:
            interrupted = True
            course = self._course or self._tried
            epochs = 0 if course is None else len(course.epochs)
            warn(
                f"training was interrupted after {epochs} of {self._num_epochs} epochs; the best "
                "weights so far are kept"
            )
        except DivergedError as error:
            warn(f"training stopped: {error}. The best weights so far are kept")
        course = self._course or self._tried
        name, weights = self._start, None
        if course is not None:
            name, weights = course.candidates.choose(self._start, self._last(course))
        candidates = [] if course is None else course.candidates.records
        _LOGGER.info("kept the weights of %s", name)
        history = dataclasses.replace(
            self._history(course),
            candidates=tuple(candidates) or (Candidate(name, None, None),),
            best=name,
            interrupted=interrupted,
        )
        if weights is None:
            return self._model, history
        if fraction < 1:
            weights = interpolate(self.preparation.parameters, weights, fraction)
        temperature = self._temperature(weights)
        return with_temperature(with_tuned(self._model, weights), temperature), history

    def _temperature(self, weights: Weights) -> float:
        """Return the temperature of some weights on the validation images; 1 without these."""
        if self._validation is None:
            return 1.0
        tensors = self.trainer.step.from_numpy({**self.preparation.parameters, **weights})
        logits = self.trainer.logits({"": tensors}, self._validation)[""]
        return fit_temperature(logits, self._validation.classes, self._validation.weights)

    @property
    def fraction(self) -> float:
        """How far the weights that are kept are from the start on the way to the best ones."""
        return 1.0 if self._course is None else self._course.candidates.fraction

    @property
    def kind(self) -> str:
        """What the best weights are: those after an epoch, or an average."""
        return EPOCH if self._course is None else self._course.candidates.kind

    @property
    def _fractions(self) -> Sequence[float]:
        """The fractions of that way that are compared."""
        if self._settings.interpolation is not None:
            return self._settings.interpolation
        return () if self._validation is None else _FRACTIONS

    def _train_and_average(self) -> None:
        """Train, and evaluate the averages over epochs."""
        if self._course is None:
            self._course = self._first_course()
        self._run_epochs(self._course, self._num_epochs)
        self._course.candidates.add_averages(
            self._score, self.preparation.parameters, self._start, self._fractions
        )

    def _last(self, course: Course) -> tuple[str, Weights] | None:
        """Return the weights after the last epoch: their moving average if there is one."""
        if not course.epochs:
            return None
        state, name = course.state, "last epoch"
        average = self.trainer.step.average(state)
        if average:
            return f"moving average after {name}", self._changed(state, average)
        return name, self._changed(state, state.trained)

    def _first_course(self) -> Course:
        """Return the course to continue: with the given learning rate, or the best of trials."""
        state = self.trainer.step.initial_state(self.preparation.parameters)
        candidates = Candidates(self._settings.soup)
        if self._validation is not None:
            candidates.add(self._start, self._score(self.preparation.parameters), None)
        if self._settings.learning_rate is not None:
            return Course(float(self._settings.learning_rate), state, candidates)
        if not isinstance(self._settings.optimizer, str):
            return Course(self.optimizer.learning_rate, state, candidates)
        if self._validation is None:
            rate = float(self._choose("learning_rate", lambda: LEARNING_RATES[0]))
            return Course(rate, state, candidates)
        return self._try_learning_rates(state, candidates, self._validation)

    def _try_learning_rates(
        self, state: TrainingState, candidates: Candidates, validation: LabeledExamples
    ) -> Course:
        """Return the course with the best learning rate, of which some epochs are done.

        A greater rate replaces a smaller one if it is better by more than chance.
        """
        epochs = max(1, round(_TRIAL * self._num_epochs))
        lowest: Array | None = None
        for rate in LEARNING_RATES:
            course = Course(rate, state, copy.deepcopy(candidates))
            try:
                self._run_epochs(course, epochs, is_trial=True)
            except DivergedError:
                # Greater rates diverge as well.
                break
            after = course.state
            # At a rate that is best in the end, the weights themselves are often worse than before
            # for some epochs, but not their moving average.
            average = self.trainer.step.average(after)
            parameters = {**after.fixed, **after.trained, **average}
            logits = self.trainer.logits({"": parameters}, validation)[""]
            losses = calibrated_losses(logits, validation.classes, validation.weights)
            hits = logits.argmax(axis=1) == validation.classes
            accuracy = float(np.average(hits, weights=validation.weights))
            self._trials.append(Trial(rate, float(losses.mean()), accuracy))
            if lowest is None or is_lower_beyond_error(losses, lowest):
                self._tried, lowest = course, losses
        course = self._tried or Course(LEARNING_RATES[0], state, candidates)
        self._choices["learning_rate"] = course.learning_rate
        if course.epochs:
            self._write_checkpoint(course)
        return course

    def _run_epochs(self, course: Course, until: int, *, is_trial: bool = False) -> None:
        """Continue a course up to an epoch.

        Raises
        ------
        DivergedError
            If the loss or the gradient is NaN or infinite.
        """
        optimizer = self._with_schedule(course.learning_rate)
        suffix = f" at learning rate {course.learning_rate:g}" if is_trial else self._note
        for epoch in range(len(course.epochs), until):
            if course.has_stalled(self._settings.patience):
                break
            records: list[StepRecord] = []
            title = f"Epoch {epoch + 1} of {self._num_epochs}{suffix}"
            steps = self.trainer.steps_per_epoch
            try:
                with show_progress(title, steps, shown=self._progress) as advance:
                    state = self.trainer.run_epoch(
                        course.state,
                        optimizer,
                        epoch,
                        self._num_epochs,
                        report=_recorder(records, advance),
                        started=self._started,
                    )
            except DivergedError:
                course.steps += records
                raise
            record = self._finish_epoch(course, state, records)
            line = _format_epoch(record, self._num_epochs, suffix)
            print_progress(line, shown=self._progress)
            if not is_trial:
                self._write_checkpoint(course)

    def _finish_epoch(
        self, course: Course, state: TrainingState, records: list[StepRecord]
    ) -> EpochRecord:
        """Evaluate the weights after an epoch and their moving average."""
        epoch = len(course.epochs) + 1
        weights = self._changed(state, state.trained)
        score = None
        if self._validation is not None:
            parameters = {"epoch": {**state.fixed, **state.trained}}
            average = self.trainer.step.average(state)
            if average:
                parameters["average"] = {**parameters["epoch"], **average}
            scores = self.trainer.evaluate(parameters, self._validation)
            score = scores["epoch"]
            course.candidates.add_epoch(epoch, score, weights)
            if average:
                name = f"moving average after {epoch_name(epoch)}"
                weights_of_average = self._changed(state, average)
                course.candidates.add(name, scores["average"], weights_of_average, AVERAGE)
        if self._settings.swa and 2 * epoch > self._num_epochs:
            course.candidates.mean.add(weights)
        course.state = state
        course.steps += records
        record = summarize(epoch - 1, records, score)
        course.epochs.append(record)
        return record

    def _changed(self, state: TrainingState, values: Mapping[str, Any]) -> Weights:
        """Return the arrays of all parameters that training changes."""
        statistics = {name: state.fixed[name] for name in self.preparation.groups.statistics}
        return self.trainer.step.to_numpy({**statistics, **values})

    def _score(self, weights: Weights) -> Score:
        """Return the score of some weights on the validation images."""
        if self._validation is None:
            raise RuntimeError("there are no validation images")
        tensors = self.trainer.step.from_numpy({**self.preparation.parameters, **weights})
        return self.trainer.evaluate({"": tensors}, self._validation)[""]

    def _labeled(
        self, data: TrainingImages, augmentations: tuple[Augmentation, ...], views: int
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

    def _make_trainer(self, train: LabeledExamples) -> Trainer:
        settings, preparation = self._settings, self.preparation
        anchors: Weights = {}
        if settings.l2_sp:
            names = preparation.pretrained & preparation.groups.decayed
            anchors = {name: preparation.parameters[name] for name in sorted(names)}
        step = TrainingStep(
            self._backend,
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
        num_classes = len(self._model.labels or ())
        return Trainer(step, preparation, settings, train, num_classes, self._seed)

    def _choose(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a choice, which is measured unless the checkpoint has it."""
        if name not in self._choices:
            self._choices[name] = measure()
        return self._choices[name]

    def _are_mirror_images_different(self) -> bool:
        """Return whether some training images can be told from their mirror images."""
        if len(self._train.images) < 2:
            return False
        generator = generator_for(self._seed, MIRRORED)
        number = min(_MAX_MIRRORED, len(self._train.images))
        rows = generator.permutation(len(self._train.images))[:number]
        layer = self._model.network.node("logits").inputs[0]
        embeddings: list[Array] = []
        for augmentations in ((), (HorizontalFlip(probability=1.0),)):
            images = ImageExamples(
                self._train.take(rows).images, self._model.preprocessing, augmentations, self._seed
            )
            batches = images.batches(range(number), self._settings.batch_size, 0)
            parts = [self._program.run(pixels, [layer])[layer] for pixels, _ in batches]
            embeddings.append(np.concatenate(parts))
        return are_mirror_images_different(embeddings[0], embeddings[1], generator)

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

    def _history(self, course: Course | None) -> History:
        """Return the history of a course, without candidates."""
        return History(
            steps=() if course is None else course.steps,
            epochs=() if course is None else course.epochs,
            trials=self._trials,
            choices=self._choices,
        )

    def _write_checkpoint(self, course: Course) -> None:
        if self._folder is None:
            return
        arrays = self.trainer.step.state_to_numpy(course.state)
        candidates, kept = course.candidates.to_dict()
        progress = {
            "history": self._history(course).to_dict(),
            "candidates": candidates,
            "learning_rate": course.learning_rate,
        }
        self._folder.write(Checkpoint({**arrays, **kept}, progress))

    def _restored(self, saved: Checkpoint) -> Course:
        """Return the course of a checkpoint, whose choices are made again without measurements."""
        history = History.from_dict(saved.progress["history"])
        self._trials, self._choices = list(history.trials), dict(history.choices)
        candidates = Candidates.from_dict(
            self._settings.soup, saved.progress["candidates"], saved.arrays
        )
        steps, epochs = list(history.steps), list(history.epochs)
        self._started -= epochs[-1].seconds
        state = self.trainer.step.state_from_numpy({"average": {}, "fixed": {}, **saved.arrays})
        rate = float(saved.progress["learning_rate"])
        return Course(rate, state, candidates, steps, epochs)


def _recorder(
    records: list[StepRecord], advance: Callable[[int], None]
) -> Callable[[StepRecord], None]:
    def report(record: StepRecord) -> None:
        records.append(record)
        advance(1)

    return report


def _format_epoch(record: EpochRecord, epochs: int, suffix: str) -> str:
    text = f"epoch {record.epoch}/{epochs}{suffix}: loss {record.loss:.4f}"
    text += f", accuracy {record.accuracy:.4f}"
    if record.validation_loss is not None and record.validation_accuracy is not None:
        text += (
            f", validation loss {record.validation_loss:.4f}, validation accuracy "
            f"{record.validation_accuracy:.4f}"
        )
    return f"{text}, {record.seconds:.0f} s"
