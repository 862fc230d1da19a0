"""`compare`: the accuracy and speed of several networks on the same photos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, get_backend
from transferkit.backends.base import TRAINING
from transferkit.classification import Classifier, FineTuning
from transferkit.classification.evaluation import wilson_interval
from transferkit.classification.head import fit_head
from transferkit.classification.labels import with_labels
from transferkit.comparison.candidates import Candidate, WeightsOf, make_candidates
from transferkit.comparison.evidence import logme
from transferkit.comparison.folds import assign_folds, check_training_parts
from transferkit.comparison.intervals import paired_interval
from transferkit.comparison.result import Comparison
from transferkit.comparison.table import FINE_TUNED, ComparedNetwork
from transferkit.comparison.timing import TimedProgram
from transferkit.datasets import LabelledImages
from transferkit.datasets.labels import Labels
from transferkit.errors import DatasetError, ImageError, TransferkitError
from transferkit.features import Features, check_finite, compute_features
from transferkit.images import ImageLike, Images, Skipped
from transferkit.images.skipped import check_on_error
from transferkit.images.stream import image_sequence
from transferkit.models import Model, load_model
from transferkit.support.numerics import l2_normalize
from transferkit.support.progress import print_progress, show_progress
from transferkit.support.random_state import RandomState, as_generator, as_seed
from transferkit.support.validation import check_integer
from transferkit.support.warning import warn
from transferkit.training.history import PROBE

__all__ = ["compare"]

_LOGGER = logging.getLogger(__name__)

_SEED_OF_FOLDS = 2**31
_LAYER = "embedding"
_BYTES_PER_PARAMETER = 4
_INTERRUPTED = "interrupted before it was finished"

# Whether the prediction for each image is correct, as 0 or 1; NaN for images that were skipped.
Correct = npt.NDArray[np.float64]


def compare(
    networks: Sequence[str | Model | object],
    X: Images | LabelledImages,
    y: Labels | None = None,
    *,
    cv: int = 5,
    fine_tune: Sequence[str | Model | object] = (),
    weights: WeightsOf = None,
    backend: str | Backend | None = None,
    device: str | None = None,
    batch_size: int = 32,
    on_error: str = "raise",
    random_state: RandomState = 0,
    progress: bool | None = None,
) -> Comparison:
    """Compare networks on labeled images: accuracy, speed, size, license.

    Each network runs once over the images. On its embeddings, the classifier of
    `transferkit.Classifier` is fitted and tested in a cross-validation whose folds are the same for
    all networks; in each of them, its ``C`` is chosen with the training images alone.

    A network that fails does not end the comparison; its row says why. After Ctrl-C, the networks
    that are finished are kept, with a warning.

    Parameters
    ----------
    networks
        Names (``transferkit networks`` lists them), `transferkit.models.Model` objects, or models
        of your own: ``torch.nn.Module`` or ``keras.Model``.
    X, y
        As for `transferkit.Classifier.fit`. The images of a group of
        `transferkit.datasets.LabelledImages` are in one fold.
    cv
        The number of folds, at least 2. Each class needs as many images, and 4 for two folds.
    fine_tune
        Those of ``networks`` that are fine-tuned as well, in each fold, with the defaults of
        `transferkit.FineTuning`. This takes long, and needs a backend that can train.
    weights
        The weights of the networks that are given by name, as for `transferkit.Classifier`; or a
        mapping from some of their names to weights.
    backend, device, batch_size
        As for `transferkit.FeatureExtractor`.
    on_error
        ``"raise"``, or ``"skip"`` to leave out images that cannot be read or are in no class
        folder, and class folders without images.
    random_state
        Seed of the folds, of fine-tuning and of random weights.
    progress
        Whether to show progress; None: on a terminal or in a notebook.

    Returns
    -------
    Comparison
        With the table, and methods that write it as a page, a plot or JSON.

    Raises
    ------
    UnknownNameError
        If a network, its weights, the backend or the device is unknown, before anything runs.
    DatasetError
        If there are no images, only one class, or too few images or groups of a class.
    ImageError
        If an image cannot be read and ``on_error`` is ``"raise"``.
    ParameterError
        If a parameter is invalid, or ``networks`` is empty or has one of them twice.
    ArgumentTypeError
        If a network has another type.
    UnsupportedError
        If the backend cannot train, and ``fine_tune`` has networks.
    TransferkitError
        If all networks fail, the error of the first.

    Notes
    -----
    The intervals are for other images of the same kind, not for other training images. They assume
    that the images are independent, which those of one group are not. The best of many networks is
    partly the best by luck, so that its own accuracy is slightly too high.

    Images per second are those of the runs of this comparison, on its backend, without the reading
    of images, though other threads read images meanwhile. The first batch, in which the network is
    compiled, is not counted unless it is the only one.

    Examples
    --------
    >>> from transferkit import compare
    >>> from transferkit.demo import TRAIN
    >>> comparison = compare(["mobilenet_v2"], TRAIN, cv=4, backend="onnxruntime")
    >>> comparison.best.network, comparison.best.accuracy, comparison.best.license
    ('mobilenet_v2', 1.0, 'BSD-3-Clause')
    """
    cv = check_integer("cv", cv, 2)
    batch_size = check_integer("batch_size", batch_size, 1)
    check_on_error(on_error)
    candidates = make_candidates(networks, weights, fine_tune)
    if backend is not None or device is not None:
        get_backend(backend, device=device)
    if any(one.is_fine_tuned and isinstance(one.network, (str, Model)) for one in candidates):
        get_backend(backend, needs=TRAINING, device=device)
    skipped: list[Skipped] = []
    given, labels = with_labels(X, y, on_error=on_error, skipped=skipped)
    images = image_sequence(given)
    if len(images) != len(labels):
        raise DatasetError(f"X has {len(images)} images, but y has {len(labels)} labels")
    classes, indices = np.unique(labels, return_inverse=True)
    seed = as_seed(random_state)
    seed_of_folds = int(as_generator(seed).integers(_SEED_OF_FOLDS))
    groups = X.groups if isinstance(X, LabelledImages) else None
    folds = assign_folds(classes, indices, groups, cv, seed_of_folds)
    settings = _Settings(backend, device, batch_size, on_error, seed, seed_of_folds, progress)
    run = _Run(_Data(images, classes, indices, folds, cv), settings, len(candidates))
    for candidate in candidates:
        run.add(candidate)
    if not run.correct:
        if run.interrupted:
            raise KeyboardInterrupt
        raise run.errors[0]
    if run.interrupted:
        names = len({row.network for row, _ in run.correct})
        warn(f"interrupted: {names} of {len(candidates)} networks have results, which are kept")
    is_used = np.isfinite([correct for _, correct in run.correct]).any(axis=0)
    counts = np.bincount(indices[is_used], minlength=len(classes))
    return Comparison(
        _with_differences(run.correct) + run.failed,
        dict(zip(classes.tolist(), counts.tolist(), strict=True)),
        cv,
        seed,
        skipped + run.skipped,
        run.interrupted,
    )


@dataclass(frozen=True)
class _Settings:
    """The parameters of `compare` that all networks share, and the seed of the folds."""

    backend: str | Backend | None
    device: str | None
    batch_size: int
    on_error: str
    seed: int
    seed_of_folds: int
    progress: bool | None


@dataclass(frozen=True)
class _Data:
    """The images with their classes, and the fold in which each is tested."""

    images: Sequence[ImageLike] | npt.NDArray[np.generic]
    classes: npt.NDArray[Any]
    indices: npt.NDArray[np.intp]
    folds: npt.NDArray[np.intp]
    cv: int


class _Run:
    """The results so far.

    Attributes
    ----------
    correct
        The rows with results, and which predictions are correct.
    failed
        The rows without.
    errors
        The errors of these rows.
    skipped
        The images that could not be read.
    interrupted
        Whether Ctrl-C was pressed.
    """

    def __init__(self, data: _Data, settings: _Settings, number: int) -> None:
        self._data = data
        self._settings = settings
        self._number = number
        self._position = 0
        self.correct: list[tuple[ComparedNetwork, Correct]] = []
        self.failed: list[ComparedNetwork] = []
        self.errors: list[Exception] = []
        self.skipped: list[Skipped] = []
        self.interrupted = False

    def add(self, candidate: Candidate) -> None:
        """Run a network, and fine-tune it if that is requested."""
        self._position += 1
        self._announce(candidate.name)
        loaded: list[tuple[Model, Features, ComparedNetwork]] = []

        def probe() -> tuple[ComparedNetwork, Correct]:
            model, features, row = self._compute(candidate)
            loaded.append((model, features, row))
            return row, self._probe(features)

        self._attempt(ComparedNetwork(candidate.name, PROBE, candidate.weights_name), probe)
        if not candidate.is_fine_tuned:
            return
        start = ComparedNetwork(candidate.name, FINE_TUNED, candidate.weights_name)
        if not loaded:
            # The row of the probe says why; repeated here, since a table may be filtered.
            self.failed.append(start._replace(error=self.failed[-1].error))
            return

        def tune() -> tuple[ComparedNetwork, Correct]:
            self._announce(f"{candidate.name}, {FINE_TUNED}")
            model, features, row = loaded[0]
            return row._replace(method=FINE_TUNED, logme=None), self._fine_tune(model, features)

        self._attempt(start, tune)

    def _announce(self, name: str) -> None:
        if not self.interrupted:
            line = f"{name} ({self._position} of {self._number})"
            print_progress(line, shown=self._settings.progress)

    def _attempt(
        self, row: ComparedNetwork, work: Callable[[], tuple[ComparedNetwork, Correct]]
    ) -> None:
        """Keep the result of a network, or why there is none."""
        if self.interrupted:
            self.failed.append(row._replace(error=_INTERRUPTED))
            return
        try:
            row, correct = work()
        except KeyboardInterrupt:
            self.interrupted = True
            self.failed.append(row._replace(error=_INTERRUPTED))
            return
        except (ImageError, DatasetError) as error:
            # Of the images, so that the other networks would fail too.
            if not self.correct:
                raise
            self._fail(row, error)
            return
        # Not only errors of this library: models of users and frameworks may raise anything.
        except Exception as error:
            self._fail(row, error)
            return
        tested = correct[np.isfinite(correct)]
        accuracy = float(tested.mean())
        low, high = wilson_interval(accuracy, len(tested))
        row = row._replace(accuracy=accuracy, low=low, high=high, images=len(tested))
        self.correct.append((row, correct))

    def _fail(self, row: ComparedNetwork, error: Exception) -> None:
        text = str(error) if isinstance(error, TransferkitError) else f"{error!r}"
        _LOGGER.info("%s, %s failed", row.network, row.method, exc_info=error)
        self.failed.append(row._replace(error=text))
        self.errors.append(error)

    def _compute(self, candidate: Candidate) -> tuple[Model, Features, ComparedNetwork]:
        """Return a model, its embeddings of the images, and its row without an accuracy."""
        settings, data = self._settings, self._data
        model = load_model(
            candidate.network,
            candidate.weights,
            None,
            settings.backend,
            settings.device,
            random_state=settings.seed,
            progress=settings.progress,
        )
        wrapped = model.wrapped
        backend = (
            get_backend(settings.backend, device=settings.device)
            if wrapped is None
            else get_backend(wrapped.backend)
        )
        program = TimedProgram(backend, model)
        features = compute_features(
            program,
            model.preprocessing,
            data.images,
            [_LAYER],
            batch_size=settings.batch_size,
            on_error=settings.on_error,
            progress=settings.progress,
        )
        known = {item.source for item in self.skipped}
        self.skipped += [item for item in features.skipped if item.source not in known]
        rows = features.indices
        check_training_parts(data.classes, data.indices[rows], data.folds[rows], data.cv)
        check_finite(features[_LAYER], features.sources, _LAYER)
        parameters = model.network.num_parameters if wrapped is None else wrapped.num_parameters
        size = None if parameters is None else parameters * _BYTES_PER_PARAMETER / 1e6
        row = ComparedNetwork(
            candidate.name,
            PROBE,
            candidate.weights_name,
            logme=logme(_flat(features), data.classes[data.indices[rows]]),
            images_per_second=program.images_per_second,
            backend=backend.name,
            parameters=parameters,
            megabytes=size,
            license=model.license,
        )
        return model, features, row

    def _probe(self, features: Features) -> Correct:
        """Cross-validate the head on the embeddings."""
        embeddings = l2_normalize(_flat(features))
        indices = self._data.indices[features.indices]

        def predict(train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]) -> Any:
            seed = self._settings.seed_of_folds
            head = fit_head(embeddings[train], indices[train], C=None, seed=seed)
            return (embeddings[test] @ head.weight.T + head.bias).argmax(axis=1)

        with show_progress(
            "Cross-validating", self._data.cv, shown=self._settings.progress
        ) as advance:
            return self._cross_validate(features, indices, predict, advance)

    def _fine_tune(self, model: Model, features: Features) -> Correct:
        """Cross-validate the fine-tuned network."""
        settings, data = self._settings, self._data
        images = [data.images[index] for index in features.indices]
        labels = data.classes[data.indices[features.indices]]

        def predict(train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]) -> Any:
            classifier = Classifier(
                model,
                backend=settings.backend,
                device=settings.device,
                batch_size=settings.batch_size,
                random_state=settings.seed,
                progress=settings.progress,
                fine_tuning=FineTuning(),
            )
            classifier.fit([images[row] for row in train], labels[train])
            history = classifier.history_
            if history is not None and (
                history.interrupted or (history.refit is not None and history.refit.interrupted)
            ):
                # A classifier keeps what it has after Ctrl-C; a fold of it would be no fair test.
                raise KeyboardInterrupt
            return classifier.predict([images[row] for row in test])

        return self._cross_validate(features, labels, predict, lambda _: None)

    def _cross_validate(
        self,
        features: Features,
        labels: npt.NDArray[Any],
        predict: Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp]], Any],
        advance: Callable[[int], None],
    ) -> Correct:
        """Return which predictions are correct, for all images.

        Parameters
        ----------
        features
            Of the images that can be read.
        labels
            (n,) their labels, as ``predict`` returns them.
        predict
            From the rows to train on and those to test to the labels of the latter.
        advance
            Called after each fold.
        """
        folds = self._data.folds[features.indices]
        correct = np.full(len(self._data.indices), np.nan)
        for fold in range(self._data.cv):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            correct[features.indices[test]] = predict(train, test) == labels[test]
            advance(1)
        return correct


def _flat(features: Features) -> npt.NDArray[np.float32]:
    """Return the embeddings as rows."""
    outputs = features[_LAYER]
    return outputs.reshape(len(outputs), -1)


def _with_differences(
    results: Sequence[tuple[ComparedNetwork, Correct]],
) -> list[ComparedNetwork]:
    """Return the rows, the most accurate first, with their differences to it."""
    ordered = sorted(results, key=lambda result: -(result[0].accuracy or 0.0))
    _, best = ordered[0]
    rows = []
    for row, correct in ordered:
        shared = np.isfinite(correct) & np.isfinite(best)
        mine, others = correct[shared] > 0, best[shared] > 0
        low, high = (0.0, 0.0) if correct is best else paired_interval(mine, others)
        rows.append(
            row._replace(
                difference=float(mine.mean() - others.mean()),
                difference_low=low,
                difference_high=high,
            )
        )
    return rows
