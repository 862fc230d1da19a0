"""`ImageOptimizer`: ideal and adversarial images, by gradient descent on pixels."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from transferkit.backends import Backend, Program, backend_names, get_backend
from transferkit.backends.base import GRADIENTS, INFERENCE
from transferkit.classification import Classifier
from transferkit.datasets.labels import Labels
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    ShapeError,
    UnsupportedError,
    shorten,
)
from transferkit.images import Images, Preprocessing, stream_batches
from transferkit.models import AnyWeights, ClassNames, Model, load_model
from transferkit.models.estimator import NetworkEstimator, document_parameters
from transferkit.networks import Network
from transferkit.optimization.attacks import Attack
from transferkit.optimization.attacks.entry import attack_images, transfer_images
from transferkit.optimization.attacks.result import AdversarialResult, TransferResult
from transferkit.optimization.attacks.runner import AttackRunner
from transferkit.optimization.objectives import Class, Objective, Regularizer
from transferkit.optimization.visualization import (
    IdealImages,
    Jitter,
    Pad,
    Parametrization,
    Rotate,
    Scale,
    Transform,
    VisualizationSettings,
    find_parametrization,
    optimize_images,
)
from transferkit.support.random_state import RandomState, as_generator, as_seed
from transferkit.support.validation import check_integer
from transferkit.training import Optimizer, find_optimizer

__all__ = ["DEFAULT_TRANSFORMS", "ImageOptimizer"]

Wanted: TypeAlias = Objective | Hashable
"""What an image can be optimized for: an objective, or a class."""

DEFAULT_TRANSFORMS: tuple[Transform, ...] = (
    Pad(24),
    Jitter(16),
    Scale(0.5, 1.2),
    Rotate(15.0),
    Jitter(4),
)
"""The random transforms that are applied to an image before each step, by default.

