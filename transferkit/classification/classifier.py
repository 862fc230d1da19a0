"""`Classifier`: labelled pictures in, a network that tells their classes apart out."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import confusion_matrix
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from transferkit.backends import Backend, get_backend
from transferkit.classification.evaluation import Evaluation, Mistake
from transferkit.classification.head import fit_head
from transferkit.classification.saved_file import (
    ClassifierFile,
    FitParameters,
    read_classifier,
    write_classifier,
)
from transferkit.errors import DatasetError, ParameterError, UnsupportedError
from transferkit.features.extraction import Features, compute_features
from transferkit.images import Images, Preprocessing, Skipped, count_images, list_labelled_images
from transferkit.models.model import AnyWeights, LazyProgram, Model, load_model
from transferkit.networks import NETWORKS, Network, add_probabilities, replace_head
from transferkit.weights.own_file import RANDOM

__all__ = ["Classifier", "Prediction"]


# What labels may be, by NumPy's letter for their type; all must be of one sort.
_KINDS = {"U": str, "b": bool, "i": float, "u": float, "f": float}


class Prediction(NamedTuple):
    """One of the classes a picture may be of.

    Attributes
    ----------
    label
        The class.
    probability
        How likely the classifier finds it, in [0, 1].
    """

    label: Hashable
    probability: float


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies pictures: logistic regression on what a trained network makes of them.

    A scikit-learn classifier: it stands in ``cross_val_score`` and ``GridSearchCV``. Once
    fitted it can be shared between threads.

    Parameters
    ----------
    network
        A name (``transferkit networks`` lists them), a `transferkit.networks.Network`, or a
        model of your own: a ``torch.nn.Module`` or a ``keras.Model``, used where it is.
    C
        Inverse strength of the regularisation, greater than 0, for embeddings scaled to
        length 1; None chooses it by cross-validation.
    weights
        The name of published weights, a file, ``"random"``, or an array for each parameter, as
        for `transferkit.FeatureExtractor`.
    backend, device
        What computes, as for `transferkit.FeatureExtractor`.
    preprocessing
        How pictures are resized and cropped; None means as the weights expect it.
    batch_size
        How many pictures the network gets at once.
    seed
        For drawing the folds of the cross-validation, and random weights: a number, or a
        generator, which is drawn from.
    progress
        Whether a progress bar is shown on standard error; None: only on a terminal.

    Attributes
    ----------
    classes_ : array
        (c,) the classes, sorted; for a pretrained classifier in the order of its logits.
    network_ : Network
        From pixels to ``logits`` and ``probabilities`` of the classes, in one.
    weights_ : mapping of str to array
        Its weights.
    wrapped_ : WrappedModel or None
        What computes the layers that are a framework's own model, if any.
    preprocessing_ : Preprocessing
        How it wants pictures.
    C_ : float or None
        The strength that was used; None for a pretrained classifier.
    skipped_ : list of Skipped
        The pictures that `fit` left out, and why.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import Classifier
    >>> generator = np.random.default_rng(0)
    >>> dark = generator.integers(0, 90, (6, 64, 64, 3), dtype=np.uint8)
    >>> bright = generator.integers(160, 255, (6, 64, 64, 3), dtype=np.uint8)
    >>> images = np.concatenate([dark, bright])
    >>> clf = Classifier(backend="onnxruntime").fit(images, ["dark"] * 6 + ["bright"] * 6)
    >>> clf.classes_.tolist(), clf.predict(images[[0, 11]]).tolist()
    (['bright', 'dark'], ['dark', 'bright'])
    """

    def __init__(
        self,
        network: str | Network | object = "mobilenet_v2",
        *,
        C: float | None = None,  # noqa: N803 - scikit-learn's name for it
        weights: AnyWeights = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        seed: int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> None:
        self.network = network
        self.C = C
        self.weights = weights
        self.backend = backend
        self.device = device
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self._body_program = LazyProgram()
        self._program = LazyProgram()

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
    ) -> Self:
        """The network with the classes that its published weights were trained for.

        Parameters
        ----------
        network, weights, backend, device, preprocessing, batch_size, progress
            As for the class.

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
        )
        model = load_model(network, weights, preprocessing, progress=progress)
        if model.labels is None:
            raise DatasetError(
                f"what the classes of {model.network.name} are called is not known with these "
                "weights: fit a Classifier on labelled pictures, or ask a FeatureExtractor for "
                "layer 'logits', which needs no names"
            )
        model = Model(
            add_probabilities(model.network), model.weights, model.preprocessing, model.labels
        )
        classifier._set_fitted(model, np.asarray(model.labels, dtype=object), None, [])
        classifier._fit_parameters = classifier._parameters()
        return classifier

    def fit(
        self,
        images: Images,
        labels: Sequence[Hashable] | npt.NDArray[Any] | None = None,
        *,
        on_error: str = "raise",
    ) -> Self:
        """Learn to tell classes apart.

        The network runs over each picture once.

        Parameters
        ----------
        images
            A folder with one subfolder of pictures for each class, where ``labels`` is None;
            else pictures as for `transferkit.FeatureExtractor`.
        labels
            (n,) one label for each picture: texts, numbers or truth values.
        on_error
            ``"raise"``, or ``"skip"`` to leave out pictures that cannot be read; `skipped_`
            lists them.

        Returns
        -------
        Classifier
            Itself.

        Raises
        ------
        DatasetError
            If there are no pictures, one class only, a class of one picture, or not as many
            labels as pictures.
        ImageError
            If a picture cannot be read and ``on_error`` is ``"raise"``.
        ParameterError
            If ``C`` is not greater than 0.
        """
        if self.C is not None and not (np.isfinite(self.C) and self.C > 0):
            raise ParameterError(f"C is {self.C!r}; it must be a number greater than 0, or None")
        strength = None if self.C is None else float(self.C)
        images, labels = _with_labels(images, labels)
        _check_classes(labels)
        program, model = self._body_program.get(
            (
                self.network,
                self.weights,
                self.preprocessing,
                # Of published weights it changes nothing but the folds.
                self.seed if self.weights == RANDOM else None,
            ),
            lambda: load_model(
                self.network,
                self.weights,
                self.preprocessing,
                self.backend,
                self.device,
                seed=self.seed,
                progress=self.progress,
            ),
            self.backend,
            self.device,
        )
        found = compute_features(
            program,
            model.preprocessing,
            images,
            ["embedding"],
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
        )
        labels = _labels_of_rows(labels, found)
        _check_classes(labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        seed = int(np.random.default_rng(self.seed).integers(2**31))
        embeddings = _unit_length(found["embedding"])
        weight, bias, strength = fit_head(embeddings, numbers, strength=strength, seed=seed)
        network = replace_head(
            model.network,
            len(classes),
            embedding_size=embeddings.shape[1],
            name=f"{model.network.name} for {len(classes)} classes",
        )
        arrays = {**model.weights, "head.weight": weight, "head.bias": bias}
        arrays = {name: arrays[name] for name in network.parameters}
        labels = tuple(map(str, classes))
        fitted = Model(network, arrays, model.preprocessing, labels, model.wrapped)
        self._set_fitted(fitted, classes, strength, found.skipped)
        self._fit_parameters = self._parameters()
        return self

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """How likely each picture is of each class.

        Parameters
        ----------
        images
            As for `transferkit.FeatureExtractor`.

        Returns
        -------
        array
            (n, c) float32, in [0, 1]; each row sums to 1; columns are as in `classes_`.

        Raises
        ------
        ImageError
            If a picture cannot be read; so that rows always match the input.
        DatasetError
            If there are no pictures.
        """
        return self._probabilities(images, on_error="raise")["probabilities"]

    def predict(self, images: Images) -> npt.NDArray[Any]:
        """The likeliest class of each picture.

        Parameters
        ----------
        images
            As for `transferkit.FeatureExtractor`.

        Returns
        -------
        array
            (n,) entries of `classes_`.

        Raises
        ------
        ImageError
            If a picture cannot be read; so that rows always match the input.
        DatasetError
            If there are no pictures.
        """
        best = self.predict_proba(images).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_top(self, images: Images, k: int = 5) -> list[list[Prediction]]:
        """The ``k`` likeliest classes of each picture, the likeliest first.

        Parameters
        ----------
        images
            As for `transferkit.FeatureExtractor`.
        k
            At least 1. Where there are fewer classes, all are given.

        Returns
        -------
        list of list of Prediction
            One list for each picture.

        Raises
        ------
        ImageError
            If a picture cannot be read.
        ParameterError
            If ``k`` is less than 1.
        """
        check_is_fitted(self, "classes_")
        if not isinstance(k, Integral) or k < 1:
            raise ParameterError(f"k is {k!r}; expected a whole number, at least 1")
        return [top_predictions(self.classes_, row, k) for row in self.predict_proba(images)]

    def score(
        self,
        images: Images,
        labels: Sequence[Hashable] | npt.NDArray[Any] | None = None,
        sample_weight: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
    ) -> float:
        """The share of pictures that are taken for what they are.

        Parameters
        ----------
        images, labels
            As for `fit`.
        sample_weight
            (n,) how much each picture counts; None means alike.

        Returns
        -------
        float
            In [0, 1]. A label that is none of `classes_` counts as a mistake.

        Raises
        ------
        DatasetError
            If there are no pictures, labels of another number, or none of the labels is one
            of `classes_`.
        ImageError
            If a picture cannot be read.
        """
        check_is_fitted(self, "classes_")
        images, labels = _with_labels(images, labels)
        known = set(self.classes_.tolist())
        if known.isdisjoint(labels.tolist()):
            raise self._unknown_labels(set(labels.tolist()))
        found = self._probabilities(images, on_error="raise")
        expected = _labels_of_rows(labels, found)
        predicted = self.classes_[found["probabilities"].argmax(axis=1)]
        return float(np.average(predicted == expected, weights=sample_weight))

    def evaluate(
        self,
        images: Images,
        labels: Sequence[Hashable] | npt.NDArray[Any] | None = None,
        *,
        on_error: str = "raise",
    ) -> Evaluation:
        """How good the classifier is on labelled pictures, and where it is wrong.

        Parameters
        ----------
        images, labels
            As for `fit`.
        on_error
            ``"raise"``, or ``"skip"`` to leave out pictures that cannot be read.

        Returns
        -------
        Evaluation
            Accuracy, precision and recall per class, confusion matrix, mistaken pictures.

        Raises
        ------
        DatasetError
            If there are no pictures, labels of another number, or a label that is none of
            `classes_`.
        ImageError
            If a picture cannot be read and ``on_error`` is ``"raise"``.
        """
        check_is_fitted(self, "classes_")
        images, labels = _with_labels(images, labels)
        row_of = {label: row for row, label in enumerate(self.classes_.tolist())}
        unknown = set(labels.tolist()) - row_of.keys()
        if unknown:
            raise self._unknown_labels(unknown)
        found = self._probabilities(images, on_error=on_error)
        expected = _labels_of_rows(labels, found)
        probabilities = found["probabilities"]
        best = probabilities.argmax(axis=1)
        predicted = self.classes_[best]
        mistakes = [
            Mistake(found.sources[row], label, taken_for, float(probabilities[row, best[row]]))
            for row, (label, taken_for) in enumerate(
                zip(expected.tolist(), predicted.tolist(), strict=True)
            )
            if label != taken_for
        ]
        mistakes.sort(key=lambda mistake: -mistake.probability)
        # Counted by place, since scikit-learn takes fractions for no classes.
        rows = [row_of[label] for label in expected.tolist()]
        matrix = confusion_matrix(rows, best, labels=range(len(row_of)))
        return Evaluation(self.classes_, matrix, mistakes, found.skipped)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to one safetensors file, which `load` reads.

        The file holds the network, its weights, the classes and how pictures are read:
        nothing else is needed to use it, on any backend.

        Parameters
        ----------
        path
            Of the file; what is there is replaced once the new file is whole.

        Raises
        ------
        OutputError
            If it cannot be written there.
        UnsupportedError
            If the network is a model of a framework's own.
        """
        check_is_fitted(self, "classes_")
        if self.wrapped_ is not None:
            raise UnsupportedError(
                f"{self.network_.name} runs a {type(self.wrapped_.model).__name__} of your own, "
                "which such a file cannot hold: save that model by its framework's means, and fit "
                "again once it is loaded, or pickle the whole classifier where you trust the file"
            )
        write_classifier(
            path,
            ClassifierFile(
                network=self.network_,
                weights=self.weights_,
                preprocessing=self.preprocessing_,
                classes=self.classes_,
                strength=self.C_,
                parameters=self._fit_parameters,
            ),
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str | Backend | None = None,
        device: str | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> Self:
        """A classifier that `save` wrote.

        Parameters
        ----------
        path
            Of the file. Nothing in it is ever run.
        backend, device, batch_size, progress
            As for the class; the file may have been written with any other.

        Raises
        ------
        FileFormatError
            If it is no such file, is damaged or cut short, holds other tensors than it says,
            or was written by a newer transferkit.
        """
        file = read_classifier(path)
        if backend is not None:
            # A backend that is not there is told of now, not at the first picture.
            backend = get_backend(backend, device=device)
        given = file.parameters
        is_known = given.network in NETWORKS
        classifier = cls(
            given.network if given.network is not None and is_known else file.network,
            C=given.C,
            weights=given.weights if is_known else file.weights,
            backend=backend,
            device=device,
            preprocessing=file.preprocessing,
            batch_size=batch_size,
            seed=given.seed,
            progress=progress,
        )
        model = Model(file.network, file.weights, file.preprocessing, None)
        classifier._set_fitted(model, file.classes, file.strength, [])
        classifier._fit_parameters = given
        return classifier

    def _parameters(self) -> FitParameters:
        """The parameters that are worth keeping with what was fitted."""
        return FitParameters(
            network=self.network if isinstance(self.network, str) else None,
            # Of a file the name, without the folders that it lies in on this machine.
            weights=Path(self.weights).name
            if isinstance(self.weights, (str, os.PathLike))
            else None,
            C=None if self.C is None else float(self.C),
            seed=self.seed if isinstance(self.seed, int) else 0,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _unknown_labels(self, unknown: set[Hashable]) -> DatasetError:
        return DatasetError(
            f"labels that are none of the classifier's classes: {_listed(sorted(unknown, key=str))}"
            f"; it has {_listed(self.classes_.tolist())}"
        )

    def _set_fitted(
        self,
        model: Model,
        classes: npt.NDArray[Any],
        strength: float | None,
        skipped: list[Skipped],
    ) -> None:
        self.network_ = model.network
        self.weights_ = model.weights
        self.wrapped_ = model.wrapped
        self.preprocessing_ = model.preprocessing
        self.classes_ = classes
        self.C_ = strength
        self.skipped_ = skipped

    def _probabilities(self, images: Images, *, on_error: str) -> Features:
        check_is_fitted(self, "classes_")
        program, model = self._program.get(
            (self.network_, self.weights_, self.preprocessing_),
            lambda: Model(self.network_, self.weights_, self.preprocessing_, None, self.wrapped_),
            self.backend,
            self.device,
        )
        return compute_features(
            program,
            model.preprocessing,
            images,
            ["probabilities"],
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
        )


def top_predictions(
    classes: npt.NDArray[Any], probabilities: npt.NDArray[np.float32], k: int
) -> list[Prediction]:
    """The ``k`` likeliest of ``classes`` (c,) by ``probabilities`` (c,), the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [
        Prediction(label, float(probability))
        for label, probability in zip(classes[order].tolist(), probabilities[order], strict=True)
    ]


def _listed(labels: Sequence[Hashable]) -> str:
    """The first few labels, and how many more there are."""
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return ", ".join(map(repr, labels[:5])) + more


def _with_labels(
    images: Images, labels: Sequence[Hashable] | npt.NDArray[Any] | None
) -> tuple[Images, npt.NDArray[Any]]:
    """Pictures and their labels, one for each; from a folder of labelled folders if need be."""
    if labels is None:
        if not isinstance(images, (str, os.PathLike)):
            raise DatasetError(
                "labels are missing: give one for each image, or the path of a folder with one "
                "subfolder of images for each class"
            )
        paths, names = list_labelled_images(images)
        return paths, np.asarray(names)
    array = _label_array(labels)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise DatasetError(f"labels[{place}] is {array[place]}; expected a number")
    number = count_images(images)
    if number is not None and number != len(array):
        raise DatasetError(f"there are {number} images but {len(array)} labels")
    return images, array


def _label_array(labels: Sequence[Hashable] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels as an array of one axis, and of the type that they have."""
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise DatasetError(f"labels are not one label for each image: {error}") from error
    if array.ndim != 1:
        raise DatasetError(f"labels have shape {array.shape}; expected one label for each image")
    if array.dtype == object or isinstance(labels, Sequence):
        # NumPy would make texts of numbers that stand among texts, and numbers of truth values.
        kinds = {_KINDS.get(np.dtype(type(label)).kind, type(label)) for label in labels}
        if len(kinds) > 1 or not kinds <= set(_KINDS.values()):
            types = sorted({type(label).__name__ for label in labels})
            raise DatasetError(
                f"labels are of type {', '.join(types)}; expected all text, all numbers or all "
                "truth values"
            )
        if array.dtype == object and kinds != {str}:
            array = np.asarray(array.tolist())
            if array.dtype == object:
                raise DatasetError("labels are numbers of more than 64 bits")
    if array.dtype.kind not in "OUbiuf":
        raise DatasetError(f"labels are {array.dtype}; expected text, numbers or truth values")
    return array


def _labels_of_rows(labels: npt.NDArray[Any], found: Features) -> npt.NDArray[Any]:
    """The labels of the pictures that were not left out."""
    number = len(found.sources) + len(found.skipped)
    if number != len(labels):
        raise DatasetError(f"there are {number} images but {len(labels)} labels")
    return labels[found.indices]


def _check_classes(labels: npt.NDArray[Any]) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 0:
        raise DatasetError("no images were given")
    if len(classes) == 1:
        raise DatasetError(
            f"all {len(labels)} images are of one class, {classes.tolist()[0]!r}; at least two "
            "are needed"
        )
    if counts.min() == 1:
        alone = classes[counts == 1].tolist()
        each = "class" if len(alone) == 1 else "each of the classes"
        raise DatasetError(f"only one image of {each} {_listed(alone)}; a class needs at least two")


def _unit_length(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the head's network computes before its matrix: ``l2_normalize`` of the table."""
    squares = np.sum(embeddings.astype(np.float64) ** 2, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (embeddings / np.sqrt(squares + 1e-12)).astype(np.float32)
    return unit
