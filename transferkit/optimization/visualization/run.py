"""The run: from objectives and a start to pictures, step by step on the backend.

It knows of objectives, regularisers, parametrisations, transforms and optimisers only what
their base classes say, so that each is one choice, independent of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.backends.base import Backend, Table
from transferkit.errors import NoGradientError, NotFiniteError, ShapeError, UnknownNameError
from transferkit.models.class_names import ClassNames
from transferkit.optimization.objectives import (
    Class,
    Evaluate,
    Objective,
    Regularizer,
    Subject,
)
from transferkit.optimization.objectives.base import bind_checked, check_one_per_image
from transferkit.optimization.visualization.parametrizations import Parametrization
from transferkit.optimization.visualization.result import IdealImages, to_bytes
from transferkit.optimization.visualization.transforms import Transform, TransformChain
from transferkit.support.progress import show_progress
from transferkit.training import Optimizer

__all__ = ["Recipe", "optimize_images"]

Floats = npt.NDArray[np.float32]

# From one octave to the next, as in DeepDream.
_OCTAVE_SCALE = 1.4
# From noise: with fewer, parts of an animal are many and the whole is not there.
_USUAL_OCTAVES = 3
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Recipe:
    """How pictures are optimised, whatever for.

    Attributes
    ----------
    steps
        How many, all octaves together.
    octaves
        How many sizes, each 1.4 times the one before; None: 1 from pictures, and from noise 3,
        or as many as there can be.
    parametrization, transforms, regularizers, optimizer
        The choices.
    frames
        How many pictures are kept on the way.
    batch_size
        How many pictures are worked on at once.
    """

    steps: int
    octaves: int | None
    parametrization: Parametrization
    transforms: Sequence[Transform]
    regularizers: Sequence[Regularizer]
    optimizer: Optimizer
    frames: int
    batch_size: int


def optimize_images(
    program: Program,
    classes: ClassNames,
    objectives: Sequence[Objective],
    start: Floats | None,
    size: tuple[int, int],
    recipe: Recipe,
    *,
    seed: int,
    progress: bool | None,
) -> IdealImages:
    """Change pictures until objectives are large.

    Parameters
    ----------
    program
        The network on a backend with gradients.
    classes
        What its logits stand for.
    objectives
        One for each picture.
    start
        (n, h, w, 3) in [0, 1], the pictures to start from; None: noise, the same for each.
    size
        Height and width.
    recipe
        How.
    seed
        For noise and transforms. All pictures see the same draws, so that a picture becomes
        the same whatever others it is optimised together with.
    progress
        Whether a progress bar is shown; None: on a terminal.

    Raises
    ------
    UnknownNameError, AmbiguousNameError
        If an objective is for a class, layer or channel that there is not.
    ShapeError
        If the network cannot take pictures of a size, or an octave is too small.
    NotFiniteError
        If an objective or its derivative, the rate or a picture is not finite; names the step.
    NoGradientError
        If nothing that a picture is optimised for has a derivative in it.
    KeyboardInterrupt
        If it comes before there is any picture.
    """
    began = time.perf_counter()
    if recipe.octaves is not None:
        sizes = _octave_sizes(size, recipe.octaves)
        bound = [_bind(program, classes, objectives, octave_size) for octave_size in sizes]
    else:
        most = min(_USUAL_OCTAVES, recipe.steps) if start is None else 1
        sizes, bound = _usual_octaves(program, classes, objectives, size, most)
    targets = tuple(
        None if objective.target is None else classes.resolve(objective.target)
        for objective in objectives
    )
    for_noise, for_transforms = np.random.default_rng(seed).spawn(2)
    noise = recipe.parametrization.noise(for_noise, *sizes[0])
    layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
    loaded = program.load(layers)
    labels = tuple(_label(objective, classes) for objective in objectives)
    run = _Run(recipe, start, noise, for_transforms, labels)
    with show_progress("Optimising images", recipe.steps, shown=progress) as advance:
        try:
            for turn, octave_size in enumerate(sizes):
                run.enter(_Octave(program.backend, loaded, bound[turn], recipe, octave_size))
                steps = (recipe.steps * part // len(sizes) for part in (turn, turn + 1))
                run.optimize(range(*steps), advance)
        except KeyboardInterrupt:
            run.interrupt()
    return IdealImages(
        images=_enlarged(run.octave.images(), start, size),
        history=np.asarray(run.history, np.float32).reshape(-1, len(objectives)),
        labels=labels,
        targets=targets,
        interrupted=run.interrupted,
        seconds=time.perf_counter() - began,
        frames=_frames(run.frames, start, size, len(objectives)),
        _program=program,
    )


class _Chunk:
    """Some of the pictures, worked on together: their parameters, and what compiles to a step."""

    def __init__(
        self, step: Callable[..., dict[str, Any]], parameters: Any, anchor: Any, state: list[Any]
    ) -> None:
        self.step = step
        self.parameters = parameters
        self.anchor = anchor
        self.state = state


class _Octave:
    """Pictures of one size on their way, on the backend."""

    def __init__(
        self,
        backend: Backend,
        loaded: Callable[[Any], dict[str, Any]],
        bound: Sequence[Evaluate],
        recipe: Recipe,
        size: tuple[int, int],
    ) -> None:
        self.backend = backend
        self.recipe = recipe
        self.size = size
        self.chain = TransformChain(recipe.transforms)
        self._loaded = loaded
        self._bound = bound
        self._synthesis = recipe.parametrization.synthesis(backend.table, *size)
        self._change = self.chain.bind(backend.table, *size)
        self._to_images = backend.compile_tensors(self._synthesis)
        self._chunks: list[_Chunk] = []
        self._steps: dict[tuple[int, ...], Callable[..., dict[str, Any]]] = {}

    def begin(self, parameters: Floats, anchor: Floats | None = None) -> None:
        """Put parameters on the device; ``anchor`` are the pictures to stay near, if not these."""
        table = self.backend.table
        for start in range(0, len(parameters), self.recipe.batch_size):
            rows = slice(start, start + self.recipe.batch_size)
            # Copied, since a table may share memory with an array.
            tensor = table.asarray(parameters[rows].copy())
            near = self._to_images(tensor) if anchor is None else table.asarray(anchor[rows].copy())
            state = [
                table.asarray(np.zeros_like(parameters[rows]))
                for _ in range(self.recipe.optimizer.num_slots)
            ]
            self._chunks.append(_Chunk(self._compiled(self._bound[rows]), tensor, near, state))

    def advance(
        self, numbers: npt.NDArray[np.float32], drawn: Sequence[npt.NDArray[np.float64]]
    ) -> tuple[Floats, Floats]:
        """One step of every picture: the losses before it, and the sums of the derivatives."""
        table = self.backend.table
        inputs = [table.asarray(numbers), *map(table.asarray, drawn)]
        losses, slopes = [], []
        stepped = [
            chunk.step(chunk.parameters, chunk.anchor, *inputs, *chunk.state)
            for chunk in self._chunks
        ]
        # All or none: Ctrl-C leaves no picture a step ahead of others.
        for chunk, found in zip(self._chunks, stepped, strict=True):
            losses.append(table.to_numpy(found["losses"]))
            slopes.append(table.to_numpy(found["slopes"]))
            chunk.parameters = found["parameters"]
            chunk.state = [found[f"state {place}"] for place in range(len(chunk.state))]
        return np.concatenate(losses), np.concatenate(slopes)

    def images(self) -> Floats:
        """The pictures as they are now."""
        found = [
            self.backend.table.to_numpy(self._to_images(chunk.parameters)) for chunk in self._chunks
        ]
        images: Floats = np.clip(np.concatenate(found), 0.0, 1.0)
        return images

    def _compiled(self, bound: Sequence[Evaluate]) -> Callable[..., dict[str, Any]]:
        """The step of a batch; batches with the same objectives share one."""
        wanted = tuple(map(id, bound))
        # One objective for all does not depend on how many they are.
        key = wanted[:1] if len(set(wanted)) == 1 else wanted
        if key not in self._steps:
            self._steps[key] = self.backend.compile_tensors(self._step(bound))
        return self._steps[key]

    def _step(self, bound: Sequence[Evaluate]) -> Callable[..., dict[str, Any]]:
        """One step over tensors: parameters, anchor, numbers, what was drawn, state."""
        table, recipe = self.backend.table, self.recipe
        number_drawn = self.chain.number
        objectives = _together(bound)

        def losses(parameters: Any, anchor: Any, *drawn: Any) -> Any:
            images = self._synthesis(parameters)
            activations = self._loaded(self._change(images, drawn))
            total = table.multiply(objectives(table, activations), table.asarray(-1.0))
            for regularizer in recipe.regularizers:
                penalty = regularizer.evaluate(table, images, anchor)
                what = f"regularizer {type(regularizer).__name__}"
                total = table.add(total, check_one_per_image(penalty, images.shape[0], what))
            return total

        differentiated = self.backend.value_and_grad(losses)

        def step(parameters: Any, anchor: Any, numbers: Any, *others: Any) -> dict[str, Any]:
            drawn, state = others[:number_drawn], others[number_drawn:]
            found = differentiated(parameters, anchor, *drawn)
            gradient = found["gradient"]
            parameters, state = recipe.optimizer.update(table, parameters, gradient, state, numbers)
            return {
                "losses": found["value"],
                "slopes": table.sum(table.flatten(gradient), axes=(1,)),
                "parameters": recipe.parametrization.project(table, parameters),
                **{f"state {place}": kept for place, kept in enumerate(state)},
            }

        return step


class _Run:
    """What goes on from octave to octave.

    Attributes
    ----------
    history
        The losses before each step.
    frames
        Pictures on the way, each in the size of its octave.
    interrupted
        Whether Ctrl-C ended it.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: Floats | None,
        noise: Floats,
        generator: np.random.Generator,
        labels: tuple[str, ...],
    ) -> None:
        self.history: list[Floats] = []
        self.frames: list[Floats] = []
        self.interrupted = False
        self._recipe = recipe
        self._start = start
        self._noise = noise
        self._generator = generator
        self._labels = labels
        self._octave: _Octave | None = None
        # What pictures are to stay near, in the size in which they began.
        self._anchor: Floats | None = start
        self._steps_at_last_frame = -1

    @property
    def octave(self) -> _Octave:
        """The one that was entered last."""
        if self._octave is None:
            raise RuntimeError("no octave was entered")
        return self._octave

    def enter(self, octave: _Octave) -> None:
        """Go over to an octave, with the pictures as they are."""
        parametrization = self._recipe.parametrization
        if self._octave is not None and self._anchor is not None:
            images = _enlarged(self._octave.images(), self._start, octave.size)
            octave.begin(parametrization.parameters(images), _resized(self._anchor, octave.size))
        elif self._start is not None:
            images = _resized(self._start, octave.size)
            octave.begin(parametrization.parameters(images), images)
        else:
            octave.begin(np.repeat(self._noise, len(self._labels), axis=0))
            self._anchor = octave.images()
        self._octave = octave

    def optimize(self, steps: range, advance: Callable[[int], None]) -> None:
        """Go through the steps of an octave."""
        recipe, octave = self._recipe, self.octave
        for step in steps:
            numbers = recipe.optimizer.coefficients(step, recipe.steps, reset_at=steps.start)
            try:
                losses, slopes = octave.advance(numbers, octave.chain.draw(self._generator))
            except NoGradientError as error:
                wanted = ", ".join(map(repr, dict.fromkeys(self._labels)))
                raise NoGradientError(
                    f"{wanted}: nothing of this has a derivative in the pixels; make it of the "
                    "layers' activations, by the table or the framework's own operations"
                ) from error
            self._check(step, losses, slopes)
            self.history.append(losses)
            # So many that they are spread evenly, and the last is the result.
            if (step + 1) * recipe.frames // recipe.steps > len(self.frames):
                self._keep_frame()
            advance(1)
        self._check_pictures()

    def interrupt(self) -> None:
        """Leave it as it is.

        Raises
        ------
        KeyboardInterrupt
            If no octave was entered yet.
        """
        if self._octave is None:
            raise KeyboardInterrupt
        self.interrupted = True
        # The last frame is the result.
        if self._recipe.frames and self._steps_at_last_frame != len(self.history):
            self._keep_frame()

    def _keep_frame(self) -> None:
        self.frames.append(self.octave.images())
        self._steps_at_last_frame = len(self.history)

    def _check_pictures(self) -> None:
        """What the last step of an octave did no loss tells of."""
        finite = np.isfinite(self.octave.images()).all(axis=(1, 2, 3))
        if not finite.all():
            raise NotFiniteError(
                f"step {len(self.history) - 1}, counted from 0: the picture of "
                f"{self._labels[int(np.argmin(finite))]!r} is not finite after it"
            )

    def _check(self, step: int, losses: Floats, slopes: Floats) -> None:
        for what, values in (("loss", losses), ("derivative of the loss", slopes)):
            if not np.isfinite(values).all():
                place = int(np.argmin(np.isfinite(values)))
                raise NotFiniteError(
                    f"step {step}, counted from 0: the {what} of {self._labels[place]!r} is "
                    f"{values[place]}; look for a division by 0, or a root or logarithm of it"
                )


