"""`ImageOptimizer`: pictures changed until a network sees in them what it is asked to see."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from transferkit.backends import Backend, Program, backend_names, backend_of, get_backend
from transferkit.backends.base import GRADIENTS, INFERENCE
from transferkit.classification.classifier import Classifier
from transferkit.errors import ParameterError, ShapeError, UnsupportedError
from transferkit.images import Images, Preprocessing, stream_batches
from transferkit.models.class_names import ClassNames
from transferkit.models.model import AnyWeights, LazyProgram, Model, load_model
from transferkit.networks import Network
from transferkit.optimization.attacks.base import AttackRunner
from transferkit.optimization.attacks.entry import attack_images, transfer_images
from transferkit.optimization.attacks.result import AdversarialResult, TransferResult
from transferkit.optimization.objectives import Class, Objective, Regularizer
from transferkit.optimization.visualization import (
    IdealImages,
    Jitter,
    Pad,
    Parametrization,
    Recipe,
    Rotate,
    Scale,
    Transform,
    find_parametrization,
    optimize_images,
)
from transferkit.training import Optimizer, find_optimizer

__all__ = ["DEFAULT_TRANSFORMS", "ImageOptimizer"]

Wanted: TypeAlias = Objective | Hashable
"""What a picture may be optimised for: an objective, or a class."""

DEFAULT_TRANSFORMS: tuple[Transform, ...] = (
    Pad(24),
    Jitter(16),
    Scale(0.5, 1.2),
    Rotate(15.0),
    Jitter(4),
)
"""What pictures go through before the network sees them, unless it is said otherwise.