With a border and at smaller scales, the image more often contains heads and bodies instead of only
textures.
"""


@document_parameters
class ImageOptimizer(NetworkEstimator):
    """Optimizes images by gradient descent: ideal images of a class, adversarial images.

    Parameters
    ----------
    network
        As for `transferkit.FeatureExtractor`, or a fitted `transferkit.Classifier` or the path
        of the ``.safetensors`` file that it was saved to, whose classes can then be used.
    {weights}
    {backend}
    {device}
    {preprocessing}
    {batch_size}
    {initialization}
    random_state
        Seed of noise, transforms, random starts and random weights: an int, a
        ``numpy.random.Generator``, a ``numpy.random.RandomState``, or None for a different one
        at each call. An int gives the same random numbers on every backend.
    {progress}

    Raises
    ------
    UnknownNameError
        When first used: if the network, weights, backend or device is unknown.
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
        network: str | os.PathLike[str] | Network | Model | Classifier | object = "mobilenet_v2",
        *,
        weights: AnyWeights = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        initialization: str = "he",
        random_state: RandomState = 0,
        progress: bool | None = None,
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
        )
        self._runner: AttackRunner | None = None

    def visualize(
        self,
        objectives: Wanted | Sequence[Wanted],
        *,
        steps: int = 256,
        size: int | None = None,
        start: Images | None = None,
        octaves: int | None = None,
        parametrization: str | Parametrization = "fourier",
        transforms: Sequence[Transform] = DEFAULT_TRANSFORMS,
        regularizers: Sequence[Regularizer] = (),
        optimizer: str | Optimizer = "adam",
        frames: int = 24,
    ) -> IdealImages:
        """Optimize images that maximize objectives, such as the logit of a class.

        Parameters
        ----------
        objectives
            A class by name, index or WordNet id, which stands for ``Class(name, "distinct")``;
            an objective from `transferkit.optimization.objectives`; or a list of these, for one
            image each.
        steps
            The number of steps of all octaves together; at least 1.
        size
            The side of the square images in pixels, to which ``start`` is resized and cropped;
            None: as the network expects.
        start
            An image to start from, or one for each objective, as for
            `transferkit.FeatureExtractor`; None: noise. Several images and one objective give
            one result for each image.
        octaves
            The number of sizes that the image is optimized at in turn, each 1.4 times the one
            before, up to ``size``, so that both large and small shapes appear. None: 1 from an
            image; from noise 3, or as many as the network, the objectives and the steps allow.
        parametrization
            ``"fourier"`` or ``"pixels"``, or one from `transferkit.optimization.visualization`.
        transforms
            Random transforms from `transferkit.optimization.visualization`, applied in this
            order before each step.
        regularizers
            Penalties from `transferkit.optimization.objectives` that are added to the loss.
        optimizer
            ``"adam"``, ``"normalized_momentum"`` or ``"normalized_gradient_descent"``, or one from
            `transferkit.training`.
        frames
            The number of 8-bit intermediate images that are kept for `IdealImages.animation`;
            0 for none.

        Returns
        -------
        IdealImages
            After Ctrl-C the images so far, marked as interrupted.

        Raises
        ------
        UnknownNameError
            If a class, layer, channel, or the name of a choice is unknown.
        AmbiguousNameError
            If several classes have a name.
        ShapeError
            If the network cannot take images of that size, or the number of starts differs
            from the number of objectives.
        NotFiniteError
            If an objective, its gradient or the learning rate is not finite; the message names
            the step.
        NoGradientError
            If an objective has no gradient with respect to the pixels.

        Warns
        -----
        UserWarning
            If an objective is 0 and has no gradient at the end: the unit is dead on its image.

        Notes
        -----
        Where a unit is dead on the initial image, the image is first optimized for the unit
        without its activation, for at most 64 steps, which `IdealImages.history` leaves out.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.optimization import objectives as o
        >>> optimizer = ImageOptimizer("mobilenet_v2", random_state=0)
        >>> ideal = optimizer.visualize([o.Channel("features.2", 7), "zebra"], steps=2, size=32)
        >>> ideal.images.shape, ideal.labels
        ((2, 32, 32, 3), ('features.2, 7', 'zebra'))
        """
        settings = VisualizationSettings(
            steps=check_integer("steps", steps, 1),
            octaves=None if octaves is None else check_integer("octaves", octaves, 1),
            parametrization=find_parametrization(parametrization),
            transforms=_all_of("transforms", transforms, Transform),  # type: ignore[type-abstract]
            regularizers=_all_of("regularizers", regularizers, Regularizer),  # type: ignore[type-abstract]
            optimizer=find_optimizer(optimizer),
            frames=check_integer("frames", frames, 0),
            batch_size=check_integer("batch_size", self.batch_size, 1),
        )
        if octaves is not None and steps < octaves:
            raise ParameterError(
                f"steps is {steps}, but octaves is {octaves}; each octave needs a step"
            )
        program, model = self._load(needs=GRADIENTS)
        wanted = list(map(_as_objective, _listed(objectives)))
        preprocessing = model.preprocessing
        if size is not None:
            preprocessing = replace(preprocessing, size=size, resize=None)
        if start is None:
            side = preprocessing.size or model.network.input_size
            pixels, shape = None, (side, side)
        else:
            pixels, wanted = _read_start(start, preprocessing, wanted)
            shape = (pixels.shape[1], pixels.shape[2])
        return optimize_images(
            program,
            _class_names(model),
            wanted,
            pixels,
            shape,
            settings,
            seed=int(as_generator(self.random_state).integers(2**63)),
            progress=self.progress,
        )

    def attack(
        self,
        X: Images,
        y: Hashable | Labels | None = None,
        target: Hashable | Labels | None = None,
        *,
        epsilon: float | Sequence[float] | None = None,
        method: str | Attack = "pgd",
        norm: str | None = None,
        loss: str | None = None,
        steps: int | None = None,
        restarts: int = 1,
        on_error: str = "raise",
    ) -> AdversarialResult:
        """Change images as little as possible so that the network misclassifies them.

        Parameters
        ----------
        X
            Images, as for `transferkit.FeatureExtractor`. They are resized and cropped as the
            network expects, and attacked in that size.
        y
            The true class: one for all images, or one for each in a list, tuple, array, tensor
            or pandas Series; None: the class that the network predicts.
        target
            The class that the images are to be classified as, likewise; None: any class other
            than ``y``.
        epsilon
            The largest allowed change in ``norm``, for pixels in [0, 1]: 2/255 in ``"linf"``
            changes no value by more than two of 255 levels. A list is tried in ascending
            order, each value on the images for which the previous one failed. Required by
            ``"fgsm"``, ``"pgd"``, ``"mi-fgsm"`` and ``"apgd"``; for the other methods None means
            no limit.
        method
            ``"fgsm"``, ``"pgd"``, ``"mi-fgsm"`` or ``"apgd"``, which stay within epsilon;
            ``"deepfool"``, ``"carlini-wagner"`` or ``"fmn"``, which search for the smallest
            change; or an instance of `transferkit.optimization.attacks.Attack`.
        norm
            ``"linf"``, the largest change of a value; ``"l2"``, the Euclidean norm; ``"l1"``,
            the sum of absolute changes; ``"l0"``, the number of changed values. Not every method
            supports each. None: ``"linf"``, or ``"l2"`` for ``"carlini-wagner"``.
        loss
            The loss that is maximized: ``"logit-difference"``, ``"cross-entropy"`` or ``"dlr"``;
            None: the method's default.
        steps
            The maximal number of gradients for each image, epsilon and restart; None: the
            method's default. More steps never make the result worse.
        restarts
            The number of starts of ``"pgd"``, ``"mi-fgsm"`` and ``"apgd"``: the first from the
            image, the others from random points around it.
        on_error
            ``"raise"``, or ``"skip"`` to leave out images that cannot be read, or that are
            already classified as the target.

        Returns
        -------
        AdversarialResult
            After Ctrl-C, the results so far.

        Raises
        ------
        UnknownNameError, AmbiguousNameError
            If a class, method, loss, or norm of that method is unknown or ambiguous.
        ParameterError
            If ``epsilon``, ``steps`` or ``restarts`` is invalid.
        ImageError
            If an image cannot be read, or is already classified as the target.
        DatasetError
            If no images are left.
        ShapeError
            If the network cannot take images of their size.

        Notes
        -----
        An attack succeeds if its margin exceeds the numerical difference between backends, so
        that the result is the same on all of them. Random starts depend on ``random_state`` and
        on the pixels of the image, so that its result does not depend on the other images of
        the batch, apart from rounding of gradients in the last digit.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.demo import CAT
        >>> opt = ImageOptimizer("mobilenet_v2", random_state=0)
        >>> adv = opt.attack(CAT, target="golden retriever", epsilon=2/255, steps=20)
        >>> adv.success.tolist(), adv.after[0].label
        ([True], 'golden retriever')
        """
        program, model = self._load(needs=GRADIENTS)
        return attack_images(
            self._attack_runner(program),
            model.preprocessing,
            _class_names(model),
            X,
            y,
            target,
            epsilon=epsilon,
            method=method,
            norm=norm,
            loss=loss,
            steps=steps,
            restarts=restarts,
            on_error=on_error,
            seed=as_seed(self.random_state),
            progress=self.progress,
        )

    def transfer(
        self, adversarial: AdversarialResult, other: ImageOptimizer | Classifier | str
    ) -> TransferResult:
        """Test whether adversarial images are also misclassified by another network or backend.

        Parameters
        ----------
        adversarial
            The result of `attack`; its 8-bit images are classified by the other network.
        other
            The name of a backend that runs the same network, the name of a network, another
            `ImageOptimizer`, or a fitted `transferkit.Classifier`.

        Raises
        ------
        UnknownNameError
            If the backend or network is unknown, or lacks one of the classes.
        UnsupportedError
            If the network is an object of a framework, and the backend is a different one.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.demo import CAT
        >>> opt = ImageOptimizer("mobilenet_v2", random_state=0)
        >>> adv = opt.attack(CAT, target="golden retriever", epsilon=2/255, steps=20)
        >>> opt.transfer(adv, "onnxruntime").rate
        1.0
        """
        if isinstance(other, ImageOptimizer):
            try:
                program, model = other._load(needs=GRADIENTS)
            except UnsupportedError:
                # Classification needs no gradients.
                program, model = other._load(needs=INFERENCE)
        elif isinstance(other, str) and other in backend_names():
            program, model = self._load(needs=GRADIENTS)
            backend = get_backend(other)
            if model.wrapped is not None and backend.name != program.backend.name:
                raise UnsupportedError(
                    f"backend {other!r} cannot run a {type(self.network).__name__}; only "
                    f"{program.backend.name!r} can"
                )
            program = model.program(backend)
        else:
            program, model = ImageOptimizer(other, backend=self.backend, device=self.device)._load(
                needs=GRADIENTS
            )
        size = check_integer("batch_size", self.batch_size, 1)
        return transfer_images(adversarial, program, model.preprocessing, _class_names(model), size)

    def _attack_runner(self, program: Program) -> AttackRunner:
        """Return the runner that holds the compiled steps of attacks on a program."""
        size = check_integer("batch_size", self.batch_size, 1)
        runner = self._runner
        if runner is None or runner.program is not program or runner.batch_size != size:
            self._runner = runner = AttackRunner(program, size)
        return runner

    def __getstate__(self) -> dict[str, Any]:
        # Compiled steps cannot be pickled; a copy compiles its own.
        return {**super().__getstate__(), "_runner": None}

    def class_names(self) -> ClassNames:
        """Return the classes of the network's logits."""
        return _class_names(self._load(needs=GRADIENTS)[1])

    def resolve_class(self, name: Hashable) -> int:
        """Return the index of a class among the network's logits.

        Parameters
        ----------
        name
            Its label, its index or, for ImageNet's classes, a WordNet synonym or id.

        Raises
        ------
        UnknownNameError
            If there is no such class; the message lists close matches.
        AmbiguousNameError
            If several classes have that name.
        """
        return self.class_names().resolve(name)

    def _model_parameters(self) -> tuple[object, ...]:
        classifier = self.network
        if isinstance(classifier, Classifier):
            # After another fit, it has another model.
            return (*super()._model_parameters(), getattr(classifier, "model_", None))
        return super()._model_parameters()

    def _chosen_backend(self) -> str | Backend | None:
        classifier = self.network
        if self.backend is not None or not isinstance(classifier, Classifier):
            return super()._chosen_backend()
        model = getattr(classifier, "model_", None)
        return model.wrapped.backend if model is not None and model.wrapped is not None else None

    def _load_model(self) -> Model:
        classifier = self.network
        if not isinstance(classifier, Classifier) and not _is_classifier_file(classifier):
            return super()._load_model()
        if self.weights is not None:
            raise ArgumentTypeError("a Classifier has its own weights; omit weights")
        if not isinstance(classifier, Classifier):
            classifier = Classifier.load(classifier)
        check_is_fitted(classifier, "classes_")
        return load_model(classifier.model_, preprocessing=self.preprocessing)


