"""A user's ``keras.Model`` as a network: its layers are observed while it is traced."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from transferkit.backends.base import Backend
from transferkit.backends.observed_model import (
    TRACE_BATCH_SIZE,
    ObservedModel,
    StatelessCall,
    first_argument,
    select_outputs,
)
from transferkit.backends.tensorflow.graph_trace import LayerTrace, find_last_activation
from transferkit.backends.tensorflow.pixel_range import find_largest_pixel
from transferkit.backends.tensorflow.table import TensorFlowTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    PRE_ACTIVATION,
    TensorLocation,
    build_wrapped_network,
    gray_weights,
    named_outputs,
)
from transferkit.errors import ParameterError, ShapeError, UnsupportedError

__all__ = ["KerasModel", "check_keras"]

_MISSING = object()

_ONE_INPUT_REMEDY = (
    "Write a keras.Model whose call(self, images) returns self.model([images, ...]), with the "
    "other inputs fixed, and call it once on images"
)

Observer = Callable[[Any, TensorLocation, Any, Any], None]
"""Takes a layer, the location of its output, its input and its output."""


def check_keras() -> None:
    """Check that Keras uses TensorFlow.

    Raises
    ------
    UnsupportedError
        If Keras uses another framework; the message names the remedy.
    """
    if keras.backend.backend() != "tensorflow":
        raise UnsupportedError(
            f"Keras uses {keras.backend.backend()!r}, but backend 'tensorflow' needs it to use "
            "TensorFlow; set the environment variable KERAS_BACKEND=tensorflow before importing "
            "Keras"
        )


class _LayerLocks:
    """A lock for each layer, since the ``call`` of layers is replaced and restored.

    Models that share layers therefore wait for each other while they are traced; others do not.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()

    @contextmanager
    def hold(self, layers: Iterable[Any]) -> Iterator[None]:
        """Hold the locks of all ``layers``."""
        # In the same order in all threads, so that none waits for a thread that waits for it.
        ordered = sorted(layers, key=id)
        with self._guard:
            locks = [self._locks.setdefault(layer, threading.RLock()) for layer in ordered]
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            yield


# For the whole process: layers may be shared by models of any backend object.
_LOCKS = _LayerLocks()