Seen from afar too, with a margin around them, pictures more often hold heads and bodies; seen from
near alone, patches of fur.
"""


class ImageOptimizer:
    """Changes pictures by the gradient of a network, for as long as it takes.

    Parameters
    ----------
    network
        A name (``transferkit networks`` lists them), a `transferkit.networks.Network`, a
        ``torch.nn.Module``, a ``keras.Model``, or a fitted `transferkit.Classifier`, whose
        classes are then the ones that can be asked for.
    weights
        The name of published weights, None for the network's usual ones, the path of a file, or
        ``"random"``; for a network of one's own, a mapping from parameter name to float32 array.
        An object of a framework and a classifier bring theirs.
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
        network: str | Network | Classifier | object = "mobilenet_v2",
        *,
        weights: AnyWeights = None,
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
        """Make pictures in which the network sees as much as it can of something.

        Parameters
        ----------
        objectives
            What is to be seen: a class by name, index or WordNet id, which is then told apart
            from others, as ``Class(name, "distinct")`` is; or an objective from
            `transferkit.optimization.objectives`; or a list of these, which makes a picture of
            each.
        steps
            How many, all octaves together; at least 1.
        size
            The side of the square pictures in pixels, to which those of ``start`` are resized
            and cropped; None: as the network expects them.
        start
            A picture to start from, or as many as there are objectives, as for
            `transferkit.FeatureExtractor`; None: noise. Several pictures and one objective
            make a picture from each.
        octaves
            How many sizes are gone through, each 1.4 times the one before, up to ``size``, so
            that large shapes come about as well as small ones. None: 1 from a picture; from
            noise 3, or as many as the network, the objectives and the steps allow.
        parametrization
            ``"fourier"`` or ``"pixels"``, or one from `transferkit.optimization.visualization`.
        transforms
            What is done to pictures before the network sees them, drawn anew at each step:
            from `transferkit.optimization.visualization`, in the order in which they are done.
        regularizers
            What is to stay small, from `transferkit.optimization.objectives`.
        optimizer
            ``"adam"``, ``"normalized_momentum"`` or ``"normalized_gradient_descent"``, or one from
            `transferkit.training`.
        frames
            How many pictures are kept on the way, for `IdealImages.animation`, in eight bits;
            0 for none.

        Returns
        -------
        IdealImages
            After Ctrl-C as far as it had come, and marked so.

        Raises
        ------
        UnknownNameError
            If there is no such class, layer, channel, or choice of that name.
        AmbiguousNameError
            If several classes are called that.
        ShapeError
            If the network cannot take pictures of that size, or the number of starts is not
            that of the objectives.
        NotFiniteError
            If an objective, its derivative or the rate becomes infinite or no number; names the
            step.
        NoGradientError
            If an objective has no derivative in the pixels.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.optimization import objectives as o
        >>> optimizer = ImageOptimizer("mobilenet_v2", seed=0)
        >>> found = optimizer.visualize([o.Channel("features.2", 7), "zebra"], steps=2, size=32)
        >>> found.images.shape, found.labels
        ((2, 32, 32, 3), ('features.2, 7', 'zebra'))
        """
        recipe = Recipe(
            steps=_whole_number("steps", steps, 1),
            octaves=None if octaves is None else _whole_number("octaves", octaves, 1),
            parametrization=find_parametrization(parametrization),
            transforms=_all_of("transforms", transforms, Transform),  # type: ignore[type-abstract]
            regularizers=_all_of("regularizers", regularizers, Regularizer),  # type: ignore[type-abstract]
            optimizer=find_optimizer(optimizer),
            frames=_whole_number("frames", frames, 0),
            batch_size=_whole_number("batch_size", self.batch_size, 1),
        )
        if octaves is not None and steps < octaves:
            raise ParameterError(f"{steps} steps are not enough for {octaves} octaves")
        program, model = self._load()
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
        seed = self._drawn_seed()
        if not isinstance(self.seed, np.random.Generator):
            seed = int(np.random.default_rng(seed).integers(2**63))
        return optimize_images(
            program,
            self.classes,
            wanted,
            pixels,
            shape,
            recipe,
            seed=seed,
            progress=self.progress,
        )

    def attack(
        self,
        images: Images,
        labels: Hashable | Sequence[Hashable] | None = None,
        target: Hashable | Sequence[Hashable] | None = None,
        *,
        epsilon: float | Sequence[float] | None = None,
        method: str = "pgd",
        norm: str | None = None,
        loss: str | None = None,
        steps: int | None = None,
        restarts: int = 1,
        on_error: str = "raise",
    ) -> AdversarialResult:
        """Change pictures by as little as it takes for the network to see something else.

        Parameters
        ----------
        images
            As for `transferkit.FeatureExtractor`. They are resized and cropped as the network
            expects it, and attacked as they are then.
        labels
            What they are, a class for all or a list with one for each; None: what the network
            takes them for.
        target
            What they are to become, likewise; None: anything but their label.
        epsilon
            How far each may be changed, in ``norm``, where pixels range over 1: 2/255 in
            ``"linf"`` changes no value by more than two of 255 levels. Several are tried in
            ascending order, each on the pictures that resisted the last. Needed by ``"fgsm"``,
            ``"pgd"``, ``"mi-fgsm"`` and ``"apgd"``; for the other methods None is as far as it
            takes.
        method
            ``"fgsm"``, ``"pgd"``, ``"mi-fgsm"`` or ``"apgd"``, which go as far as epsilon;
            ``"deepfool"``, ``"carlini-wagner"`` or ``"fmn"``, which look for the smallest change.
        norm
            ``"linf"``, the largest change of a value; ``"l2"``, the root of the sum of squares;
            ``"l1"``, the sum of the changes; ``"l0"``, how many values are changed. Not every
            method knows each. None: ``"linf"``, or ``"l2"`` for ``"carlini-wagner"``.
        loss
            What is climbed: ``"logit-difference"``, ``"cross-entropy"`` or ``"dlr"``; None: the
            method's usual one.
        steps
            How many gradients each picture may take, for each epsilon and restart; None: the
            method's usual number. More never do worse.
        restarts
            How often ``"pgd"``, ``"mi-fgsm"`` and ``"apgd"`` begin: first at the picture, then in
            random places around it.
        on_error
            ``"raise"``, or ``"skip"`` to leave out pictures that cannot be read, or that are the
            target already.

        Returns
        -------
        AdversarialResult
            On Ctrl-C, with what was done by then.

        Raises
        ------
        UnknownNameError, AmbiguousNameError
            If there is no such class, method, loss, or norm of that method.
        ParameterError
            If ``epsilon``, ``steps`` or ``restarts`` cannot be.
        ImageError
            If a picture cannot be read, or is the target already.
        DatasetError
            If no pictures are left.
        ShapeError
            If the network cannot take pictures of their size.

        Notes
        -----
        A success is one by more than two backends may differ in, so that it is one on all.
        Random starts depend on the seed and on a picture's own pixels: a picture's result does
        not depend on what it is attacked together with, but for the rounding of its gradients,
        which may differ in the last digit with the number of pictures.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.demo import CAT
        >>> opt = ImageOptimizer("mobilenet_v2", seed=0)
        >>> adv = opt.attack(CAT, target="golden retriever", epsilon=2/255, steps=20)
        >>> adv.success.tolist(), adv.after[0].label
        ([True], 'golden retriever')
        """
        program, model = self._load()
        return attack_images(
            self._attack_runner(program),
            model.preprocessing,
            self.classes,
            images,
            labels,
            target,
            epsilon=epsilon,
            method=method,
            norm=norm,
            loss=loss,
            steps=steps,
            restarts=restarts,
            on_error=on_error,
            seed=self._drawn_seed(),
            progress=self.progress,
        )

    def transfer(
        self, adversarial: AdversarialResult, other: ImageOptimizer | Classifier | str
    ) -> TransferResult:
        """How many of an attack's pictures fool another network or backend as well.

        Parameters
        ----------
        adversarial
            What `attack` gave; its 8-bit pictures are shown to the other network.
        other
            The name of a backend, which is to run this network; else the name of a network,
            another `ImageOptimizer`, or a fitted `transferkit.Classifier`.

        Raises
        ------
        UnknownNameError
            If there is no such backend or network, or it does not know one of the classes.
        UnsupportedError
            If the network is an object of a framework, and the backend is another's.

        Examples
        --------
        >>> from transferkit import ImageOptimizer
        >>> from transferkit.demo import CAT
        >>> opt = ImageOptimizer("mobilenet_v2", seed=0)
        >>> adv = opt.attack(CAT, target="golden retriever", epsilon=2/255, steps=20)
        >>> opt.transfer(adv, "onnxruntime").rate
        1.0
        """
        if isinstance(other, ImageOptimizer):
            try:
                program, model = other._load()
            except UnsupportedError:
                # To look at pictures takes no gradients.
                program, model = other._load(needs=INFERENCE)
            classes = other._classes_of(program, model)
        elif isinstance(other, str) and other in backend_names():
            program, model = self._load()
            backend = get_backend(other)
            if model.wrapped is not None and backend.name != program.backend.name:
                raise UnsupportedError(
                    f"a {type(self.network).__name__} can be run by backend "
                    f"{program.backend.name!r} only, not by {other!r}"
                )
            program = Program(backend, model.network, model.weights, model.wrapped)
            classes = self.classes
        else:
            there = ImageOptimizer(other, backend=self.backend, device=self.device)
            program, model = there._load()
            classes = there.classes
        size = _whole_number("batch_size", self.batch_size, 1)
        return transfer_images(adversarial, program, model.preprocessing, classes, size)

    def _attack_runner(self, program: Program) -> AttackRunner:
        """What has compiled the attacks' steps for the program, kept while that is the same."""
        size = _whole_number("batch_size", self.batch_size, 1)
        runner = self._runner
        if runner is None or runner.program is not program or runner.batch_size != size:
            self._runner = runner = AttackRunner(program, size)
        return runner

    @property
    def classes(self) -> ClassNames:
        """The classes that the network's logits stand for."""
        return self._classes_of(*self._load())

    def _classes_of(self, program: Program, model: Model) -> ClassNames:
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

    def _drawn_seed(self) -> int:
        """A number to draw from; of a generator its next."""
        if isinstance(self.seed, np.random.Generator):
            return int(self.seed.integers(2**63))
        return _whole_number("seed", self.seed, 0)

    def _load(self, *, needs: str = GRADIENTS) -> tuple[Program, Model]:
        """The network on its backend, and all that belongs to it."""
        made_from: tuple[Any, ...] = (self.network, self.weights, self.preprocessing, needs)
        if isinstance(self.network, Classifier):
            # Fitted again, it is another network.
            made_from += (getattr(self.network, "network_", None),)
        return self._program.get(
            made_from, self._make_model, self._chosen_backend(), self.device, needs=needs
        )

    def _chosen_backend(self) -> str | Backend | None:
        """The backend asked for, or else the one that an object of a framework belongs to."""
        network = self.network
        if isinstance(network, Classifier):
            network = network.network
        if self.backend is not None or isinstance(network, (str, Network)):
            return self.backend
        try:
            return backend_of(network)
        except TypeError:
            # It is no network at all, which loading it says better.
            return None

    def _make_model(self) -> Model:
        classifier = self.network
        if not isinstance(classifier, Classifier):
            return load_model(
                classifier,
                self.weights,
                self.preprocessing,
                self.backend,
                self.device,
                seed=self.seed,
                progress=self.progress,
            )
        if self.weights is not None:
            raise TypeError("a classifier has its own weights; leave out weights")
        check_is_fitted(classifier, "classes_")
        return Model(
            classifier.network_,
            classifier.weights_,
            self.preprocessing or classifier.preprocessing_,
            tuple(map(str, classifier.classes_.tolist())),
            classifier.wrapped_,
        )