def _is_classifier_file(network: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(network, (str, os.PathLike)) and str(network).endswith(".safetensors")


def _class_names(model: Model) -> ClassNames:
    number = model.layers()["logits"][-1] if model.labels is None else len(model.labels)
    return ClassNames(model.labels, number)


_Kind = TypeVar("_Kind")


def _listed(objectives: Wanted | Sequence[Wanted]) -> Sequence[Wanted]:
    """Return one or several objectives as a list."""
    if isinstance(objectives, (str, Objective)) or not isinstance(objectives, Iterable):
        return [objectives]
    listed = list(objectives)
    if not listed:
        raise ParameterError("objectives is empty; pass at least one")
    return listed


def _as_objective(wanted: Wanted) -> Objective:
    return wanted if isinstance(wanted, Objective) else Class(wanted, "distinct")


def _read_start(
    start: Images, preprocessing: Preprocessing, objectives: list[Objective]
) -> tuple[npt.NDArray[np.float32], list[Objective]]:
    """Return the initial images and the objectives, equally many."""
    batches = stream_batches(start, preprocessing, batch_size=32)
    pixels = np.concatenate([batch.pixels for batch in batches])
    if len(pixels) == 1:
        pixels = np.repeat(pixels, len(objectives), axis=0)
    elif len(objectives) == 1:
        objectives = objectives * len(pixels)
    if len(pixels) != len(objectives):
        raise ShapeError(
            f"start has {len(pixels)} images for {len(objectives)} objectives; expected one, or "
            "one for each objective"
        )
    return pixels, objectives


def _all_of(name: str, values: object, kind: type[_Kind]) -> tuple[_Kind, ...]:
    """Return the values as a tuple, after checking their type."""
    listed = tuple(values) if isinstance(values, Iterable) else (values,)
    for value in listed:
        if not isinstance(value, kind):
            raise ArgumentTypeError(
                f"{name} has {shorten(value)}; expected instances of {kind.__name__}"
            )
    return listed
