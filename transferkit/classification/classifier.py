"""`Classifier`: logistic regression on the embedding of a network."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Hashable, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from transferkit.backends import Backend, Calibration, Program, get_backend
from transferkit.backends.base import FLOAT32, INFERENCE, INT8, TRAINING
from transferkit.classification.cached_fits import CachedFits
from transferkit.classification.evaluation import Evaluation
from transferkit.classification.fine_tuning.draws import SPLIT, generator_for
from transferkit.classification.fine_tuning.examples import TrainingImages
from transferkit.classification.fine_tuning.preparation import check_trainable, with_tuned
from transferkit.classification.fine_tuning.refit import (
    FineTuned,
    RefitStart,
    fine_tune_model,
)
from transferkit.classification.fine_tuning.serialization import (
    settings_from_dict,
    settings_to_dict,
)
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.classification.fine_tuning.splitting import (
    check_validation_classes,
    split_by_class,
)
from transferkit.classification.head import Head
from transferkit.classification.head_programs import HeadPrograms, find_embedding
from transferkit.classification.labels import (
    LabelsOfSources,
    check_classes,
    class_indices,
    format_labels,
    list_small_classes,
    of_rows,
    unknown_labels_error,
    with_labels,
)
from transferkit.classification.provenance import describe_classifier
from transferkit.classification.saved_file import (
    ClassifierFile,
    FitParameters,
    read_classifier,
    write_classifier,
)
from transferkit.classification.stored_features import read_stored_features
from transferkit.classification.temperature import temperature_of, with_temperature
from transferkit.classification.unknown import (
    KnownScores,
    distances,
    fit_distance,
    with_unknown_score,
)
from transferkit.classification.weighting import (
    ClassWeight,
    SampleWeight,
    check_class_weight,
    check_sample_weight,
    combine_weights,
)
from transferkit.datasets import LabelledImages
from transferkit.datasets.labels import Labels
from transferkit.errors import (
    DatasetError,
    FileFormatError,
    ParameterError,
    UnsupportedError,
    shorten,
    shorten_path,
)
from transferkit.features import Features, NoneReadableError, check_finite, compute_features
from transferkit.features.cache import CacheParameter, as_cache
from transferkit.features.calibration import (
    MAX_CALIBRATION_IMAGES,
    calibrate_on_images,
    stored_calibration,
)
from transferkit.features.open_cache import OpenCache
from transferkit.images import ImageLike, Images, Preprocessing, Skipped, stream_batches
from transferkit.images.stream import image_sequence, source_name
from transferkit.models import AnyWeights, Model, load_model
from transferkit.models.estimator import NetworkEstimator, document_parameters, takes_images
from transferkit.models.model import attach_metadata
from transferkit.models.program_cache import ProgramCache
from transferkit.networks import NETWORKS, Network, add_probabilities, keep_needed, replace_head
from transferkit.networks.passes import SCALED_LOGITS, UNKNOWN_SCORE
from transferkit.store import FeatureStore
from transferkit.support.numerics import l2_normalize
from transferkit.support.random_state import RandomState, as_generator, as_seed
from transferkit.support.validation import check_integer, check_positive, is_number
from transferkit.support.warning import warn
from transferkit.training.history import PROBE, History
from transferkit.weights.own_file import is_weights_file

__all__ = ["KNOWN_SHARE", "Classifier", "Prediction", "top_predictions"]

_LOGGER = logging.getLogger(__name__)

_SEED_OF_FOLDS = 2**31

KNOWN_SHARE = 0.98
"""The share of images of the classes that is not taken for unknown by default."""


class Prediction(NamedTuple):
    """A class and its probability.

    Attributes
    ----------
    label
        The class.
    probability
        Its probability, in [0, 1].
    """

    label: Hashable
    probability: float


@document_parameters
class Classifier(ClassifierMixin, NetworkEstimator):  # type: ignore[misc]
    """Classifies images by logistic regression on the embedding of a network.

    A scikit-learn classifier, for use in ``cross_validate``, ``GridSearchCV`` and so on. A
    fitted classifier can be used from several threads.

    Parameters
    ----------
    {network}
    layer
        The layer whose output the classifier is trained on; `transferkit.FeatureExtractor.layers`
        lists them. A feature map is flattened in row-major order, so that the classifier accepts
        only images of one size.
    C
        Inverse regularization strength, greater than 0, for embeddings of unit length; None:
        chosen by cross-validation.
    class_weight
        Weight of each class in `fit`: a mapping from label to weight, which is 1 for classes
        that it lacks; ``"balanced"`` for weights inversely proportional to the total weight of
        the images of each class; or None for equal weights.
    {weights}
    {backend}
    {device}
    {preprocessing}
    {batch_size}
    {initialization}
    random_state
        Seed of the cross-validation folds and of random weights: an int, a
        ``numpy.random.Generator``, a ``numpy.random.RandomState``, or None for different folds
        at each fit and different weights in each new object.
    {progress}
    fine_tuning
        How the network is trained further after the logistic regression, the probe; None: not at
        all.
    {precision}
    {cache}

    Attributes
    ----------
    classes_ : array
        (c,) the classes, sorted; for a pretrained classifier in the order of its logits.
    model_ : transferkit.models.Model
        The network, from pixels to ``logits`` and ``probabilities`` of the classes, with its
        weights, preprocessing and labels. It can be passed to the other classes as
        ``network``.
    C_ : float or None
        The inverse regularization strength that was used; None for a pretrained classifier.
    cv_accuracy_ : float or None
        The cross-validated accuracy by which ``C_`` was chosen, in [0, 1]; None if it was not.
    n_samples_fit_ : int or None
        The number of images that the classifier was fitted to; None for one that was loaded.
    temperature_ : float
        By which the logits are divided before the softmax, so that the probabilities are
        calibrated; fitted to images that were held out. 1 if ``C`` is given and the network not
        fine-tuned, and for a pretrained classifier.
    skipped_ : list of Skipped
        The images, class folders and classes that `fit` left out, and why.
    history_ : transferkit.training.History or None
        The steps and epochs of the last fine-tuning, and what was kept; None without it.
    calibration_ : transferkit.backends.Calibration
        With ``precision="int8"``: the ranges of the activations.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import Classifier
    >>> generator = np.random.default_rng(0)
    >>> dark = generator.integers(0, 90, (6, 64, 64, 3), dtype=np.uint8)
    >>> bright = generator.integers(160, 255, (6, 64, 64, 3), dtype=np.uint8)
    >>> X = np.concatenate([dark, bright])
    >>> clf = Classifier(backend="onnxruntime").fit(X, ["dark"] * 6 + ["bright"] * 6)
    >>> clf.classes_.tolist(), clf.predict(X[[0, 11]]).tolist()
    (['bright', 'dark'], ['dark', 'bright'])
    """

    model_: Model
    classes_: npt.NDArray[Any]
    history_: History | None

    def __init__(
        self,
        network: str | Network | Model | object = "mobilenet_v2",
        *,
        layer: str = "embedding",
        C: float | None = None,
        class_weight: ClassWeight = None,
        weights: AnyWeights = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        initialization: str = "he",
        random_state: RandomState = 0,
        progress: bool | None = None,
        fine_tuning: FineTuning | None = None,
        precision: str = FLOAT32,
        cache: CacheParameter = None,
    ) -> None:
        super().__init__(
            network,
            weights=weights,
            backend=backend,
            device=device,
            preprocessing=preprocessing,
            batch_size=batch_size,
            initialization=initialization,
            random_state=random_state,
            progress=progress,
            precision=precision,
        )
        self.layer = layer
        self.C = C
        self.class_weight = class_weight
        self.fine_tuning = fine_tuning
        self.cache = cache
        self._fitted_programs = ProgramCache()
        self._head_programs = HeadPrograms()
        self._open_cache = OpenCache()

    @classmethod
    def pretrained(
        cls,
        network: str = "mobilenet_v2",
        *,
        weights: str | os.PathLike[str] | None = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        cache: CacheParameter = None,
    ) -> Self:
        """Return a classifier for the classes that published weights were trained on.

        Parameters
        ----------
        network, weights, backend, device, preprocessing, batch_size, progress, cache
            As for the class.

        Raises
        ------
        DatasetError
            If the labels of the network's classes are unknown.

        Examples
        --------
        >>> from transferkit import Classifier
        >>> Classifier.pretrained("mobilenet_v2").classes_[284]
        'Siamese cat'
        """
        classifier = cls(
            network,
            weights=weights,
            backend=backend,
            device=device,
            preprocessing=preprocessing,
            batch_size=batch_size,
            progress=progress,
            cache=cache,
        )
        if backend is not None or device is not None:
            # Fail now, not at the first prediction, if one of them is not available.
            get_backend(classifier._chosen_backend(), device=device)
        model = load_model(network, weights, preprocessing, backend, device, progress=progress)
        if model.labels is None:
            raise DatasetError(
                f"the labels of {model.network.name}'s classes are unknown with these weights; fit "
                "a Classifier on labeled images, or extract layer 'logits' with a FeatureExtractor"
            )
        if "probabilities" not in model.network.layers:
            model = dataclasses.replace(model, network=add_probabilities(model.network))
        classifier._set_fitted(model, np.asarray(model.labels, dtype=object), None, [])
        classifier._fit_parameters = classifier._current_parameters()
        return classifier

    def fit(
        self,
        X: Images | LabelledImages | FeatureStore,
        y: Labels | LabelsOfSources | None = None,
        *,
        sample_weight: SampleWeight | None = None,
        on_error: str = "raise",
    ) -> Self:
        """Fit the classifier.

        The network runs on each image once. With ``fine_tuning``, it is then trained; Ctrl-C
        ends the training, and keeps the best weights so far, with a warning. With
        ``precision="int8"``, the activations are calibrated first, on at most 128 of the images,
        with a share of each class; for a store they are those of its extractor.

        Parameters
        ----------
        X
            If ``y`` is None, a folder with one subfolder of images for each class, or
            `transferkit.datasets.LabelledImages`; otherwise images, as for
            `transferkit.FeatureExtractor`: of a folder, the images in it and its subfolders, whose
            names do not matter then, in the order of `transferkit.list_images`. Or a
            `transferkit.FeatureStore` with the features of the same network, weights and
            preprocessing, of any backend; the images are not read then.
        y
            (n,) the label of each image: strings, numbers or booleans. For a store, a dict from
            source to label or `transferkit.datasets.LabelledImages`, matched by the paths or
            other sources; or one label for each row, or for each row and each skipped image, in
            the order of the store, which is that in which the images were added.
        sample_weight
            (n,) weight of each image, at least 0; None: all equal. An image of weight 0 is
            left out; one of weight k counts as k images.
        on_error
            ``"raise"``, or ``"skip"`` to leave out images that cannot be read or are in no class
            folder, class folders without images, and classes with too few images; ``skipped_``
            lists them.

        Returns
        -------
        Classifier
            The fitted classifier itself.

        Raises
        ------
        DatasetError
            If there are no images, only one class, not as many labels as images or, unless
            ``C`` is given, a class with only one image.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        ParameterError
            If ``C``, ``class_weight``, ``sample_weight`` or ``fine_tuning`` is invalid; if ``X``
            is a store of another network, other weights or another preprocessing.
        UnknownNameError
            If ``layer`` is not in the store.
        UnsupportedError
            If ``fine_tuning`` is given, and the backend cannot train or ``X`` is a store; with
            ``precision="int8"``: if the backend does not compute with 8-bit integers, or
            ``fine_tuning`` is given.
        """
        if self.C is not None:
            check_positive("C", self.C)
        fine_tuning = _check_fine_tuning(self.fine_tuning, X)
        skipped: list[Skipped] = []
        X, labels = with_labels(X, y, on_error=on_error, skipped=skipped, accepts_store=True)
        classes, indices = np.unique(labels, return_inverse=True)
        check_class_weight(self.class_weight, classes)
        weight_of_image = check_sample_weight(sample_weight, len(labels))
        self._select(classes, indices, weight_of_image, skip=on_error == "skip")
        seed = as_seed(self.random_state)
        if (fine_tuning is not None or self._is_int8()) and not isinstance(X, FeatureStore):
            X = image_sequence(X)
        program, model = self._load_to_fit(X, indices, weight_of_image, on_error=on_error)
        if fine_tuning is not None:
            check_trainable(model, self.layer, fine_tuning.trainable)
        features = self._features(program, model, X, len(labels), on_error=on_error)
        indices = of_rows(indices, features)
        if weight_of_image is not None:
            weight_of_image = of_rows(weight_of_image, features)
        used, weights, small = self._select(
            classes, indices, weight_of_image, skip=on_error == "skip"
        )
        skipped += features.skipped + small
        is_used = np.bincount(indices[used], minlength=len(classes)) > 0
        # The index of each class among those that are used.
        indices = (np.cumsum(is_used) - 1)[indices[used]]
        classes = classes[is_used]
        check_finite(features[self.layer], features.sources, self.layer)
        activations = features[self.layer][used]
        embeddings = l2_normalize(activations.reshape(len(activations), -1))
        seed_of_folds = int(as_generator(seed).integers(_SEED_OF_FOLDS))
        head = self._fits().head(
            embeddings,
            indices,
            C=None if self.C is None else float(self.C),
            seed=seed_of_folds,
            sample_weight=weights,
        )
        fitted = _with_head(model, head, classes, self.layer, flatten=activations.ndim > 2)
        fitted, known = _with_known_scores(fitted, embeddings, indices, seed_of_folds, self._fits())
        # The fitted network is a program of its own, with its own copy of the weights.
        program.release()
        history = None
        if fine_tuning is not None:
            data = TrainingImages(
                [X[index] for index in features.indices[used]],  # type: ignore[index]
                [features.sources[row] for row in used],
                indices,
                np.ones(len(used)) if weights is None else weights,
            )
            train, validation, rows = self._split(
                data, classes, fine_tuning, seed, model.preprocessing, on_error, skipped
            )
            start = fitted
            if len(rows) < len(indices):
                part = self._fits().head(
                    embeddings[rows],
                    indices[rows],
                    C=head.C,
                    seed=seed_of_folds,
                    sample_weight=None if weights is None else weights[rows],
                )
                start = with_tuned(fitted, {"head.weight": part.weight, "head.bias": part.bias})
            is_refit = start is not fitted and fine_tuning.refit
            tuned = fine_tune_model(
                start,
                program.backend,
                train,
                validation,
                fine_tuning,
                refit=RefitStart(fitted, data) if is_refit else None,
                start=PROBE,
                seed=seed,
                progress=self.progress,
            )
            history = tuned.history
            # Of the probe, the one that is fitted to all images is kept.
            if tuned.model is not start:
                fitted, known = self._with_unknown_score(
                    tuned, program.backend, data, train, validation, seed_of_folds
                )
        self._set_fitted(
            fitted, classes, head.C, skipped, head.cv_accuracy, len(indices), history, known
        )
        self._fit_parameters = self._current_parameters()
        self._fitted_files: frozenset[str] = _files([features.sources[row] for row in used])
        _LOGGER.info("fitted classes %s with C = %g", format_labels(classes.tolist()), head.C)
        return self

    def _features(
        self,
        program: Program,
        model: Model,
        X: Images | FeatureStore,
        num_labels: int,
        *,
        on_error: str,
    ) -> Features:
        """Return the features of images to fit to, computed or from a store."""
        if isinstance(X, FeatureStore):
            return read_stored_features(X, program, model, self.layer, num_labels)
        return compute_features(
            program,
            model.preprocessing,
            X,
            [self.layer],
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
            cache=self._open_cache.layers(self.cache, program, model, [self.layer]),
        )

    def fine_tune(
        self,
        X: Images | LabelledImages,
        fine_tuning: FineTuning | None = None,
        *,
        y: Labels | None = None,
        sample_weight: SampleWeight | None = None,
        on_error: str = "raise",
    ) -> Self:
        """Train a fitted classifier further, on the same or on other images of its classes.

        Parameters
        ----------
        X, y, sample_weight, on_error
            As for `fit`; every label is one of ``classes_``.
        fine_tuning
            What is trained, and how; None: the defaults of `FineTuning`.

        Returns
        -------
        Classifier
            The classifier itself, with ``history_``. If nothing is better on the validation
            images, its weights are unchanged.

        Raises
        ------
        DatasetError
            If there are no images, or a label is not in ``classes_``.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        ParameterError
            If ``fine_tuning`` or ``sample_weight`` is invalid.
        UnsupportedError
            If the backend cannot train, or the classifier computes with 8-bit integers.
        """
        check_is_fitted(self, "classes_")
        if self.model_.calibration is not None:
            raise _int8_training_error("the classifier was fitted with")
        settings = _check_fine_tuning(fine_tuning) or FineTuning()
        seed = as_seed(self.random_state)
        skipped: list[Skipped] = []
        data = self._labeled_images(X, y, sample_weight, on_error=on_error, skipped=skipped)
        wrapped = self.model_.wrapped
        backend = get_backend(
            self.backend if wrapped is None else wrapped.backend,
            needs=TRAINING,
            device=self.device if wrapped is None else None,
        )
        train, validation, _ = self._split(
            data, self.classes_, settings, seed, self.model_.preprocessing, on_error, skipped
        )
        is_split = len(train.images) < len(data.images)
        if is_split and validation is not None:
            known = self._fitted_files.intersection(validation.sources)
            if known:
                warn(
                    f"{len(known)} of the {len(validation.images)} validation images are images "
                    "that the classifier was fitted to, so that training will hardly seem to "
                    "improve it; pass other images, validation=None, or fine_tuning to Classifier "
                    "instead"
                )
        tuned = fine_tune_model(
            self.model_,
            backend,
            train,
            validation,
            settings,
            refit=RefitStart(self.model_, data) if is_split and settings.refit else None,
            start="start",
            seed=seed,
            progress=self.progress,
        )
        if tuned.model is not self.model_:
            seed_of_folds = int(as_generator(seed).integers(_SEED_OF_FOLDS))
            self.model_, self._known_scores = self._with_unknown_score(
                tuned, backend, data, train, validation, seed_of_folds
            )
            self.temperature_ = temperature_of(self.model_)
        self.history_ = tuned.history
        self.skipped_ = skipped
        self._fitted_files |= _files(data.sources)
        return self

    def plot_history(self, path: str | os.PathLike[str]) -> None:
        """Draw the loss and the accuracy over the epochs of the last fine-tuning.

        Of two runs it is the first one, which has validation images; ``history_.refit.plot`` draws
        the one on all images.

        Parameters
        ----------
        path
            The file to write, such as ``history.png``.

        Raises
        ------
        UnsupportedError
            If there was no fine-tuning, or Matplotlib is not installed.
        OutputError
            If the file cannot be written.
        """
        check_is_fitted(self, "classes_")
        if self.history_ is None:
            raise UnsupportedError(
                "the classifier was not fine-tuned, so there is no history; fit it with "
                "fine_tuning=FineTuning(), or call fine_tune"
            )
        self.history_.plot(path)

    def to_native(self) -> object:
        """Return the fitted network as a model object of the backend's framework.

        Returns
        -------
        object
            As `transferkit.FeatureExtractor.to_native`, from pixels to the logits of
            ``classes_``. Its parameters have the names of the weights' source, and the new head
            is ``head``. If the network is an object of a framework, the tuned copy of that object
            without the new head is returned.

        Raises
        ------
        UnsupportedError
            If the backend's framework has no model objects.
        """
        check_is_fitted(self, "classes_")
        wrapped = self.model_.wrapped
        backend = get_backend(
            self.backend if wrapped is None else wrapped.backend,
            device=self.device if wrapped is None else None,
        )
        native = self.model_.program(backend).to_native()
        if wrapped is None:
            attach_metadata(native, self.model_)
        return native

    def _labeled_images(
        self,
        X: Images | LabelledImages,
        y: Labels | None,
        sample_weight: SampleWeight | None,
        *,
        on_error: str = "raise",
        skipped: list[Skipped] | None = None,
    ) -> TrainingImages:
        """Return images of the classes of the fitted classifier, those of weight 0 left out."""
        X, labels = with_labels(X, y, on_error=on_error, skipped=skipped)
        weights = check_sample_weight(sample_weight, len(labels))
        images = image_sequence(X)
        indices = class_indices(labels, self.classes_)
        combined = combine_weights(self.classes_, indices, weights, self.class_weight)
        data = TrainingImages(
            [*images],
            [source_name(image, index) for index, image in enumerate(images)],
            indices,
            combined,
        )
        if len(images) != len(labels):
            raise DatasetError(f"X has {len(images)} images, but y has {len(labels)} labels")
        is_read = np.ones(len(labels), bool)
        if on_error == "skip":
            is_read = self._are_readable(data.images, self.model_.preprocessing, skipped)
        rows = np.flatnonzero(is_read & (combined > 0))
        if not len(rows):
            raise DatasetError("no images are left to train on")
        return data.take(rows)

    def _are_readable(
        self,
        images: Sequence[ImageLike],
        preprocessing: Preprocessing,
        skipped: list[Skipped] | None,
    ) -> npt.NDArray[np.bool_]:
        """Return whether each image can be read, and append the others to ``skipped``."""
        is_read = np.zeros(len(images), bool)
        for batch in stream_batches(
            images,
            preprocessing,
            batch_size=self.batch_size,
            on_error="skip",
            skipped=skipped,
            group_sizes=True,
        ):
            is_read[batch.indices] = True
        return is_read

    def _split(
        self,
        data: TrainingImages,
        classes: npt.NDArray[Any],
        settings: FineTuning,
        seed: int,
        preprocessing: Preprocessing,
        on_error: str,
        skipped: list[Skipped],
    ) -> tuple[TrainingImages, TrainingImages | None, npt.NDArray[np.intp]]:
        """Return the training images, the validation images, and the rows of the former."""
        everything = np.arange(len(data.classes))
        validation = settings.validation
        if validation is None:
            return data, None, everything
        if is_number(validation):
            generator = generator_for(seed, SPLIT)
            rows, held_out = split_by_class(data.classes, classes, validation, generator)
            return data.take(rows), data.take(held_out), rows
        X, y = validation if isinstance(validation, tuple) else (validation, None)
        images, labels = with_labels(X, y, on_error=on_error, skipped=skipped)  # type: ignore[arg-type]
        indices = class_indices(labels, classes, of="validation")
        sequence = [*image_sequence(images)]
        sources = [source_name(image, index) for index, image in enumerate(sequence)]
        if on_error == "skip":
            rows = np.flatnonzero(self._are_readable(sequence, preprocessing, skipped))
            sequence, sources = [sequence[row] for row in rows], [sources[row] for row in rows]
            indices = indices[rows]
        check_validation_classes(indices, classes)
        weights = combine_weights(classes, indices, None, self.class_weight)
        return data, TrainingImages(sequence, sources, indices, weights), everything

    def _with_unknown_score(
        self,
        tuned: FineTuned,
        backend: Backend,
        data: TrainingImages,
        train: TrainingImages,
        validation: TrainingImages | None,
        seed: int,
    ) -> tuple[Model, KnownScores | None]:
        """Return a fine-tuned model with a score of unknown images, and those of known images.

        These are the scores of the validation images by the model that was not trained on them:
        like a distance in standard deviations, they hardly depend on the scale of an embedding.
        Without validation images they are cross-validated, and too low, since the network was
        trained on all images.
        """
        is_refit = tuned.model is not tuned.compared
        used = data if is_refit or validation is None else train
        embeddings = self._embeddings(tuned.model, backend, used)
        model, known = _with_known_scores(tuned.model, embeddings, used.classes, seed, self._fits())
        if known is None or validation is None:
            return model, known
        if is_refit:
            embeddings = self._embeddings(tuned.compared, backend, train)
        weights = fit_distance(embeddings, train.classes)
        held_out = self._embeddings(tuned.compared, backend, validation)
        return model, KnownScores.of(distances(held_out, weights))

    def _embeddings(
        self, model: Model, backend: Backend, data: TrainingImages
    ) -> npt.NDArray[np.float32]:
        """Return the input of a model's logits for some images."""
        (layer,) = model.network.node("logits").inputs
        program = model.program(backend)
        features = compute_features(
            program,
            model.preprocessing,
            data.images,
            [layer],
            batch_size=self.batch_size,
            on_error="raise",
            progress=self.progress,
        )
        program.release()
        return features[layer]

    def _load_to_fit(
        self,
        X: Images | FeatureStore,
        indices: npt.NDArray[np.intp],
        weight_of_image: npt.NDArray[np.float64] | None,
        *,
        on_error: str,
    ) -> tuple[Program, Model]:
        """Return the program and the model to fit with, calibrated if the precision is int8."""
        if not self._is_int8():
            return self._load(needs=INFERENCE if self.fine_tuning is None else TRAINING)
        if self.fine_tuning is not None:
            raise _int8_training_error("fine_tuning is given with")
        if isinstance(X, FeatureStore):
            self._set_calibration(stored_calibration(X.info, X.folder))
            return self._load()
        images = image_sequence(X)
        if len(images) != len(indices):
            raise DatasetError(f"X has {len(images)} images, but y has {len(indices)} labels")
        used = np.arange(len(indices))
        if weight_of_image is not None:
            used = np.flatnonzero(weight_of_image)
        # Evenly spaced in the classes one after the other: a share of each.
        by_class = used[np.argsort(indices[used], kind="stable")]
        number = min(len(by_class), MAX_CALIBRATION_IMAGES)
        rows = sorted(by_class[np.arange(number) * len(by_class) // number])
        program, model = self._load_float32(needs=INT8)
        calibration = calibrate_on_images(
            program,
            model,
            [images[row] for row in rows],
            on_error=on_error,
            progress=self.progress,
        )
        self._set_calibration(calibration)
        _LOGGER.info("calibrated on %d images", calibration.num_images)
        return self._load()

    def _select(
        self,
        classes: npt.NDArray[Any],
        indices: npt.NDArray[np.intp],
        weight_of_image: npt.NDArray[np.float64] | None,
        *,
        skip: bool,
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64] | None, list[Skipped]]:
        """Return the rows of the images to fit to, their weights, and the classes left out.

        Parameters
        ----------
        classes
            (c,) the labels of the classes.
        indices
            (n,) the index of each image's class in ``classes``.
        weight_of_image
            (n,) the weight of each image; None: all equal.
        skip
            Whether classes with too few images are left out.

        Raises
        ------
        DatasetError
            If there are not two classes of enough images.
        """
        # Cross-validation needs an image of each class to train on and one to test on.
        min_images = 2 if self.C is None else 1
        weighted = weight_of_image is not None or self.class_weight is not None
        weights = combine_weights(classes, indices, weight_of_image, self.class_weight)
        used = np.flatnonzero(weights > 0)
        counts = np.bincount(indices[used], minlength=len(classes))
        is_small = counts < min_images
        small: list[Skipped] = []
        # If too few classes would be left, the error names those that are too small.
        if skip and (~is_small).sum() > 1:
            small = list_small_classes(classes, counts, min_images)
            used = used[~is_small[indices[used]]]
            counts[is_small] = 0
        check_classes(classes, counts, min_images=min_images, weighted=weighted)
        return used, weights[used] if weighted else None, small

    def decision_function(self, X: Images) -> npt.NDArray[np.float32]:
        """Return the logits of each image, of which the probabilities are the softmax.

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`.

        Returns
        -------
        array
            (n, c) float32, columns as in ``classes_``; with two classes (n,), the logit of
            ``classes_[1]`` minus that of ``classes_[0]``, as in scikit-learn.

        Raises
        ------
        ImageError
            If an image cannot be read.
        DatasetError
            If there are no images.
        """
        check_is_fitted(self, "classes_")
        layers = self.model_.network.layers
        layer = SCALED_LOGITS if SCALED_LOGITS in layers else "logits"
        logits = self._outputs(X, layer, on_error="raise")[layer]
        if logits.shape[1] == 2:
            logits = logits[:, 1] - logits[:, 0]
        return logits

    def predict_proba(self, X: Images, *, on_error: str = "raise") -> npt.NDArray[np.float32]:
        """Return the probability of each class for each image.

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`.
        on_error
            ``"raise"``, or ``"skip"`` to return a row of NaN for each image that cannot be read,
            with a warning that names up to three of them.

        Returns
        -------
        array
            (n, c) float32, in [0, 1], columns as in ``classes_``; rows sum to 1.

        Raises
        ------
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images.
        """
        return self._rows(X, "probabilities", on_error=on_error)["probabilities"]

    def predict(
        self,
        X: Images,
        *,
        on_error: str = "raise",
        unknown: Hashable | None = None,
        known_share: float = KNOWN_SHARE,
    ) -> npt.NDArray[Any]:
        """Return the most probable class of each image.

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`.
        on_error
            ``"raise"``, or ``"skip"`` to return None for each image that cannot be read, with a
            warning that names up to three of them.
        unknown
            What to return for images that are far from the training images, such as
            ``"none of these"``; None: their most probable class too.
        known_share
            The share of images of the classes that keep their class, in (0, 1]; see
            `unknown_threshold`.

        Returns
        -------
        array
            (n,) entries of ``classes_``; of dtype object if there is a None, or ``unknown`` is of
            another type than the classes.

        Raises
        ------
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images.
        ParameterError
            If ``unknown`` is a class, or ``known_share`` is not in (0, 1].
        UnsupportedError
            If ``unknown`` is given, and the classifier has no score of unknown images.

        Examples
        --------
        >>> from transferkit import Classifier
        >>> from transferkit.demo import CAT, TRAIN
        >>> Classifier(backend="onnxruntime").fit(TRAIN).predict([CAT], unknown="none of these")
        array(['none of these'], dtype='<U13')
        """
        check_is_fitted(self, "classes_")
        if unknown is None:
            probabilities = self.predict_proba(X, on_error=on_error)
            is_unknown = np.zeros(len(probabilities), bool)
        else:
            if unknown in self.classes_.tolist():
                raise ParameterError(
                    f"unknown is {shorten(unknown)}, which is one of the classes; expected another "
                    "label"
                )
            threshold = self.unknown_threshold(known_share)
            rows = self._rows(X, "probabilities", UNKNOWN_SCORE, on_error=on_error)
            probabilities = rows["probabilities"]
            is_unknown = rows[UNKNOWN_SCORE][:, 0] > threshold
        # Only images that cannot be read have a row of NaN.
        unread = np.isnan(probabilities[:, 0])
        if not unread.any() and unknown is None:
            return np.asarray(self.classes_[probabilities.argmax(axis=1)])
        predicted = np.full(len(probabilities), None, object)
        best = probabilities[~unread].argmax(axis=1)
        predicted[~unread] = self.classes_[best].tolist()
        for row in np.flatnonzero(is_unknown):
            predicted[row] = unknown
        if unread.any() or not _is_of_type(unknown, self.classes_.dtype):
            return predicted
        return np.asarray(predicted.tolist())

    def unknown_score(self, X: Images, *, on_error: str = "raise") -> npt.NDArray[np.float32]:
        """Return how far each image is from the training images.

        The score is the squared Mahalanobis distance of the embedding to the mean of the nearest
        class, divided by the number of dimensions (Lee et al., 2018, "A Simple Unified Framework
        for Detecting Out-of-Distribution Samples and Adversarial Attacks").

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`.
        on_error
            ``"raise"``, or ``"skip"`` to return NaN for each image that cannot be read, with a
            warning that names up to three of them.

        Returns
        -------
        array
            (n,) float32; higher is further. `unknown_threshold` has a limit for it.

        Raises
        ------
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images.
        UnsupportedError
            If the classifier was not fitted with this version of transferkit, is a pretrained
            one, or was last trained on fewer than two images of a class.

        Examples
        --------
        >>> from transferkit import Classifier
        >>> from transferkit.demo import CAT, TEST, TRAIN
        >>> classifier = Classifier(backend="onnxruntime").fit(TRAIN)
        >>> limit = classifier.unknown_threshold()
        >>> (classifier.unknown_score([CAT]) > limit).tolist()
        [True]
        """
        self._check_has_unknown_score()
        return self._rows(X, UNKNOWN_SCORE, on_error=on_error)[UNKNOWN_SCORE][:, 0]

    def unknown_threshold(self, known_share: float = KNOWN_SHARE) -> float:
        """Return the score that a share of the images of the classes do not exceed.

        Parameters
        ----------
        known_share
            The share of images of the classes that keep their class, in (0, 1]: the scores are
            those of training images, each by a score that was fitted without it, or of the
            validation images of a fine-tuning.

        Raises
        ------
        ParameterError
            If ``known_share`` is not in (0, 1].
        UnsupportedError
            As for `unknown_score`.
        """
        check_positive("known_share", known_share)
        if known_share > 1:
            raise ParameterError(f"known_share is {known_share:g}; expected a share in (0, 1]")
        return self._check_has_unknown_score().threshold(known_share)

    def _check_has_unknown_score(self) -> KnownScores:
        check_is_fitted(self, "classes_")
        if self._known_scores is None or UNKNOWN_SCORE not in self.model_.network.layers:
            raise UnsupportedError(
                "the classifier has no score of unknown images, since it is a pretrained one, was "
                "saved by an earlier transferkit, or was last trained on fewer than two images of "
                "a class; fit it again, with at least two images of each class"
            )
        return self._known_scores

    def predict_top(
        self, X: Images, k: int = 5, *, on_error: str = "raise"
    ) -> list[list[Prediction]]:
        """Return the ``k`` most probable classes of each image, most probable first.

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`.
        k
            At least 1; all classes are returned if there are fewer.
        on_error
            ``"raise"``, or ``"skip"`` to return an empty list for each image that cannot be read,
            with a warning that names up to three of them.

        Returns
        -------
        list of list of Prediction
            One list for each image.

        Raises
        ------
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        ParameterError
            If ``k`` is less than 1.
        """
        check_is_fitted(self, "classes_")
        k = check_integer("k", k, 1)
        return [
            [] if np.isnan(row[0]) else top_predictions(self.classes_, row, k)
            for row in self.predict_proba(X, on_error=on_error)
        ]

    def score(
        self,
        X: Images | LabelledImages,
        y: Labels | None = None,
        sample_weight: SampleWeight | None = None,
    ) -> float:
        """Return the accuracy.

        Parameters
        ----------
        X, y
            As for `fit`.
        sample_weight
            (n,) weight of each image, at least 0; None: all equal.

        Returns
        -------
        float
            In [0, 1]. A label that is not in ``classes_`` counts as misclassified.

        Raises
        ------
        DatasetError
            If there are no images, not as many labels as images, or no label is in
            ``classes_``.
        ImageError
            If an image cannot be read.
        ParameterError
            If ``sample_weight`` is invalid.
        """
        check_is_fitted(self, "classes_")
        X, labels = with_labels(X, y)
        weights = check_sample_weight(sample_weight, len(labels))
        if set(self.classes_.tolist()).isdisjoint(labels.tolist()):
            raise unknown_labels_error(set(labels.tolist()), self.classes_)
        outputs = self._outputs(X, "probabilities", on_error="raise")
        expected = of_rows(labels, outputs)
        predicted = self.classes_[outputs["probabilities"].argmax(axis=1)]
        return float(np.average(predicted == expected, weights=weights))

    def evaluate(
        self, X: Images | LabelledImages, y: Labels | None = None, *, on_error: str = "raise"
    ) -> Evaluation:
        """Evaluate the classifier on labeled images.

        Parameters
        ----------
        X, y
            As for `fit`.
        on_error
            ``"raise"``, or ``"skip"`` to leave out images that cannot be read.

        Returns
        -------
        Evaluation
            Accuracy and other metrics, precision and recall per class, confusion matrix,
            misclassified images. It refers to the images, for the thumbnails of its report.

        Raises
        ------
        DatasetError
            If there are no images, not as many labels as images, or a label is not in
            ``classes_``.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        """
        check_is_fitted(self, "classes_")
        skipped: list[Skipped] = []
        X, labels = with_labels(X, y, on_error=on_error, skipped=skipped)
        indices = class_indices(labels, self.classes_)
        outputs = self._outputs(X, "probabilities", on_error=on_error)
        indices = of_rows(indices, outputs)
        provenance = describe_classifier(
            self.model_,
            backend=self._fitted_program().backend,
            parameters=repr(self),
            seed=self.random_state,
            C=self.C_,
            num_images=self.n_samples_fit_,
            skipped=self.skipped_,
        )
        return Evaluation(
            self.classes_,
            indices,
            outputs["probabilities"],
            outputs.sources,
            skipped + outputs.skipped,
            # Those of a generator are gone, and those in folders are found by their paths.
            images=tuple(X[index] for index in outputs.indices)
            if isinstance(X, (list, tuple, np.ndarray))
            else None,
            temperature=self.temperature_,
            history=self.history_,
            provenance=provenance,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a safetensors file that `load` reads on any backend.

        The file holds the network, its weights, its preprocessing, the classes, and the settings
        and the history of a fine-tuning. Settings with a function or with images are left out:
        the loaded classifier has ``fine_tuning=None`` then.

        Parameters
        ----------
        path
            The file to write; an existing file is replaced once the new one is complete.

        Raises
        ------
        OutputError
            If the file cannot be written.
        UnsupportedError
            If the network is an object of a framework.
        """
        check_is_fitted(self, "classes_")
        model = self.model_
        if model.wrapped is not None:
            raise UnsupportedError(
                f"{model.network.name} is a {type(model.wrapped.model).__name__}, which such a "
                "file cannot hold; save it with its framework and fit again after loading it, or "
                "pickle the classifier if you trust the file"
            )
        write_classifier(
            path,
            ClassifierFile(
                network=model.network,
                weights=model.weights,
                preprocessing=model.preprocessing,
                classes=self.classes_,
                C=self.C_,
                license=model.license,
                parameters=self._fit_parameters,
                history=None if self.history_ is None else self.history_.to_dict(),
                known_scores=self._known_scores,
                calibration=model.calibration,
            ),
        )

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to an ONNX file, from pixels to probabilities.

        The graph's input is ``pixels``, (batch, height, width, 3), RGB, float32 in [0, 1]; its
        outputs ``probabilities``, (batch, classes), and ``unknown_score``, (batch, 1), if the
        classifier has that score. The metadata has the preprocessing, the classes and, where
        known, the license of the weights; ``unknown_threshold`` is the default threshold.

        Parameters
        ----------
        path
            The file to write.

        Raises
        ------
        UnsupportedError
            If the network is an object of a framework, or has more than 2 GB of weights.
        OutputError
            If the file cannot be written.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import onnxruntime
        >>> from transferkit import Classifier
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "imagenet.onnx")
        ...     Classifier.pretrained("mobilenet_v2").export(path)
        ...     session = onnxruntime.InferenceSession(path)
        >>> session.get_modelmeta().custom_metadata_map["license"]
        'BSD-3-Clause'
        """
        from transferkit.models.export import export_onnx

        check_is_fitted(self, "classes_")
        layers, metadata = ["probabilities"], {}
        if self._known_scores is not None:
            layers.append(UNKNOWN_SCORE)
            metadata["unknown_threshold"] = repr(self.unknown_threshold())
        export_onnx(self.model_, layers, Path(path), metadata)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str | Backend | None = None,
        device: str | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        cache: CacheParameter = None,
    ) -> Self:
        """Read a classifier that `save` wrote.

        Parameters
        ----------
        path
            The file. Nothing in it is executed.
        backend, device, batch_size, progress, cache
            As for the class; independent of those that the file was written with.

        Raises
        ------
        FileFormatError
            If the file is of another kind, damaged, truncated, or written by a newer
            transferkit.
        UnknownNameError
            If the backend or its device does not exist.
        BackendNotInstalledError
            If the framework of the backend is not installed.
        """
        file = read_classifier(path)
        is_int8 = file.calibration is not None
        if backend is not None or device is not None or is_int8:
            # Fail now, not at the first prediction, if one of them is not available.
            try:
                chosen = get_backend(backend, needs=INT8 if is_int8 else INFERENCE, device=device)
            except UnsupportedError as error:
                raise UnsupportedError(
                    f"{shorten_path(path)} was fitted with precision={INT8!r}, which needs "
                    "backend='onnxruntime'; choose it, or fit again with "
                    f"precision={FLOAT32!r} ({error})"
                ) from error
            # Without a name, gradients may need another backend.
            backend = None if backend is None else chosen
        model = Model(
            file.network,
            file.weights,
            file.preprocessing,
            tuple(file.classes.tolist()),
            license=file.license,
            calibration=file.calibration,
        )
        parameters = file.parameters
        try:
            fine_tuning = (
                None
                if parameters.fine_tuning is None
                else settings_from_dict(parameters.fine_tuning)
            )
            history = None if file.history is None else History.from_dict(file.history)
        except (LookupError, TypeError, ValueError) as error:
            raise FileFormatError(f"{shorten_path(path)}: damaged: {error!r}") from error
        in_catalogue = parameters.network is not None and parameters.network in NETWORKS
        classifier = cls(
            parameters.network if in_catalogue else model,
            layer=parameters.layer,
            C=parameters.C,
            weights=parameters.weights if in_catalogue else None,
            backend=backend,
            device=device,
            preprocessing=file.preprocessing if in_catalogue else None,
            batch_size=batch_size,
            class_weight=dict(parameters.class_weight)
            if isinstance(parameters.class_weight, list)
            else parameters.class_weight,
            initialization=parameters.initialization,
            random_state=parameters.random_state,
            progress=progress,
            fine_tuning=fine_tuning,
            precision=INT8 if is_int8 else FLOAT32,
            cache=cache,
        )
        if file.calibration is not None:
            classifier._set_calibration(file.calibration)
        classifier._set_fitted(
            model, file.classes, file.C, [], history=history, known_scores=file.known_scores
        )
        classifier._fit_parameters = parameters
        return classifier

    def _current_parameters(self) -> FitParameters:
        """Return the parameters that are saved with a fitted classifier."""
        network, weights, class_weight = self.network, self.weights, self.class_weight
        seed = int(self.random_state) if isinstance(self.random_state, Integral) else None
        # A file of weights may not exist where the classifier is loaded.
        is_named = weights is None or (isinstance(weights, str) and not is_weights_file(weights))
        is_known = seed is not None if self._has_random_weights() else is_named
        return FitParameters(
            network=network if isinstance(network, str) and is_known else None,
            weights=weights if isinstance(weights, str) and is_known else None,
            C=None if self.C is None else float(self.C),
            random_state=seed or 0,
            layer=self.layer,
            class_weight=class_weight
            if isinstance(class_weight, str) or class_weight is None
            else [
                [label.item() if isinstance(label, np.generic) else label, float(weight)]
                for label, weight in class_weight.items()
            ],
            initialization=self.initialization,
            fine_tuning=self._saved_settings(),
        )

    def _saved_settings(self) -> dict[str, Any] | None:
        """Return the settings of the fine-tuning as plain data, if they are."""
        if self.fine_tuning is None:
            return None
        try:
            return settings_to_dict(self.fine_tuning)
        except UnsupportedError as error:
            _LOGGER.info("the classifier is saved without its fine_tuning: %s", error)
            return None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False  # A folder of class folders has the labels.
        tags.target_tags.one_d_labels = True
        return takes_images(tags)

    def _set_fitted(
        self,
        model: Model,
        classes: npt.NDArray[Any],
        C: float | None,
        skipped: list[Skipped],
        cv_accuracy: float | None = None,
        n_samples: int | None = None,
        history: History | None = None,
        known_scores: KnownScores | None = None,
    ) -> None:
        self.model_ = model
        self.temperature_ = temperature_of(model)
        # Of held-out images, for the threshold of the score of unknown images.
        self._known_scores = known_scores
        self.classes_ = classes
        self.C_ = C
        self.cv_accuracy_ = cv_accuracy
        self.n_samples_fit_ = n_samples
        self.skipped_ = skipped
        self.history_ = history
        # Unknown for a loaded classifier.
        self._fitted_files = frozenset()

    def _fits(self) -> CachedFits:
        return CachedFits(as_cache(self.cache))

    def _fitted_program(self) -> Program:
        """Return the program of the fitted model."""
        check_is_fitted(self, "classes_")
        wrapped = self.model_.wrapped
        backend = self.backend if wrapped is None else wrapped.backend
        program, _ = self._fitted_programs.get(
            (self.model_, backend),
            lambda: self.model_,
            lambda: backend,
            self.device,
            needs=INFERENCE if self.model_.calibration is None else INT8,
        )
        return program

    def _outputs(self, X: Images, *layers: str, on_error: str) -> Features:
        """Return the outputs of layers of the fitted model."""
        program, model = self._fitted_program(), self.model_
        # A cache has the embeddings, which do not depend on the head.
        embedding = None if self.cache is None else find_embedding(model.network)
        computed = layers if embedding is None else (embedding,)
        outputs = compute_features(
            program,
            model.preprocessing,
            X,
            computed,
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
            cache=self._open_cache.layers(self.cache, program, model, computed),
        )
        if embedding is not None:
            arrays = self._head_programs.run(
                model, program.backend, embedding, outputs[embedding], layers
            )
            outputs = dataclasses.replace(outputs, arrays=arrays)
        for layer in layers:
            check_finite(outputs[layer], outputs.sources, layer)
        return outputs

    def _rows(self, X: Images, *layers: str, on_error: str) -> dict[str, npt.NDArray[np.float32]]:
        """Return the outputs of layers (n, d), with a row of NaN for each image that is skipped."""
        check_is_fitted(self, "classes_")
        try:
            outputs = self._outputs(X, *layers, on_error=on_error)
        except NoneReadableError as error:
            shapes = self.model_.layers()
            arrays = {layer: np.empty((0, *shapes[layer]), np.float32) for layer in layers}
            outputs = Features(arrays, [], np.empty(0, np.intp), error.skipped)
        if not outputs.skipped:
            return dict(outputs)
        skipped, number = outputs.skipped, len(outputs.sources) + len(outputs.skipped)
        names = "; ".join(f"{skip.source}: {skip.reason}" for skip in skipped[:3])
        warn(
            f"no prediction for {len(skipped)} of {number} images, which cannot be read: "
            f"{names}{'; ...' if len(skipped) > 3 else ''}"
        )
        rows: dict[str, npt.NDArray[np.float32]] = {}
        for layer, array in outputs.items():
            rows[layer] = np.full((number, array.shape[1]), np.nan, np.float32)
            rows[layer][outputs.indices] = array
        return rows


def _with_known_scores(
    model: Model,
    embeddings: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    seed: int,
    fits: CachedFits,
) -> tuple[Model, KnownScores | None]:
    """Return a model with a score of unknown images, and the scores of held-out training images.

    The model is the given one if there are not two images of each class.
    """
    # A fine-tuning may have been on images of some of the classes only.
    if np.bincount(labels, minlength=len(model.labels or ())).min() < 2:
        return model, None
    weights, known = fits.unknown_score(embeddings, labels, seed=seed)
    return with_unknown_score(model, weights), known


def _is_of_type(label: Hashable, dtype: np.dtype[Any]) -> bool:
    """Return whether a label is a string, an integer or another number, as a type is of."""
    if dtype.kind in "iu":
        return isinstance(label, Integral) and not isinstance(label, bool)
    return isinstance(label, str) if dtype.kind == "U" else dtype.kind == "f" and is_number(label)


def _files(sources: Iterable[str]) -> frozenset[str]:
    """Return the sources that are paths, and not positions of arrays."""
    return frozenset(source for source in sources if not source.startswith("images["))


def _with_head(
    model: Model, head: Head, classes: npt.NDArray[Any], layer: str, *, flatten: bool
) -> Model:
    """Return a model with a head for ``classes`` on a layer, which is flattened or a vector."""
    network = replace_head(
        model.network,
        len(classes),
        embedding_size=head.weight.shape[1],
        name=f"{model.network.name} for {len(classes)} classes",
        layer=layer,
        flatten=flatten,
    )
    arrays = {**model.weights, "head.weight": head.weight, "head.bias": head.bias}
    fitted = dataclasses.replace(
        model,
        network=network,
        weights={name: arrays[name] for name in network.parameters},
        labels=tuple(classes.tolist()),
        calibration=_calibration_before(layer, model),
    )
    return with_temperature(fitted, head.temperature)


def _check_fine_tuning(fine_tuning: object, X: object = None) -> FineTuning | None:
    """Return the settings of fine-tuning, checked also against what is fitted to; None for none."""
    if fine_tuning is None:
        return None
    if not isinstance(fine_tuning, FineTuning):
        raise ParameterError(
            f"fine_tuning is {shorten(fine_tuning)}; expected a FineTuning, such as "
            "FineTuning(epochs=5), or None"
        )
    fine_tuning.check()
    if isinstance(X, FeatureStore):
        raise UnsupportedError(
            "fine_tuning trains the network on images, and X is a store of features, which has "
            "none; pass the images, or fine_tuning=None"
        )
    return fine_tuning


def _calibration_before(layer: str, model: Model) -> Calibration | None:
    """Return the calibration of a model without that of the layers after ``layer``.

    A new head may have layers with the names of those that it replaces.
    """
    if model.calibration is None:
        return None
    return model.calibration.of_layers(keep_needed(model.network, [layer]).layers)


def _int8_training_error(which: str) -> UnsupportedError:
    return UnsupportedError(
        f"{which} precision={INT8!r}, in which networks cannot be trained; choose "
        f"precision={FLOAT32!r}"
    )


def top_predictions(
    classes: npt.NDArray[Any], probabilities: npt.NDArray[np.float32], k: int
) -> list[Prediction]:
    """Return the ``k`` most probable of ``classes`` (c,) by ``probabilities`` (c,), sorted."""
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [
        Prediction(label, float(probability))
        for label, probability in zip(classes[order].tolist(), probabilities[order], strict=True)
    ]