class KerasModel(ObservedModel):
    """A ``keras.Model``, run in inference mode without a copy.

    Parameters
    ----------
    backend
        The backend that wraps the model.
    table
        The primitives of ``backend``.
    model
        Takes one tensor, (n, h, w, 3), or (n, h, w, 1) for gray images.
    input_size
        The height and width of the images that the model is traced on, once, to find its layers.
        None: the size that the model declares, or else 224.
    mean, std, channel_order
        The normalization that the model expects, as for `NetworkBuilder.normalize`. None, or a
        mean of 0 and a standard deviation of 1: pixels in [0, 255] if the model's first
        operations normalize pixels of that range. None requires that they normalize pixels. If
        they do, no other values are accepted, except those that result in the same pixels.

    Raises
    ------
    UnsupportedError
        If ``model`` is not a ``keras.Model``, is not built, or does not return a tensor, if its
        range of pixels is neither given nor visible in its first operations, or if Keras does
        not use TensorFlow.
    ParameterError
        If ``mean`` or ``std`` would normalize the pixels twice.
    ShapeError
        If the model fails on images of that size.

    Notes
    -----
    A layer inside another layer is named ``outer/inner``. A layer is included only if its output
    is one floating-point tensor with one row per image.

    Several threads can run the model at once. Only tracing, which happens at the first run of
    each combination of layers, excludes other threads, and only for models that share layers.
    """

    copy_remedy: ClassVar[str] = (
        "Decorate its classes with keras.saving.register_keras_serializable() and define their "
        "get_config"
    )

    def __init__(
        self,
        backend: Backend,
        table: TensorFlowTable,
        model: object,
        *,
        input_size: int | None,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        channel_order: str,
    ) -> None:
        check_keras()
        if not isinstance(model, keras.Model):
            raise UnsupportedError(
                f"backend 'tensorflow' runs a keras.Model, not a {type(model).__name__}"
            )
        super().__init__(backend, model, model.name)
        self._table = table
        # The only image size that the model takes; None: more than one.
        self._size, channels = _declared_input(model)
        height, width = self._size or (input_size or 224,) * 2
        if input_size is not None and (height, width) != (input_size, input_size):
            raise self._fixed_size_error(input_size, input_size)
        if not model.built:
            raise self._unbuilt_error("", height, width)
        _check_arguments(model)
        self._layers = dict(_find_layers(model))
        # The weights of the input's channels in a gray pixel; None for a model of color images.
        self._gray_weights: tuple[float, ...] | None = None
        if channels == 1:
            self._gray_weights = gray_weights(model.name, mean, std, channel_order)
        size = self._size
        try:
            trace = self._trace_layers(height, width)
        except ShapeError:
            if channels is not None or not self._takes_gray():
                raise
            self._gray_weights = gray_weights(model.name, mean, std, channel_order)
            self._size = size
            trace = self._trace_layers(height, width)
        self._locations = trace.locations
        largest_pixel = trace.largest_pixel
        if largest_pixel is None and (mean is None or std is None):
            raise UnsupportedError(
                f"model {model.name!r} does not show the range of its pixels, since it does not "
                "begin with a Rescaling, a Normalization or other arithmetic with constants; pass "
                f"preprocessing=Preprocessing(size={height}, mean=..., std=...): mean=(0, 0, 0) "
                "and std=(1, 1, 1) if it was trained on pixels in [0, 1], std=(1/255, 1/255, "
                "1/255) if on pixels in [0, 255], mean and std=(0.5, 0.5, 0.5) if in [-1, 1]"
            )
        if largest_pixel is not None:
            mean, std = _pixels_of_range(model.name, largest_pixel, mean, std, height)
        mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
        self.network = build_wrapped_network(
            model.name,
            height,
            self._locations,
            trace.aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
            hints=trace.hints,
        )
        self._run_all: Callable[..., Any] | None = None

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        if self._size not in (None, (height, width)):
            raise self._fixed_size_error(height, width)
        return super().shapes(height, width)

    def _compute_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        if self._run_all is None:
            self._run_all = self.backend.compile(self.load(list(self._locations)))
        arrays = self._run_all(np.zeros((1, height, width, 3), np.float32))
        return {layer: array.shape[1:] for layer, array in arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # Traced functions cannot be pickled; the copy traces again.
        return (_restore, (type(self), self._state()))

    def _state(self) -> dict[str, Any]:
        """Return the state from which `_restore` makes a copy, with the names of the layers."""
        return {**self.__dict__, "_run_all": None, "_layers": list(self._layers)}

    def _trace_layers(self, height: int, width: int) -> _ModelTrace:
        """Trace the model once and return what is known of it then."""
        traces: list[tuple[LayerTrace, Any, dict[str, Any]]] = []

        def function(x: Any) -> dict[str, Any]:
            x = self._to_model(x)
            trace = LayerTrace(x)
            with _observed_layers(self._layers, trace.add):
                outputs = trace.outputs(self._call(x))
            traces.append((trace, x, outputs))
            return outputs

        shape = (TRACE_BATCH_SIZE, height, width, 3)
        with _no_new_weights(self._layers.values()) as unbuilt:
            try:
                if self._size is None:
                    self._check_any_size(height, width)
                traced = self._trace(function, shape)
            except Exception as error:
                if unbuilt:
                    raise self._unbuilt_error(unbuilt[0], height, width) from None
                if isinstance(error, UnsupportedError):
                    raise
                raise self._size_error(height, width, error) from error
        ((trace, x, outputs),) = traces

        def compute() -> dict[str, npt.NDArray[np.float32]]:
            values = traced(tf.zeros(shape))
            return {name: tf.cast(value, tf.float32).numpy() for name, value in values.items()}

        located = trace.locate(outputs, compute)
        return _ModelTrace(*located, find_largest_pixel(x))

    def _check_any_size(self, height: int, width: int) -> None:
        """Fix the model to one size if it cannot be traced for unknown sizes."""
        try:
            self._trace(lambda x: self._call(self._to_model(x)), (None, None, None, 3))
        except Exception:  # the model is user code, and may raise anything
            self._size = (height, width)

    def _takes_gray(self) -> bool:
        """Return whether the first convolution of the model takes one channel."""
        kernels = (variable.shape for variable in self.model.variables if len(variable.shape) == 4)
        return next((shape[2] for shape in kernels), None) == 1

    def _trace(self, function: Callable[[Any], Any], shape: tuple[int | None, ...]) -> Any:
        """Return the concrete function of ``function`` for images of ``shape``."""
        spec = tf.TensorSpec(shape, tf.float32)
        with _LOCKS.hold(self._layers.values()):
            return tf.function(
                function, input_signature=[spec], autograph=False
            ).get_concrete_function()

    @property
    def num_parameters(self) -> int:
        moving = self._moving()
        return sum(
            math.prod(variable.shape)
            for name, variable in self._weights().items()
            if name not in moving
        )

    def parameters(self) -> Mapping[str, npt.NDArray[Any]]:
        trainable = {id(variable) for variable in self.model.trainable_variables}
        variables = {
            name: variable
            for name, variable in self._weights().items()
            if id(variable) in trainable
        }
        if not variables:
            raise UnsupportedError(
                f"model {self._name!r} has no trainable variables, so that nothing is trained; set "
                "its trainable to True, or train the head only"
            )
        return {name: variable.numpy().astype(np.float32) for name, variable in variables.items()}

    def statistics(self) -> Mapping[str, npt.NDArray[Any]]:
        return {
            name: variable.numpy().astype(np.float32) for name, variable in self._moving().items()
        }

    def _weights(self) -> dict[str, Any]:
        """Return the variables of the model, without its random states, by unique names.

        The name of a variable begins with the name of its layer. The paths of variables would
        not do: they are not unique, and those of a copy may differ.
        """
        owners: dict[int, str] = {}
        # The variables of a layer are also those of the layers around it.
        for path in sorted(self._layers, key=lambda path: -path.count("/")):
            for variable in self._layers[path].weights:
                owners.setdefault(id(variable), f"{path}/")
        named: dict[str, Any] = {}
        for variable in self.model.weights:
            first = name = owners.get(id(variable), "") + variable.name
            count = 1
            while name in named:
                count += 1
                name = f"{first}_{count}"
            named[name] = variable
        return named

    def _moving(self) -> dict[str, Any]:
        """Return the variables of the moving statistics of batch norms, by name."""
        moving = {
            id(variable)
            for layer in self._layers.values()
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        }
        return {name: v for name, v in self._weights().items() if id(v) in moving}

    def with_parameters(self, parameters: Mapping[str, npt.NDArray[Any]]) -> KerasModel:
        tuned = _restore(type(self), {**self._state(), "model": self._copied_model()})
        variables = tuned._weights()
        for name, array in parameters.items():
            variables[name].assign(array)
        return tuned

    def _copied_model(self) -> Any:
        # Keras draws the seeds of the copied layers' initializers from Python's generator.
        state = random.getstate()
        try:
            return super()._copied_model()
        finally:
            random.setstate(state)

    def _describe(self, error: Exception) -> str:
        return _cause(error)

    def _run(
        self,
        x: Any,
        locations: Collection[TensorLocation],
        call: StatelessCall | None = None,
    ) -> dict[TensorLocation, Any]:
        if tf.executing_eagerly():
            return self._run_in_graph(x, locations, call)
        tensors: dict[TensorLocation, Any] = {}

        def observe(_: Any, location: TensorLocation, layer_input: Any, output: Any) -> None:
            if location in locations and tf.is_tensor(output):
                tensors[location] = output
            location = location._replace(kind=LAYER_INPUT)
            if location in locations and tf.is_tensor(layer_input):
                tensors[location] = tf.reshape(layer_input, (-1, layer_input.shape[-1]))

        names = {location.name for location in locations if location.kind in (LAYER, LAYER_INPUT)}
        layers = {name: layer for name, layer in self._layers.items() if name in names}
        if self._size is not None:
            x = tf.ensure_shape(x, (None, *self._size, 3))
        with _LOCKS.hold(self._layers.values()), _observed_layers(layers, observe):
            output = self._call(self._to_model(x), call)
        tensors |= select_outputs(output, locations, tf.is_tensor)
        for location in locations:
            if location.kind == PRE_ACTIVATION:
                activation = find_last_activation(
                    named_outputs(output, tf.is_tensor)[location.name]
                )
                tensors[location] = activation.inputs[0]
        return {
            location: tf.cast(tensor, self._table.dtype) for location, tensor in tensors.items()
        }

    def _run_in_graph(
        self, x: Any, locations: Collection[TensorLocation], call: StatelessCall | None
    ) -> dict[TensorLocation, Any]:
        """Return what `_run` does. Operations before an activation are found in a graph."""

        def run(x: Any) -> tuple[dict[TensorLocation, Any], dict[str, Any]]:
            if call is None:
                return self._run(x, locations), {}
            inner = dataclasses.replace(call, updates={})
            return self._run(x, locations, inner), inner.updates

        tensors, updates = tf.function(run, autograph=False)(x)
        if call is not None:
            call.updates.update(updates)
        return dict(tensors)

    def _to_model(self, x: Any) -> Any:
        """Return RGB images, or gray ones if the model takes those."""
        if self._gray_weights is None:
            return x
        return tf.reduce_sum(x * tf.constant(self._gray_weights, x.dtype), -1, keepdims=True)

    def _call(self, x: Any, call: StatelessCall | None = None) -> Any:
        # A functional model takes its input in the structure that it was made with.
        structure = getattr(self.model, "_inputs_struct", None)
        if structure is not None:
            x = keras.tree.pack_sequence_as(structure, [x])
        # In this scope Keras writes to no variable, and keeps no losses.
        if call is None:
            with keras.StatelessScope(initialize_variables=False):
                return self.model(x, training=False)
        named = self._weights()
        mapping = [
            (named[name], tf.cast(tensor, named[name].dtype))
            for name, tensor in call.parameters.items()
            if name in named
        ]
        norms: dict[str, Any] = {}
        if call.training:
            mapping += self._seeds(call.seed)
            if not call.update_batch_norm:
                norms = {
                    name: layer
                    for name, layer in self._layers.items()
                    if isinstance(layer, keras.layers.BatchNormalization)
                }
        with (
            keras.StatelessScope(mapping, initialize_variables=False) as scope,
            _in_inference_mode(norms),
        ):
            output = self.model(x, training=call.training)
        if call.update_batch_norm:
            for name, variable in self._moving().items():
                value = scope.get_current_value(variable)
                if value is not None:
                    call.updates[name] = tf.cast(value, self._table.dtype)
        return output

    def _seeds(self, seed: Any) -> list[tuple[Any, Any]]:
        """Return the states of the random layers for a seed, each with its variable."""
        first = tf.cast(seed[0], tf.int64)
        return [
            (variable, tf.cast(tf.stack([first, first * 0 + index]), variable.dtype))
            for index, variable in enumerate(self.model.non_trainable_variables)
            if variable.path.endswith("seed_generator_state")
        ]

    def _fixed_size_error(self, height: int, width: int) -> ShapeError:
        expected = " x ".join(map(str, self._size or ()))
        return ShapeError(
            f"model {self._name!r} takes only {expected} images, not {height} x {width}"
        )

    def _size_error(self, height: int, width: int, error: Exception) -> ShapeError:
        return ShapeError(
            f"model {self._name!r} fails on images of {height} x {width}, a tensor of shape "
            f"(n, {height}, {width}, 3): "
            f"{type(error).__name__}: {_cause(error)}"
        )

    def _unbuilt_error(self, layer: str, height: int, width: int) -> UnsupportedError:
        subject = f"layer {layer!r} of model" if layer else "model"
        return UnsupportedError(
            f"{subject} {self._name!r} has no weights yet; load or train them, or call the model "
            f'once on images: model(numpy.zeros((1, {height}, {width}, 3), "float32"))'
        )


class _ModelTrace(NamedTuple):
    """What is known of a model after it was traced.

    Attributes
    ----------
    locations, aliases
        From `assign_layer_names`.
    hints
        From `locate_meanings`.
    largest_pixel
        From `find_largest_pixel`.
    """

    locations: dict[str, TensorLocation]
    aliases: dict[str, str]
    hints: Mapping[str, str]
    largest_pixel: float | None


def _pixels_of_range(
    model: str,
    largest: float,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    size: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the std that scale pixels to the range that a model normalizes.

    Raises
    ------
    ParameterError
        If another mean or std was given.
    """
    expected = (0.0,) * 3, (1 / largest,) * 3
    default = (0.0,) * 3, (1.0,) * 3
    given = mean or default[0], std or default[1]
    if not any(np.allclose(given, values, rtol=1e-5, atol=1e-7) for values in (default, expected)):
        raise ParameterError(
            f"preprocessing has mean {given[0]} and std {given[1]}, but model {model!r} normalizes "
            f"pixels in [0, {largest:g}] in its first operations, so they would be normalized "
            f"twice; omit mean and std, as in preprocessing=Preprocessing(size={size}). If the "
            "model was trained on pixels that were normalized before, pass "
            "keras.Model(images, model((images - mean) / std)) for images = "
            f"keras.Input(({size}, {size}, 3))"
        )
    return expected


def _restore(kind: type[KerasModel], state: dict[str, Any]) -> KerasModel:
    """Return an unpickled model."""
    model = kind.__new__(kind)
    model.__dict__.update(state)
    # By position: Keras may name layers inside layers anew.
    layers = (layer for _, layer in _find_layers(model.model))
    model._layers = dict(zip(state["_layers"], layers, strict=True))
    return model


@contextmanager
def _in_inference_mode(layers: Mapping[str, Any]) -> Iterator[None]:
    """Run the calls of the layers from this thread in inference mode."""

    def in_inference_mode(
        _: str, __: Any, call: Callable[..., Any], is_this_thread: Callable[[], bool]
    ) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            if is_this_thread() and "training" in keywords:
                keywords["training"] = False
            return call(*arguments, **keywords)

        return run

    with _replaced_calls(layers, in_inference_mode):
        yield


@contextmanager
def _observed_layers(layers: Mapping[str, Any], observe: Observer) -> Iterator[None]:
    """Call ``observe`` for each call of the layers from this thread."""
    counts: Counter[str] = Counter()

    def observed(
        name: str, layer: Any, call: Callable[..., Any], is_this_thread: Callable[[], bool]
    ) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            output = call(*arguments, **keywords)
            if is_this_thread():
                location = TensorLocation(LAYER, name, counts[name])
                observe(layer, location, first_argument(arguments, keywords), output)
                counts[name] += 1
            return output

        return run

    with _replaced_calls(layers, observed):
        yield


@contextmanager
def _replaced_calls(
    layers: Mapping[str, Any], replace: Callable[..., Callable[..., Any]]
) -> Iterator[None]:
    """Replace the method ``call`` of layers.

    ``replace`` takes the name, the layer, its method, and a function that returns whether it is
    called from this thread.
    """
    thread = threading.get_ident()
    originals: list[tuple[Any, Any]] = []

    def is_this_thread() -> bool:
        return threading.get_ident() == thread

    try:
        for name, layer in layers.items():
            originals.append((layer, vars(layer).get("call", _MISSING)))
            # Not by plain assignment: Keras tracks attributes that are set that way.
            object.__setattr__(layer, "call", replace(name, layer, layer.call, is_this_thread))
        yield
    finally:
        for layer, call in originals:
            if call is not _MISSING:
                object.__setattr__(layer, "call", call)
            elif "call" in vars(layer):
                object.__delattr__(layer, "call")


def _find_layers(
    outer: Any, prefix: str = "", visited: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the path and the layer of each layer of a model, nested ones included, once each."""
    visited = set() if visited is None else visited
    counts: Counter[str] = Counter()
    for layer in outer.layers if isinstance(outer, keras.Model) else outer._layers:
        if id(layer) in visited or isinstance(layer, keras.layers.InputLayer):
            continue
        visited.add(id(layer))
        # A subclassed model may have several layers with the same name.
        count = counts[layer.name]
        counts[layer.name] += 1
        path = f"{prefix}{layer.name}" + (f"_{count}" if count else "")
        yield path, layer
        yield from _find_layers(layer, f"{path}/", visited)


def _declared_input(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Return the height and width that a model declares, and the number of channels.

    Either is None if it is free or undeclared.

    Raises
    ------
    UnsupportedError
        If it declares an input other than color or gray images.
    """
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        return None, None
    if isinstance(shape, Mapping):
        shape = list(shape.values())
    if isinstance(shape, (list, tuple)) and len(shape) == 1:
        (shape,) = shape
    if isinstance(shape, list):
        raise UnsupportedError(
            f"model {model.name!r} takes {len(shape)} inputs, of shapes "
            f"{', '.join(map(str, shape))}; expected one input of images. {_ONE_INPUT_REMEDY}"
        )
    if len(shape) == 4 and shape[3] in (1, 3, None):
        return (None if None in shape[1:3] else (shape[1], shape[2])), shape[3]
    side, argument = ("height, width", "...")
    if len(shape) == 4 and shape[1] == 3:
        side, argument = f"{shape[2]}, {shape[3]}", "keras.ops.transpose(images, (0, 3, 1, 2))"
    elif len(shape) == 3:
        side = f"{shape[1]}, {shape[2]}"
        argument = "keras.ops.image.rgb_to_grayscale(images)[..., 0]"
    raise UnsupportedError(
        f"model {model.name!r} takes input of shape {shape}; expected images of shape "
        "(n, height, width, 3), or gray ones, (n, height, width, 1). Make a model that computes "
        f"its input from images: images = keras.Input(({side}, 3)); "
        f"keras.Model(images, model({argument}))"
    )


def _check_arguments(model: Any) -> None:
    """Check that ``call`` of a subclassed model needs no argument besides the images."""
    try:
        parameters = list(inspect.signature(type(model).call).parameters.values())[2:]
    except (TypeError, ValueError):
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (*positional, inspect.Parameter.KEYWORD_ONLY)
        and parameter.name not in ("training", "mask")
    ]
    if needed:
        raise UnsupportedError(
            f"model {model.name!r} also takes {', '.join(needed)}; expected one input of images. "
            + _ONE_INPUT_REMEDY
        )


@contextmanager
def _no_new_weights(layers: Iterable[Any]) -> Iterator[list[str]]:
    """Raise an error, and add a layer's name to the result, if the layer creates weights."""
    unbuilt: list[str] = []

    def fail(layer: Any) -> Callable[..., Any]:
        def add_weight(*_: Any, **__: Any) -> Any:
            unbuilt.append(layer.name)
            raise UnsupportedError(f"layer {layer.name!r} has no weights yet")

        return add_weight

    changed = [layer for layer in layers if not layer.built and "add_weight" not in vars(layer)]
    try:
        for layer in changed:
            object.__setattr__(layer, "add_weight", fail(layer))
        yield unbuilt
    finally:
        for layer in changed:
            object.__delattr__(layer, "add_weight")


def _cause(error: Exception) -> str:
    """Return the message of an error without Keras's description of the call and its colors."""
    message = str(error)
    highlighted = re.search(r"\x1b\[1m(.*?)\x1b\[0m", message, re.DOTALL)
    return (highlighted[1] if highlighted else message).strip()
