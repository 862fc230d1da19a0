"""Octaves, as in DeepDream: the sizes at which images are optimized in turn, and one of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Backend, Table
from transferkit.errors import ShapeError
from transferkit.images.resizing import resize
from transferkit.optimization.objectives import Evaluate
from transferkit.optimization.objectives.base import check_one_per_image
from transferkit.optimization.visualization.settings import VisualizationSettings
from transferkit.optimization.visualization.transforms import TransformChain

__all__ = ["Octave", "StepResult", "enlarge", "octave_sizes"]

Floats: TypeAlias = npt.NDArray[np.float32]
Step: TypeAlias = Callable[..., dict[str, Any]]
"""A compiled step: from parameters, start, coefficients, random parameters and slots to results."""

# The ratio of successive sizes in DeepDream.
_OCTAVE_SCALE = 1.4
_MIN_SIDE = 8


def octave_sizes(size: tuple[int, int], octaves: int) -> list[tuple[int, int]]:
    """Return the height and width of each octave, the smallest first.

    Parameters
    ----------
    size
        The height and width of the last octave.
    octaves
        The number of octaves.

    Raises
    ------
    ShapeError
        If the first octave has fewer than 8 pixels on a side.

    Examples
    --------
    >>> from transferkit.optimization.visualization.octave import octave_sizes
    >>> octave_sizes((224, 224), 3)
    [(114, 114), (160, 160), (224, 224)]
    """
    sizes = []
    for exponent in reversed(range(octaves)):
        height, width = (round(side / _OCTAVE_SCALE**exponent) for side in size)
        if min(height, width) < _MIN_SIDE:
            raise ShapeError(
                f"the first of {octaves} octaves of {size[0]} x {size[1]} pixels has only "
                f"{height} x {width}; expected at least {_MIN_SIDE} x {_MIN_SIDE}: use fewer "
                "octaves or a larger size"
                if octaves > 1
                else f"images of {height} x {width} are too small; expected at least "
                f"{_MIN_SIDE} x {_MIN_SIDE} pixels"
            )
        sizes.append((height, width))
    return sizes


def enlarge(images: Floats, initial_images: Floats | None, size: tuple[int, int]) -> Floats:
    """Resize images to the size of the next octave, and restore lost detail.

    Parameters
    ----------
    images
        (n, h, w, 3) in [0, 1].
    initial_images
        (n, ...), the images that the run started from, in full size; None if it started from
        noise. The detail that they lost when they were reduced to the size of ``images`` is
        added.
    size
        The new height and width.

    Returns
    -------
    array
        (n, *size, 3), float32 in [0, 1].
    """
    enlarged = resize(images, size)
    if initial_images is None:
        return enlarged
    reduced = resize(initial_images, (images.shape[1], images.shape[2]))
    lost_detail = resize(initial_images, size) - resize(reduced, size)
    return np.clip(enlarged + lost_detail, 0.0, 1.0)


class StepResult(NamedTuple):
    """What is known about the images before a step.

    Attributes
    ----------
    losses
        (n,) the loss of each image.
    gradient_sums
        (n,) the sum of each image's gradient, which is not finite if a value of it is not.
    is_dead
        (n,) bool: whether the objective is 0 and does not contribute to the gradient, as far as
        can be told from the gradient of the loss.
    """

    losses: Floats
    gradient_sums: Floats
    is_dead: npt.NDArray[np.bool_]


@dataclass
class _Batch:
    """Images that are computed together.

    Attributes
    ----------
    step
        The compiled step.
    parameters
        The parameters of the images.
    start
        The images that the regularizers take as the start.
    slots
        The slots of the optimizer.
    """

    step: Step
    parameters: Any
    start: Any
    slots: list[Any]


class Octave:
    """The optimization of images at one size, on the backend.

    Parameters
    ----------
    backend
        The backend.
    compute_activations
        The function over tensors from images to activations.
    objectives
        The objective function of each image, bound to the network at this size.
    settings
        The settings of the run.
    size
        The height and width of the images.
    """

    def __init__(
        self,
        backend: Backend,
        compute_activations: Callable[[Any], dict[str, Any]],
        objectives: Sequence[Evaluate],
        settings: VisualizationSettings,
        size: tuple[int, int],
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.size = size
        self.transforms = TransformChain(settings.transforms)
        self._compute_activations = compute_activations
        self._objectives = objectives
        self._synthesis = settings.parametrization.synthesis(backend.table, *size)
        self._transform = self.transforms.bind(backend.table, *size)
        self._to_images = backend.compile_tensors(self._synthesis)
        self._batches: list[_Batch] = []
        self._steps: dict[tuple[int, ...], Step] = {}

    def initialize(self, parameters: Floats, start: Floats | None = None) -> None:
        """Copy the parameters to the device, and set the slots of the optimizer to 0.

        Parameters
        ----------
        parameters
            (n, ...), the parameters of the images.
        start
            (n, h, w, 3), the images that the regularizers take as the start; None: the images of
            ``parameters``.
        """
        table = self.backend.table
        for first in range(0, len(parameters), self.settings.batch_size):
            rows = slice(first, first + self.settings.batch_size)
            # Copied, since a tensor may share memory with its array.
            tensor = table.asarray(parameters[rows].copy())
            batch_start = (
                self._to_images(tensor) if start is None else table.asarray(start[rows].copy())
            )
            slots = [
                table.asarray(np.zeros_like(parameters[rows]))
                for _ in range(self.settings.optimizer.num_slots)
            ]
            step = self._compiled_step(self._objectives[rows])
            self._batches.append(_Batch(step, tensor, batch_start, slots))

    def step(
        self,
        coefficients: npt.NDArray[np.float64],
        transform_parameters: Sequence[npt.NDArray[np.float64]],
    ) -> StepResult:
        """Take one step with every image.

        Parameters
        ----------
        coefficients
            The coefficients of the optimizer.
        transform_parameters
            The random parameters of the transforms.
        """
        table = self.backend.table
        inputs = [table.asarray(coefficients), *map(table.asarray, transform_parameters)]
        results = [
            batch.step(batch.parameters, batch.start, *inputs, *batch.slots)
            for batch in self._batches
        ]
        # Updated only after all steps, so that after Ctrl-C all images have as many steps.
        losses, gradient_sums, is_dead = [], [], []
        for batch, result in zip(self._batches, results, strict=True):
            losses.append(table.to_numpy(result["losses"]))
            gradient_sums.append(table.to_numpy(result["gradient sums"]))
            of_batch = table.to_numpy(result["objectives"]) == 0
            if not self.settings.regularizers:
                of_batch &= table.to_numpy(result["gradient norms"]) == 0
            is_dead.append(of_batch)
            batch.parameters = result["parameters"]
            batch.slots = [result[f"slot {index}"] for index in range(len(batch.slots))]
        return StepResult(*map(np.concatenate, (losses, gradient_sums, is_dead)))

    def restart(self, parameters: Floats) -> None:
        """Replace the parameters of the images, and set the slots of the optimizer to 0."""
        table = self.backend.table
        for index, batch in enumerate(self._batches):
            first = index * self.settings.batch_size
            rows = parameters[first : first + self.settings.batch_size]
            batch.parameters = table.asarray(rows.copy())
            batch.slots = [table.asarray(np.zeros_like(rows)) for _ in batch.slots]

    def parameters(self) -> Floats:
        """Return the current parameters of the images, (n, ...)."""
        table = self.backend.table
        return np.concatenate([table.to_numpy(batch.parameters) for batch in self._batches])

    def images(self) -> Floats:
        """Return the current images, (n, h, w, 3), float32 in [0, 1]."""
        table = self.backend.table
        arrays = [table.to_numpy(self._to_images(batch.parameters)) for batch in self._batches]
        images: Floats = np.clip(np.concatenate(arrays), 0.0, 1.0)
        return images

    def _compiled_step(self, objectives: Sequence[Evaluate]) -> Step:
        """Return the compiled step of a batch; batches with the same objectives share one."""
        key = tuple(map(id, objectives))
        if len(set(key)) == 1:
            # A step with one objective for all images works for every batch size.
            key = key[:1]
        if key not in self._steps:
            self._steps[key] = self.backend.compile_tensors(self._make_step(objectives))
        return self._steps[key]

    def _make_step(self, objectives: Sequence[Evaluate]) -> Step:
        """Return one step as a function over tensors, to be compiled."""
        table, settings = self.backend.table, self.settings
        objective = _evaluate_per_image(objectives)

        def losses(parameters: Any, start: Any, *transform_parameters: Any) -> Any:
            images = self._synthesis(parameters)
            activations = self._compute_activations(self._transform(images, transform_parameters))
            objectives = objective(table, activations)
            total = table.multiply(objectives, table.asarray(-1.0))
            for regularizer in settings.regularizers:
                penalty = regularizer.evaluate(table, images, start)
                source = f"regularizer {type(regularizer).__name__}"
                total = table.add(total, check_one_per_image(penalty, images.shape[0], source))
            return {"value": total, "objectives": objectives}

        losses_and_gradient = self.backend.value_and_grad(losses)

        def step(parameters: Any, start: Any, coefficients: Any, *inputs: Any) -> dict[str, Any]:
            transform_parameters = inputs[: len(self.transforms)]
            slots = inputs[len(self.transforms) :]
            result = losses_and_gradient(parameters, start, *transform_parameters)
            gradient = result["gradient"]
            parameters, slots = settings.optimizer.update(
                table, parameters, gradient, slots, coefficients
            )
            return {
                "losses": result["value"],
                "objectives": result["objectives"],
                "gradient sums": table.sum(table.flatten(gradient), axes=(1,)),
                "gradient norms": table.sum(table.absolute(table.flatten(gradient)), axes=(1,)),
                "parameters": settings.parametrization.project(table, parameters),
                **{f"slot {index}": slot for index, slot in enumerate(slots)},
            }

        return step


def _evaluate_per_image(objectives: Sequence[Evaluate]) -> Evaluate:
    """Return a function that evaluates each objective on the activations of its image, (n,)."""
    if all(objective is objectives[0] for objective in objectives):
        return objectives[0]

    def evaluate(table: Table[Any], activations: Mapping[str, Any]) -> Any:
        values = []
        for index, objective in enumerate(objectives):
            of_image = {
                layer: table.slice(x, axis=0, start=index, stop=index + 1)
                for layer, x in activations.items()
            }
            values.append(objective(table, of_image))
        return table.concat(*values, axis=0)

    return evaluate
