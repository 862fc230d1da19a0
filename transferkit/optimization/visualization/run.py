"""A run: from objectives and initial images to optimized images, octave by octave.

It uses only the base classes of objectives, regularizers, parametrizations, transforms and
optimizers, so that each can be chosen independently of the others.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.errors import NoGradientError, NotFiniteError, ShapeError, UnknownNameError
from transferkit.images.conversion import to_uint8
from transferkit.images.resizing import resize
from transferkit.models.class_names import ClassNames
from transferkit.optimization.objectives import Class, Evaluate, Objective, Subject
from transferkit.optimization.objectives.base import bind_checked
from transferkit.optimization.visualization.dead_units import revive
from transferkit.optimization.visualization.octave import Octave, enlarge, octave_sizes
from transferkit.optimization.visualization.result import IdealImages
from transferkit.optimization.visualization.settings import VisualizationSettings
from transferkit.support.progress import show_progress
from transferkit.support.warning import warn

__all__ = ["optimize_images"]

Floats: TypeAlias = npt.NDArray[np.float32]

# From noise: with fewer, parts of an animal appear many times, and no whole animal.
_DEFAULT_OCTAVES = 3


def optimize_images(
    program: Program,
    classes: ClassNames,
    objectives: Sequence[Objective],
    initial_images: Floats | None,
    size: tuple[int, int],
    settings: VisualizationSettings,
    *,
    seed: int,
    progress: bool | None,
) -> IdealImages:
    """Optimize images that maximize objectives.

    Parameters
    ----------
    program
        The network on a backend with gradients.
    classes
        The classes of the logits.
    objectives
        One for each image.
    initial_images
        (n, h, w, 3) in [0, 1], the images to start from; None: noise, the same for each image.
    size
        The height and width of the result.
    settings
        The settings of the run.
    seed
        The seed of noise and transforms. All images have the same random parameters, so that
        the result for one image does not depend on the others.
    progress
        Whether a progress bar is shown; None: on a terminal or in a notebook.

    Raises
    ------
    UnknownNameError, AmbiguousNameError
        If the class, layer or channel of an objective is unknown.
    ShapeError
        If the network cannot take images of a size, or an octave is too small.
    NotFiniteError
        If a loss, its gradient, the learning rate or an image is not finite; names the step.
    NoGradientError
        If a loss has no gradient with respect to the image.
    KeyboardInterrupt
        If the run is interrupted before its first octave.
    """
    began = time.perf_counter()
    if settings.octaves is not None:
        sizes = octave_sizes(size, settings.octaves)
        functions = [_bind(program, classes, objectives, octave_size) for octave_size in sizes]
    else:
        max_octaves = min(_DEFAULT_OCTAVES, settings.steps) if initial_images is None else 1
        sizes, functions = _default_octaves(program, classes, objectives, size, max_octaves)
    targets = tuple(
        None if objective.target is None else classes.resolve(objective.target)
        for objective in objectives
    )
    noise_generator, transform_generator, revival_generator = np.random.default_rng(seed).spawn(3)
    noise = settings.parametrization.noise(noise_generator, *sizes[0])
    layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
    compute_activations = program.load(layers)
    labels = tuple(_label(objective, classes) for objective in objectives)

    def revive_image(octave: Octave, index: int, parameters: Floats) -> Floats | None:
        generator = copy.deepcopy(revival_generator)
        needed = list(dict.fromkeys(objectives[index].layers))
        function = functions[sizes.index(octave.size)][index]
        return revive(program, octave, function, needed, parameters, generator)

    run = _Run(settings, initial_images, noise, transform_generator, labels, revive_image)
    with show_progress("Optimizing images", settings.steps, shown=progress) as advance:
        try:
            for index, octave_size in enumerate(sizes):
                run.enter(
                    Octave(
                        program.backend,
                        compute_activations,
                        functions[index],
                        settings,
                        octave_size,
                    )
                )
                first, stop = (
                    settings.steps * octave // len(sizes) for octave in (index, index + 1)
                )
                run.optimize(range(first, stop), advance)
        except KeyboardInterrupt:
            run.interrupt()
    run.warn_if_dead()
    return IdealImages(
        images=enlarge(run.octave.images(), initial_images, size),
        history=np.asarray(run.history, np.float32).reshape(-1, len(objectives)),
        labels=labels,
        targets=targets,
        interrupted=run.interrupted,
        seconds=time.perf_counter() - began,
        frames=_frames(run.frames, initial_images, size, len(objectives)),
        _program=program,
    )


class _Run:
    """The state of a run that is carried from octave to octave.

    Attributes
    ----------
    history
        The losses before each step.
    frames
        The recorded images, each in the size of its octave.
    interrupted
        Whether Ctrl-C ended the run.
    """

    def __init__(
        self,
        settings: VisualizationSettings,
        initial_images: Floats | None,
        noise: Floats,
        generator: np.random.Generator,
        labels: tuple[str, ...],
        revive_image: Callable[[Octave, int, Floats], Floats | None],
    ) -> None:
        self.history: list[Floats] = []
        self.frames: list[Floats] = []
        self.interrupted = False
        self._settings = settings
        self._initial_images = initial_images
        self._noise = noise
        self._generator = generator
        self._labels = labels
        self._revive_image = revive_image
        self._parameters: Floats = noise
        self._is_dead = np.zeros(len(labels), np.bool_)
        self._octave: Octave | None = None
        # The start for the regularizers: the initial images, or those of the noise.
        self._start: Floats | None = initial_images
        self._steps_at_last_frame = -1

    @property
    def octave(self) -> Octave:
        """The current octave."""
        if self._octave is None:
            raise RuntimeError("no octave was entered")
        return self._octave

    def enter(self, octave: Octave) -> None:
        """Make an octave the current one, and initialize it with the current images."""
        parametrization = self._settings.parametrization
        if self._octave is not None and self._start is not None:
            images = enlarge(self._octave.images(), self._initial_images, octave.size)
            self._parameters = parametrization.parameters(images)
            octave.initialize(self._parameters, start=resize(self._start, octave.size))
        elif self._initial_images is not None:
            images = resize(self._initial_images, octave.size)
            self._parameters = parametrization.parameters(images)
            octave.initialize(self._parameters, start=images)
        else:
            self._parameters = np.repeat(self._noise, len(self._labels), axis=0)
            octave.initialize(self._parameters)
            self._start = octave.images()
        self._octave = octave

    def optimize(self, steps: range, advance: Callable[[int], None]) -> None:
        """Take the steps of the current octave."""
        settings, octave = self._settings, self.octave
        for step in steps:
            coefficients = settings.optimizer.coefficients(
                step, settings.steps, reset_at=steps.start
            )
            transforms = octave.transforms.sample(self._generator)
            try:
                result = octave.step(coefficients, transforms)
                if step == steps.start and result.is_dead.any():
                    self._revive(octave, result.is_dead)
                    result = octave.step(coefficients, transforms)
            except NoGradientError as error:
                labels = ", ".join(map(repr, dict.fromkeys(self._labels)))
                raise NoGradientError(
                    f"{labels}: the loss has no gradient with respect to the image; compute it "
                    "from the layers' activations, with the table or the framework's operations"
                ) from error
            self._check_finite("loss", result.losses, step)
            self._check_finite("gradient of the loss", result.gradient_sums, step)
            self.history.append(result.losses)
            self._is_dead = result.is_dead
            # Frames are spread evenly over the steps, and the last one is the result.
            if (step + 1) * settings.frames // settings.steps > len(self.frames):
                self._record_frame()
            advance(1)
        self._check_images()

    def _revive(self, octave: Octave, is_dead: npt.NDArray[np.bool_]) -> None:
        """Start again, from images on which the dead units are alive."""
        parameters = self._parameters.copy()
        for index in np.flatnonzero(is_dead):
            # One by one, so that the result does not depend on the other images.
            revived = self._revive_image(octave, int(index), parameters[index : index + 1])
            if revived is not None:
                parameters[index] = revived[0]
        octave.restart(parameters)

    def warn_if_dead(self) -> None:
        """Warn of images that were not optimized, since their units are dead."""
        labels = dict.fromkeys(self._labels[index] for index in np.flatnonzero(self._is_dead))
        if labels:
            warn(
                f"the objective of {', '.join(map(repr, labels))} is 0 and has no gradient, so its "
                "image was not optimized: the unit is probably dead on this image; try another "
                "random_state or another start, or choose another unit"
            )

    def interrupt(self) -> None:
        """End the run after Ctrl-C.

        Raises
        ------
        KeyboardInterrupt
            If no octave was entered yet.
        """
        if self._octave is None:
            raise KeyboardInterrupt
        self.interrupted = True
        # The last frame is the result.
        if self._settings.frames and self._steps_at_last_frame != len(self.history):
            self._record_frame()

    def _record_frame(self) -> None:
        self.frames.append(self.octave.images())
        self._steps_at_last_frame = len(self.history)

    def _check_images(self) -> None:
        """Check the images after the last step of an octave, since no loss depends on it."""
        finite = np.isfinite(self.octave.images()).all(axis=(1, 2, 3))
        if not finite.all():
            raise NotFiniteError(
                f"the image of {self._labels[int(np.argmin(finite))]!r} is not finite after step "
                f"{len(self.history) - 1} (counted from 0); use a smaller learning rate"
            )

    def _check_finite(self, name: str, values: Floats, step: int) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            index = int(np.argmin(finite))
            raise NotFiniteError(
                f"the {name} of {self._labels[index]!r} is {values[index]} at step {step} (counted "
                "from 0); check for a division by 0, or a root or logarithm of 0"
            )


def _label(objective: Objective, classes: ClassNames) -> str:
    """Return the label of an image: of a class its name, even if the index was given."""
    if isinstance(objective, Class):
        return classes.name(classes.resolve(objective.target))
    return str(objective)


def _bind(
    program: Program, classes: ClassNames, objectives: Sequence[Objective], size: tuple[int, int]
) -> list[Evaluate]:
    """Return the objective functions for a network and a size; equal objectives share one."""
    layers = [layer for objective in objectives for layer in objective.layers]
    subject = Subject.of(program, layers, classes, *size)
    functions: dict[int, Evaluate] = {}
    for objective in objectives:
        if id(objective) not in functions:
            functions[id(objective)] = bind_checked(objective, subject)
    return [functions[id(objective)] for objective in objectives]


def _default_octaves(
    program: Program,
    classes: ClassNames,
    objectives: Sequence[Objective],
    size: tuple[int, int],
    max_octaves: int,
) -> tuple[list[tuple[int, int]], list[list[Evaluate]]]:
    """Return the sizes of as many octaves as possible, and the objective functions of each."""
    sizes = octave_sizes(size, 1)
    functions = [_bind(program, classes, objectives, size)]
    for octaves in range(2, max_octaves + 1):
        try:
            more_sizes = octave_sizes(size, octaves)
            first_functions = _bind(program, classes, objectives, more_sizes[0])
        except (ShapeError, UnknownNameError):
            # The network requires a larger size, or a neuron's position is outside of the layer.
            break
        sizes, functions = more_sizes, [first_functions, *functions]
    return sizes, functions


def _frames(
    frames: Sequence[Floats],
    initial_images: Floats | None,
    size: tuple[int, int],
    num_images: int,
) -> npt.NDArray[np.uint8]:
    """Return the recorded images in the size of the result, (frames, n, h, w, 3) uint8."""
    if not frames:
        return np.empty((0, num_images, *size, 3), np.uint8)
    return to_uint8(np.stack([enlarge(frame, initial_images, size) for frame in frames]))