_Kind = TypeVar("_Kind")


def _listed(objectives: Wanted | Sequence[Wanted]) -> Sequence[Wanted]:
    """One objective, or several, as a list."""
    if isinstance(objectives, (str, Objective)) or not isinstance(objectives, Iterable):
        return [objectives]
    listed = list(objectives)
    if not listed:
        raise ParameterError("objectives is empty; name at least one")
    return listed


def _as_objective(wanted: Wanted) -> Objective:
    return wanted if isinstance(wanted, Objective) else Class(wanted, "distinct")


def _read_start(
    start: Images, preprocessing: Preprocessing, objectives: list[Objective]
) -> tuple[npt.NDArray[np.float32], list[Objective]]:
    """The pictures to start from and the objectives, as many of one as of the other."""
    batches = stream_batches(start, preprocessing, batch_size=32)
    pixels = np.concatenate([batch.pixels for batch in batches])
    if len(pixels) == 1:
        pixels = np.repeat(pixels, len(objectives), axis=0)
    elif len(objectives) == 1:
        objectives = objectives * len(pixels)
    if len(pixels) != len(objectives):
        raise ShapeError(
            f"there are {len(pixels)} pictures to start from, for {len(objectives)} objectives; "
            "give one, or as many"
        )
    return pixels, objectives


def _whole_number(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ParameterError(f"{name} is {value!r}; it must be a whole number, at least {least}")
    return int(value)


def _all_of(name: str, values: object, kind: type[_Kind]) -> tuple[_Kind, ...]:
    """The values as a tuple, each seen to be of a kind."""
    listed = tuple(values) if isinstance(values, Iterable) else (values,)
    for value in listed:
        if not isinstance(value, kind):
            raise TypeError(f"{name} has {value!r}; expected instances of {kind.__name__}")
    return listed