def _label(objective: Objective, classes: ClassNames) -> str:
    """What a picture is called: a class by its name, however it was given."""
    if isinstance(objective, Class):
        return classes.name(classes.resolve(objective.target))
    return str(objective)


def _bind(
    program: Program, classes: ClassNames, objectives: Sequence[Objective], size: tuple[int, int]
) -> list[Evaluate]:
    """The objectives for a network and a size; each that is given several times only once."""
    layers = [layer for objective in objectives for layer in objective.layers]
    subject = Subject.of(program, layers, classes, *size)
    found: dict[int, Evaluate] = {}
    for objective in objectives:
        if id(objective) not in found:
            found[id(objective)] = bind_checked(objective, subject)
    return [found[id(objective)] for objective in objectives]


def _usual_octaves(
    program: Program,
    classes: ClassNames,
    objectives: Sequence[Objective],
    size: tuple[int, int],
    most: int,
) -> tuple[list[tuple[int, int]], list[list[Evaluate]]]:
    """The sizes of as many octaves as there can be, and the objectives for each."""
    sizes = _octave_sizes(size, 1)
    bound = [_bind(program, classes, objectives, size)]
    for octaves in range(2, most + 1):
        try:
            smaller = _octave_sizes(size, octaves)
            fitting = _bind(program, classes, objectives, smaller[0])
        except (ShapeError, UnknownNameError):
            # Too small for the network, which may take one size only, or for a neuron's place.
            break
        sizes, bound = smaller, [fitting, *bound]
    return sizes, bound


