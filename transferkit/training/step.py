"""One step of training, compiled: gradient, clipping, update and moving average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Backend, StatelessFunction
from transferkit.backends.stateless import apply_network
from transferkit.errors import NotFiniteError
from transferkit.networks.graph import Network
from transferkit.networks.training import BATCH_NORM_TRAINING
from transferkit.training.averages import moving_average
from transferkit.training.losses import cross_entropy
from transferkit.training.optimizers import Optimizer
from transferkit.training.vectors import VectorLayout

__all__ = [
    "ParameterGroups",
    "StepResult",
    "TrainingBatch",
    "TrainingState",
    "TrainingStep",
    "images_at_once",
]

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Mapping[str, Any]

# The elements of the images for which backends state how many are fastest at a time.
_ELEMENTS = 224 * 224 * 3
# Added to the norm that a gradient is divided by, as in PyTorch.
_TINY_NORM = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatch:
    """The input of one step.

    Attributes
    ----------
    x
        (n, ...) the input of the network: pixels or activations, float32.
    targets
        (n, c) the probability of each class, float32.
    weights
        (n,) the weight of each image in the loss; the mean over the data set is 1.
    draws
        The mask of each node that has one, by its name; the first axis is the images.
    """

    x: Array
    targets: Array
    weights: Array
    draws: Mapping[str, Array] = field(default_factory=dict)

    def parts(self, size: int | None) -> Iterator[TrainingBatch]:
        """Yield the batch in parts of at most ``size`` images, of nearly equal size."""
        count = 1 if size is None else -(-len(self.x) // size)
        bounds = np.linspace(0, len(self.x), count + 1).round().astype(int)
        for start, stop in pairwise(bounds):
            yield TrainingBatch(
                self.x[start:stop],
                self.targets[start:stop],
                self.weights[start:stop],
                {name: mask[start:stop] for name, mask in self.draws.items()},
            )


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """What a step changes, as tensors of a backend.

    Attributes
    ----------
    trained
        The parameters that are trained, by name.
    fixed
        The other parameters: those that are not trained, and running statistics.
    vectors
        Vectors of the elements of all trained parameters: ``"trained"``, of which those of
        ``trained`` are parts; ``"slot0"`` and so on, the slots of the optimizer; ``"average"``,
        the moving average, if there is one.
    averaged_statistics
        The moving average of the running statistics, by name; empty if there is none.
    """

    trained: Tensors
    fixed: Tensors
    vectors: Tensors
    averaged_statistics: Tensors


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step reports.

    Attributes
    ----------
    loss
        The mean loss of the batch before the step.
    accuracy
        The fraction of the batch whose most probable class is that of the targets.
    gradient_norm
        The Euclidean norm of the gradient before clipping.
    """

    loss: float
    accuracy: float
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """How single parameters differ in training.

    Attributes
    ----------
    learning_rate_factors
        The factor of the learning rate of each trained parameter, greater than 0.
    decayed
        The names of the parameters with weight decay.
    statistics
        The names of the parameters that steps change without a gradient: running statistics.
    """

    learning_rate_factors: Mapping[str, float]
    decayed: frozenset[str]
    statistics: frozenset[str] = frozenset()


