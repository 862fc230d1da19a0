"""The base class of wrapped models whose layers are observed while they run."""

from __future__ import annotations

import copy
import textwrap
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transferkit.backends.base import Backend, StatelessFunction, WrappedModel
from transferkit.backends.wrapping import (
    OUTPUT,
    VECTOR,
    ShapeCache,
    TensorLocation,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError

__all__ = [
    "TRACE_BATCH_SIZE",
    "ObservedModel",
    "StatelessCall",
    "first_argument",
    "select_outputs",
]

TRACE_BATCH_SIZE = 2
"""The batch size of the run that finds the layers: 1 could not be told from an axis of length 1."""

# Characters of the message of another library in an error.
_MAX_REASON = 300


@dataclass(frozen=True)
class StatelessCall:
    """A call of a model with parameters that are given as tensors.

    Attributes
    ----------
    parameters
        Name to tensor; others than those of the model are ignored.
    training
        Whether the model is in training mode.
    update_batch_norm
        Whether batch norms normalize by the batch.
    seed
        (n,) tensor, whose first value is the seed of random layers; used in training mode.
    updates
        The new statistics of batch norms, by name, which the call adds.
    """

    parameters: Mapping[str, Any]
    training: bool
    update_batch_norm: bool
    seed: Any
    updates: dict[str, Any] = field(default_factory=dict)


class ObservedModel(WrappedModel):
    """A wrapped model whose tensors are collected by observing its layers while it runs.

    The constructor of a subclass finds the layers, and sets `network` and ``_locations``.

    Parameters
    ----------
    backend
        The backend that wraps the model.
    model
        The framework's object.
    name
        The name of the network and of the model in error messages.
    """

    copy_remedy: ClassVar[str] = "Change the model so that it can be copied"
    """What to do about a model that cannot be copied, the beginning of a sentence."""

    model: Any

    def __init__(self, backend: Backend, model: Any, name: str) -> None:
        self.backend = backend
        self.model = model
        self._name = name
        self._shapes = ShapeCache()
        self._locations: dict[str, TensorLocation] = {}

    @abstractmethod
    def _run(
        self, x: Any, locations: Collection[TensorLocation], call: StatelessCall | None = None
    ) -> Mapping[TensorLocation, Any]:
        """Return the tensors at ``locations`` for the input ``x`` (n, h, w, 3).

        Tensors have the dtype and the order of axes of the backend's table. Those that the model
        did not compute are left out. The model runs as it is, or with the parameters of ``call``.
        """

    @abstractmethod
    def _compute_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of each layer's output for one image, by running the model."""

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        locations = {layer: self._locations[layer] for layer in layers}

        def function(x: Any) -> dict[str, Any]:
            return self._outputs(x, locations, None)

        return function

    def stateless(
        self, layers: Sequence[str], *, update_batch_norm: bool = False
    ) -> StatelessFunction:
        # Before training, whose result could not be returned otherwise.
        self._copied_model()
        locations = {layer: self._locations[layer] for layer in layers}

        def function(
            parameters: Mapping[str, Any], x: Any, training: bool, seed: Any
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            call = StatelessCall(parameters, training, training and update_batch_norm, seed)
            return self._outputs(x, locations, call), call.updates

        return function

    def _copied_model(self) -> Any:
        """Return a copy of the model object, with parameters of its own.

        Raises
        ------
        UnsupportedError
            If it cannot be copied.
        """
        try:
            return self._deepcopy()
        except Exception as error:  # the model is user code, and may raise anything
            reason = textwrap.shorten(self._describe(error), _MAX_REASON, placeholder=" ...")
            raise UnsupportedError(
                f"model {self._name!r} cannot be trained, since copy.deepcopy(model) fails: "
                f"{type(error).__name__}: {reason}. {self.copy_remedy}, or train the head only, "
                "trainable='head'"
            ) from error

    def _deepcopy(self) -> Any:
        """Return a deep copy of the model object, or raise whatever its code raises."""
        return copy.deepcopy(self.model)

    def _describe(self, error: Exception) -> str:
        """Return the message of an error of the model."""
        return str(error)

    def _outputs(
        self, x: Any, locations: Mapping[str, TensorLocation], call: StatelessCall | None
    ) -> dict[str, Any]:
        """Return the outputs of layers, by name, in the form of their locations."""
        observed = {_observed(location) for location in locations.values()}
        tensors = self._run(x, observed, call)
        missing = [
            layer for layer, location in locations.items() if _observed(location) not in tensors
        ]
        if missing:
            raise UnsupportedError(
                f"model {self._name!r} did not compute layers {', '.join(missing)} for an "
                f"input of shape {tuple(x.shape)}; it called other layers when it was wrapped"
            )
        return {
            layer: self._in_form(location.form, tensors[_observed(location)])
            for layer, location in locations.items()
        }

    def _in_form(self, form: str, tensor: Any) -> Any:
        """Return a tensor in the form of its location."""
        if not form:
            return tensor
        table = self.backend.table
        vectors = table.flatten(tensor)
        if form == VECTOR:
            return vectors
        return table.concat(table.subtract(vectors, vectors), vectors, axis=1)

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        def compute() -> Mapping[str, tuple[int, ...]]:
            try:
                return self._compute_shapes(height, width)
            except Exception as error:
                raise self._size_error(height, width, error) from error

        return self._shapes.get((height, width), compute)

    def _size_error(self, height: int, width: int, error: Exception) -> ShapeError:
        return ShapeError(
            f"model {self._name!r} fails on images of {height} x {width}: "
            f"{type(error).__name__}: {self._describe(error)}"
        )


def _observed(location: TensorLocation) -> TensorLocation:
    """Return the location without its form, as `ObservedModel._run` takes it."""
    return location._replace(form="")


def select_outputs(
    output: object, locations: Collection[TensorLocation], is_tensor: Callable[[Any], bool]
) -> dict[TensorLocation, Any]:
    """Return the outputs of a model that are among ``locations``.

    Parameters
    ----------
    output
        What the model returned.
    locations
        Locations of any kind.
    is_tensor
        Returns whether an object is a tensor of the framework.
    """
    names = {location.name for location in locations if location.kind == OUTPUT}
    tensors = named_outputs(output, is_tensor) if names else {}
    return {TensorLocation(OUTPUT, name): tensors[name] for name in names & tensors.keys()}


def first_argument(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Return the first argument of a call of a layer, positional or not; None without any."""
    return arguments[0] if arguments else next(iter(keywords.values()), None)