def _together(bound: Sequence[Evaluate]) -> Evaluate:
    """The objective of each picture of a batch, (n,), each made of its own activations."""
    if all(evaluate is bound[0] for evaluate in bound):
        return bound[0]

    def evaluate(table: Table[Any], activations: Mapping[str, Any]) -> Any:
        values = []
        for place, one in enumerate(bound):
            alone = {
                layer: table.slice(x, axis=0, start=place, stop=place + 1)
                for layer, x in activations.items()
            }
            values.append(one(table, alone))
        return table.concat(*values, axis=0)

    return evaluate


def _octave_sizes(size: tuple[int, int], octaves: int) -> list[tuple[int, int]]:
    """The sizes of the octaves, the smallest first."""
    sizes = []
    for smaller in reversed(range(octaves)):
        height, width = (round(side / _OCTAVE_SCALE**smaller) for side in size)
        if min(height, width) < _SMALLEST_SIDE:
            raise ShapeError(
                f"{octaves} octaves of {size[0]} x {size[1]} pixels would begin with "
                f"{height} x {width}; take fewer, or a larger size"
                if octaves > 1
                else f"pictures of {height} x {width} are too small; take at least "
                f"{_SMALLEST_SIDE} x {_SMALLEST_SIDE}"
            )
        sizes.append((height, width))
    return sizes


def _enlarged(images: Floats, start: Floats | None, size: tuple[int, int]) -> Floats:
    """Pictures in the next octave's size; with what shrinking took from those they began as."""
    larger = _resized(images, size)
    if start is None:
        return larger
    shrunk = _resized(start, (images.shape[1], images.shape[2]))
    lost = _resized(start, size) - _resized(shrunk, size)
    return np.clip(larger + lost, 0.0, 1.0)


def _resized(images: Floats, size: tuple[int, int]) -> Floats:
    """Pictures in another size, smoothed where they become smaller."""
    if images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, 3), np.float32)
    for place, image in enumerate(images):
        for channel in range(3):
            # Pillow resizes floats in one channel only.
            picture = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            resized[place, ..., channel] = np.asarray(picture)
    return resized


def _frames(
    frames: Sequence[Floats], start: Floats | None, size: tuple[int, int], number: int
) -> npt.NDArray[np.uint8]:
    if not frames:
        return np.empty((0, number, *size, 3), np.uint8)
    images = np.stack([_enlarged(frame, start, size) for frame in frames])
    return to_bytes(images)