class TrainingStep:
    """A step of training on a backend, compiled for each shape of a batch.

    Parameters
    ----------
    backend
        A backend with the capability ``"training"``.
    network
        The network, prepared by the passes of `transferkit.networks.training`.
    groups
        The parameters that are trained, their learning rates and their decay.
    optimizer
        The optimizer.
    clip_norm
        The largest norm of the gradient of all parameters; a longer one is scaled down (Pascanu
        et al., 2013, "On the difficulty of training recurrent neural networks", algorithm 1).
        None: any.
    clip_value
        The largest absolute value in the gradient; larger ones are replaced by it. None: any.
    l2_sp
        The weight of the penalty ``l2_sp / 2 * sum((parameters - initial parameters) ** 2)`` on
        the parameters with decay that were pre-trained (Li et al., 2018, "Explicit Inductive Bias
        for Transfer Learning with Convolutional Networks", equation 4); 0: none.
    average_decay
        The decay of the moving average of the parameters, in [0, 1); None: no average.
    wrapped
        The model object that computes the wrapped nodes of ``network``, if it has any.
    anchors
        The initial value of each parameter with the penalty ``l2_sp``.
    """

    def __init__(
        self,
        backend: Backend,
        network: Network,
        groups: ParameterGroups,
        optimizer: Optimizer,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        l2_sp: float = 0.0,
        average_decay: float | None = None,
        wrapped: StatelessFunction | None = None,
        anchors: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self.backend = backend
        self.network = network
        self.groups = groups
        self.optimizer = optimizer
        self._table = backend.table
        self._slots = [f"slot{index}" for index in range(optimizer.num_slots)]
        self._clip_norm = clip_norm
        self._clip_value = clip_value
        self._l2_sp = l2_sp
        self._average_decay = average_decay
        self._wrapped = wrapped
        self._anchors = anchors
        self._constants: Tensors | None = None
        self._logits = network.resolve("logits")
        self._differentiate = backend.value_and_grad(self._loss_and_updates)
        self._compute_gradient = backend.compile_tensors(self._loss_and_gradient)
        self._sum = backend.compile_tensors(self._table.add)
        self._update = backend.compile_tensors(self._update_state)
        self._split = backend.compile_tensors(self._split_vector)
        self._compute_logits = backend.compile_tensors(self._evaluate)

    def initial_state(self, parameters: Mapping[str, Array]) -> TrainingState:
        """Return the state before the first step.

        Parameters
        ----------
        parameters
            All parameters of the network, by name.
        """
        groups = self.groups
        zeros = {name: np.zeros_like(parameters[name]) for name in groups.learning_rate_factors}
        slots = dict.fromkeys(self._slots, zeros)
        trained = {name: parameters[name] for name in groups.learning_rate_factors}
        fixed = {name: array for name, array in parameters.items() if name not in trained}
        average: Mapping[str, Array] = {}
        if self._average_decay is not None:
            average = {**trained, **{name: fixed[name] for name in groups.statistics}}
        arrays = {"trained": trained, "fixed": fixed, "average": average, **slots}
        return self.state_from_numpy(arrays)

    def state_to_numpy(self, state: TrainingState) -> dict[str, Mapping[str, Array]]:
        """Return the arrays of a state by name, in groups, which `state_from_numpy` takes."""
        layout = self._layout(state.trained)
        groups = {
            group: layout.split(self._table, vector)
            for group, vector in state.vectors.items()
            if group != "average"
        }
        groups |= {"fixed": dict(state.fixed), "average": self.average(state)}
        return {group: self.to_numpy(tensors) for group, tensors in groups.items()}

    def state_from_numpy(self, arrays: Mapping[str, Mapping[str, Array]]) -> TrainingState:
        """Return the state whose arrays `state_to_numpy` returned."""
        names = ["trained", *self._slots, *(["average"] if arrays["average"] else [])]
        groups = {name: self.from_numpy(arrays[name]) for name in names}
        layout = self._layout(groups["trained"])
        vectors = {name: layout.join(self._table, tensors) for name, tensors in groups.items()}
        # Parts of the vector, as after a step: how sums are rounded depends on the alignment.
        trained = layout.split(self._table, vectors["trained"])
        average = groups.get("average", {})
        statistics = {name: average[name] for name in self.groups.statistics if average}
        return TrainingState(trained, self.from_numpy(arrays["fixed"]), vectors, statistics)

    def average(self, state: TrainingState) -> dict[str, Any]:
        """Return the moving average of the trained parameters and statistics; {}: there is none."""
        if "average" not in state.vectors:
            return {}
        layout = self._layout(state.trained)
        parameters = layout.split(self._table, state.vectors["average"])
        return {**parameters, **state.averaged_statistics}

    def run(
        self, state: TrainingState, batch: TrainingBatch, coefficients: Array
    ) -> tuple[TrainingState, StepResult]:
        """Take one step.

        Parameters
        ----------
        state
            The state before the step.
        batch
            The images of the step. The gradient is summed over parts of `images_at_once` images,
            unless a batch norm normalizes by the batch.
        coefficients
            `Optimizer.coefficients` of the step.

        Raises
        ------
        NotFiniteError
            If the loss or the gradient is NaN or infinite; ``state`` is unchanged.
        """
        table = self._table
        size = (
            None if self._needs_whole_batch() else images_at_once(self.backend, batch.x.shape[1:])
        )
        count = table.asarray([float(len(batch.x))])
        gradient: Any = None
        losses, hits = 0.0, 0
        fixed = state.fixed
        for part in batch.parts(size):
            result = self._compute_gradient(
                dict(state.trained),
                dict(fixed),
                self.from_numpy(part.draws),
                table.asarray(part.x),
                table.asarray(part.targets),
                table.asarray(part.weights),
                count,
            )
            losses += float(table.to_numpy(result["value"]).sum())
            predicted = table.to_numpy(result["logits"]).argmax(axis=1)
            hits += int((predicted == part.targets.argmax(axis=1)).sum())
            fixed = {**fixed, **result["updates"]}
            of_part = result["gradient"]
            gradient = of_part if gradient is None else self._sum(gradient, of_part)
        if not np.isfinite(losses):
            raise NotFiniteError(f"the loss is {losses}")
        updated = self._update(
            dict(state.vectors),
            gradient,
            dict(state.averaged_statistics),
            {name: fixed[name] for name in state.averaged_statistics},
            self._constants_of(state.trained),
            table.asarray(coefficients),
        )
        norm = float(table.to_numpy(updated["norm"]).sum())
        if not np.isfinite(norm):
            raise NotFiniteError(f"the norm of the gradient is {norm}")
        vectors = updated["vectors"]
        trained = self._split(dict(state.trained), vectors["trained"])
        after = TrainingState(trained, fixed, vectors, updated["statistics"])
        return after, StepResult(losses, hits / len(batch.x), norm)

    def logits(self, parameters: Tensors, x: Array) -> Array:
        """Return the logits (n, c) of a batch ``x`` with some parameters, as at inference."""
        size = self.backend.micro_batch_size or len(x)
        parts = [
            self._compute_logits(dict(parameters), self._table.asarray(x[start : start + size]))
            for start in range(0, len(x), size)
        ]
        return np.concatenate([self._table.to_numpy(part) for part in parts])

    def from_numpy(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Return the tensors of some arrays, whose memory they do not share."""
        # A table may share the memory of an array.
        return {name: self._table.asarray(np.array(array)) for name, array in arrays.items()}

    def to_numpy(self, tensors: Tensors) -> dict[str, Array]:
        """Return the arrays of some tensors."""
        return {name: self._table.to_numpy(tensor) for name, tensor in tensors.items()}

    def _needs_whole_batch(self) -> bool:
        """Return whether the loss of an image depends on the other images of its batch."""
        # Statistics are updated where batch norms, possibly of a model object, see the batch.
        return bool(self.groups.statistics) or any(
            node.operation == BATCH_NORM_TRAINING for node in self.network.nodes
        )

    def _loss_and_gradient(self, trained: Tensors, *rest: Any) -> dict[str, Any]:
        result = self._differentiate(trained, *rest)
        gradient = self._layout(trained).join(self._table, result["gradient"])
        return {**result, "gradient": gradient}

    def _loss_and_updates(
        self, trained: Tensors, fixed: Tensors, draws: Tensors, x: Any, targets: Any, *rest: Any
    ) -> dict[str, Any]:
        weights, count = rest
        outputs, updates = apply_network(
            self._table,
            self.network,
            {**fixed, **trained},
            x,
            [self._logits],
            training=True,
            draws=draws,
            wrapped=self._wrapped,
        )
        logits = outputs[self._logits]
        losses = self._table.multiply(cross_entropy(self._table, logits, targets), weights)
        value = self._table.divide(losses, count)
        return {"value": value, "logits": logits, "updates": updates}

    def _evaluate(self, parameters: Tensors, x: Any) -> Any:
        outputs, _ = apply_network(
            self._table,
            self.network,
            parameters,
            x,
            [self._logits],
            training=False,
            draws={},
            wrapped=self._wrapped,
        )
        return outputs[self._logits]

    def _update_state(
        self,
        vectors: Tensors,
        gradient: Any,
        averaged: Tensors,
        statistics: Tensors,
        constants: Tensors,
        coefficients: Any,
    ) -> dict[str, Any]:
        table, parameters = self._table, vectors["trained"]
        norm = table.sqrt(table.sum(table.multiply(gradient, gradient), axes=(0,), keepdims=True))
        gradient = self._clip(gradient, norm)
        if self._l2_sp:
            distance = table.subtract(parameters, constants["anchors"])
            penalty = table.multiply(distance, constants["l2_sp"])
            gradient = table.add(gradient, penalty)
        parameters, slots = self.optimizer.update(
            table,
            parameters,
            gradient,
            tuple(vectors[name] for name in self._slots),
            coefficients,
            learning_rate_factor=constants["learning_rate_factor"],
            decay_factor=constants["decay_factor"],
        )
        updated = {"trained": parameters, **dict(zip(self._slots, slots, strict=True))}
        decay = self._average_decay or 0.0
        if "average" in vectors:
            updated["average"] = moving_average(table, vectors["average"], parameters, decay)
        return {
            "vectors": updated,
            "statistics": {
                name: moving_average(table, averaged[name], value, decay)
                for name, value in statistics.items()
            },
            "norm": norm,
        }

    def _split_vector(self, trained: Tensors, vector: Any) -> dict[str, Any]:
        """Return the parts of a vector, which have the shapes of those of ``trained``."""
        return self._layout(trained).split(self._table, vector)

    def _layout(self, trained: Tensors) -> VectorLayout:
        # In the order of the groups: how sums are rounded depends on it.
        names = self.groups.learning_rate_factors
        return VectorLayout({name: tuple(trained[name].shape) for name in names})

    def _clip(self, gradient: Any, norm: Any) -> Any:
        table = self._table
        if self._clip_norm is not None:
            ratio = table.divide(
                table.asarray(self._clip_norm), table.add(norm, table.asarray(_TINY_NORM))
            )
            gradient = table.multiply(gradient, table.clip(ratio, low=0.0, high=1.0))
        if self._clip_value is not None:
            gradient = table.clip(gradient, low=-self._clip_value, high=self._clip_value)
        return gradient

    def _constants_of(self, trained: Tensors) -> Tensors:
        """Return what `_update_state` needs besides the state, made once."""
        if self._constants is None:
            layout, groups = self._layout(trained), self.groups
            decays = {name: float(name in groups.decayed) for name in trained}
            constants: dict[str, Any] = {
                "learning_rate_factor": layout.repeat(groups.learning_rate_factors),
                "decay_factor": layout.repeat(decays),
            }
            if self._l2_sp:
                weights = {name: self._l2_sp * (name in self._anchors) for name in trained}
                zeros = {name: np.zeros(shape) for name, shape in layout.shapes.items()}
                anchors = {**zeros, **self._anchors}
                constants["l2_sp"] = layout.repeat(weights)
                constants["anchors"] = np.concatenate(
                    [anchors[name].ravel() for name in layout.shapes]
                )
            self._constants = self.from_numpy(constants)
        return self._constants


def images_at_once(backend: Backend, shape: tuple[int, ...]) -> int | None:
    """Return the number of images whose gradient is computed at a time; None: any number.

    Parameters
    ----------
    backend
        The backend, whose ``training_micro_batch_size`` is for images of 224 x 224 pixels.
    shape
        The shape of one image, or of the activations that replace it. If they have fewer elements,
        more images are computed at a time.
    """
    size = backend.training_micro_batch_size
    return None if size is None else max(1, round(size * _ELEMENTS / math.prod(shape)))
