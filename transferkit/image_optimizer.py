"""`ImageOptimizer`: pictures changed until a network sees in them what it is asked to see."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from transferkit.backends import Backend, Program
from transferkit.backends.base import GRADIENTS
from transferkit.class_names import ClassNames
from transferkit.classifier import Classifier
from transferkit.images import Preprocessing
from transferkit.model import LazyProgram, Model, load_model
from transferkit.networks import Network

__all__ = ["ImageOptimizer"]


class ImageOptimizer:
    """Changes pictures by the gradient of a network, for as long as it takes.

    Parameters
    ----------
    network
        A name (``transferkit networks`` lists them), a `transferkit.networks.Network`, or a
        fitted `transferkit.Classifier`, whose classes are then the ones that can be asked for.
    weights
        The name of published weights, None for the network's usual ones; for a network of
        one's own, a mapping from parameter name to float32 array.
    backend
        ``"torch"``, ``"tensorflow"``, the name of another plugin that has gradients, or a
        `transferkit.backends.Backend`. None: the environment variable
        ``TRANSFERKIT_BACKEND``, or else the first of these that is installed.
    device
        One of the backend's devices; None means the processor.
    preprocessing
        How pictures are resized and cropped; None means as the weights expect it.
    batch_size
        How many pictures are worked on at once.
    seed
        For everything that is drawn: a number, or a generator, which is drawn from. The same
        number gives the same draws on every backend.
    progress
        Whether a progress bar is shown on standard error; None: only on a terminal.

    Raises
    ------
    UnknownNameError
        When first used: if there is no such network, weights, backend or device.
    BackendNotInstalledError
        When first used: if the backend's framework is not installed.
    UnsupportedError
        When first used: if the backend has no gradients.

    Examples
    --------
    >>> from transferkit import ImageOptimizer
    >>> ImageOptimizer("mobilenet_v2").resolve_class("Siamese cat")
    284
    """

    def __init__(
        self,
        network: str | Network | Classifier = "mobilenet_v2",
        *,
        weights: str | Mapping[str, npt.NDArray[np.float32]] | None = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        seed: int | np.random.Generator = 0,
        progress: bool | None = None,
    ) -> None:
        self.network = network
        self.weights = weights
        self.backend = backend
        self.device = device
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self._program = LazyProgram()

    @property
    def classes(self) -> ClassNames:
        """The classes that the network's logits stand for."""
        program, model = self._load()
        labels: tuple[Hashable, ...] | None = model.labels
        if isinstance(self.network, Classifier):
            # As they were given, numbers perhaps; the model has them as texts.
            labels = tuple(self.network.classes_.tolist())
        if labels is not None:
            return ClassNames(labels, len(labels))
        size = program.network.input_size
        return ClassNames(None, program.shapes(size, size)["logits"][-1])

    def resolve_class(self, given: Hashable) -> int:
        """The index among the network's logits of the class that ``given`` means.

        Parameters
        ----------
        given
            Its name, its index or, of ImageNet's classes, its WordNet id.

        Raises
        ------
        UnknownNameError
            If there is no such class; close ones are named.
        AmbiguousNameError
            If several classes are called that.
        """
        return self.classes.resolve(given)

    def _load(self) -> tuple[Program, Model]:
        """The network on its backend, and all that belongs to it."""
        made_from: tuple[Any, ...] = (self.network, self.weights, self.preprocessing)
        if isinstance(self.network, Classifier):
            # Fitted again, it is another network.
            made_from += (getattr(self.network, "network_", None),)
        return self._program.get(
            made_from, self._make_model, self.backend, self.device, needs=GRADIENTS
        )

    def _make_model(self) -> Model:
        classifier = self.network
        if not isinstance(classifier, Classifier):
            return load_model(classifier, self.weights, self.preprocessing)
        if self.weights is not None:
            raise TypeError("a classifier has its own weights; leave out weights")
        check_is_fitted(classifier, "classes_")
        return Model(
            classifier.network_,
            classifier.weights_,
            self.preprocessing or classifier.preprocessing_,
            tuple(map(str, classifier.classes_.tolist())),
        )
