"""A user's ``keras.Model`` as a network: its layers are observed while it is traced."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from transferkit.backends.base import Backend
from transferkit.backends.observed_model import (
    TRACE_BATCH_SIZE,
    ObservedModel,
    first_argument,
    locate_embedding_output,
    locate_logits_output,
    select_outputs,
)
from transferkit.backends.tensorflow.pixel_range import find_largest_pixel
from transferkit.backends.tensorflow.table import TensorFlowTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    OUTPUT,
    PRE_ACTIVATION,
    TensorLocation,
    assign_layer_names,
    build_wrapped_network,
    find_producer,
    is_vector_per_image,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError

__all__ = ["KerasModel", "check_keras"]

_MISSING = object()

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
        Takes one tensor, (n, h, w, 3).
    input_size
        The height and width of the images that the model is traced on, once, to find its layers.
        None: the size that the model declares, or else 224.
    mean, std, channel_order
        The normalization that the model expects, as for `NetworkBuilder.normalize`. None, or a
        mean of 0 and a standard deviation of 1: pixels in [0, 255] if the model's first
        operations normalize pixels of that range. None requires that they normalize pixels.

    Raises
    ------
    UnsupportedError
        If ``model`` is not a ``keras.Model``, is not built, or does not return a tensor, if its
        range of pixels is neither given nor visible in its first operations, or if Keras does
        not use TensorFlow.
    ShapeError
        If the model fails on images of that size.

    Notes
    -----
    A layer inside another layer is named ``outer/inner``. A layer is included only if its output
    is one floating-point tensor with one row per image.

    Several threads can run the model at once. Only tracing, which happens at the first run of
    each combination of layers, excludes other threads, and only for models that share layers.
    """

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
        if not model.built:
            raise UnsupportedError(
                f"model {model.name!r} has no weights yet; call it once on a batch of images, or "
                "call its build()"
            )
        super().__init__(backend, model, model.name)
        self._table = table
        self._layers = dict(_find_layers(model))
        # The only image size that the model takes; None: more than one.
        self._size = _declared_size(model)
        height, width = self._size or (input_size or 224,) * 2
        if input_size is not None and (height, width) != (input_size, input_size):
            raise self._fixed_size_error(input_size, input_size)
        self._locations, aliases, largest_pixel = self._trace_layers(height, width)
        if largest_pixel is None and (mean is None or std is None):
            raise UnsupportedError(
                f"model {model.name!r} does not show the range of its pixels, since it does not "
                "begin with a Rescaling, a Normalization or other arithmetic with constants; pass "
                f"preprocessing=Preprocessing(size={height}, mean=..., std=...): mean=(0, 0, 0) "
                "and std=(1, 1, 1) if it was trained on pixels in [0, 1], std=(1/255, 1/255, "
                "1/255) if on pixels in [0, 255], mean and std=(0.5, 0.5, 0.5) if in [-1, 1]"
            )
        mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
        if (mean, std) == ((0.0,) * 3, (1.0,) * 3) and largest_pixel is not None:
            std = (1 / largest_pixel,) * 3
        self.network = build_wrapped_network(
            model.name,
            height,
            self._locations,
            aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
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
        return (_restore, (type(self), {**self.__dict__, "_run_all": None, "_layers": None}))

    def _trace_layers(
        self, height: int, width: int
    ) -> tuple[dict[str, TensorLocation], dict[str, str], float | None]:
        """Return the layers' locations, aliases and the largest pixel, from tracing the model."""
        if self._size is None:
            # A model that cannot be traced for unknown sizes is fixed to one size.
            try:
                self._trace(self._call, (None, None, None, 3))
            except Exception:  # the model is user code, and may raise anything
                self._size = (height, width)
        results: list[tuple[dict[str, TensorLocation], dict[str, str], float | None]] = []

        def function(x: Any) -> Any:
            trace = _LayerTrace(x.graph)
            with _observed_layers(self._layers, trace.add):
                output = self._call(x)
            results.append((*trace.locate(output), find_largest_pixel(x)))
            return x

        try:
            self._trace(function, (TRACE_BATCH_SIZE, height, width, 3))
        except UnsupportedError:
            raise
        except Exception as error:
            raise self._size_error(height, width, error) from error
        return results[0]

    def _trace(self, function: Callable[[Any], Any], shape: tuple[int | None, ...]) -> None:
        spec = tf.TensorSpec(shape, tf.float32)
        with _LOCKS.hold(self._layers.values()):
            tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()

    def _run(self, x: Any, locations: Collection[TensorLocation]) -> dict[TensorLocation, Any]:
        tensors: dict[TensorLocation, Any] = {}

        def observe(layer: Any, location: TensorLocation, layer_input: Any, output: Any) -> None:
            if location in locations and tf.is_tensor(output):
                tensors[location] = output
            location = location._replace(kind=LAYER_INPUT)
            if location in locations and tf.is_tensor(layer_input):
                tensors[location] = tf.reshape(layer_input, (-1, layer_input.shape[-1]))
            location = location._replace(kind=PRE_ACTIVATION)
            if location in locations:
                tensors[location] = _pre_activation(layer, layer_input)

        names = {location.name for location in locations if location.kind != OUTPUT}
        layers = {name: layer for name, layer in self._layers.items() if name in names}
        if self._size is not None:
            x = tf.ensure_shape(x, (None, *self._size, 3))
        with _LOCKS.hold(self._layers.values()), _observed_layers(layers, observe):
            output = self._call(x)
        tensors |= select_outputs(output, locations, tf.is_tensor)
        return {
            location: tf.cast(tensor, self._table.dtype) for location, tensor in tensors.items()
        }

    def _call(self, x: Any) -> Any:
        # In this scope Keras writes to no variable, and keeps no losses.
        with keras.StatelessScope(initialize_variables=False):
            return self.model(x, training=False)

    def _fixed_size_error(self, height: int, width: int) -> ShapeError:
        expected = " x ".join(map(str, self._size or ()))
        return ShapeError(
            f"model {self._name!r} takes only {expected} images, not {height} x {width}"
        )


def _restore(kind: type[KerasModel], state: dict[str, Any]) -> KerasModel:
    """Return an unpickled model."""
    model = kind.__new__(kind)
    model.__dict__.update(state)
    model._layers = dict(_find_layers(model.model))
    return model


class _LayerCall(NamedTuple):
    """One call of a layer."""

    layer: Any
    location: TensorLocation
    input: Any
    output: Any


class _LayerTrace:
    """The calls of layers while a model is traced in ``graph``."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._order: list[tuple[str, int]] = []
        # By a reference to the output.
        self._calls: dict[Any, _LayerCall] = {}

    def add(self, layer: Any, location: TensorLocation, layer_input: Any, output: Any) -> None:
        """Record a call of a layer."""
        if self._is_activation(output):
            self._order.append((location.name, location.call))
            # A model inside the model returns the output of its last layer; the layer is kept.
            self._calls.setdefault(output.ref(), _LayerCall(layer, location, layer_input, output))

    def locate(self, output: Any) -> tuple[dict[str, TensorLocation], dict[str, str]]:
        """Return the locations of the layers, and aliases, of a model that returned ``output``."""
        outputs = named_outputs(output, self._is_activation)
        logits = locate_logits_output(outputs)
        embedding = locate_embedding_output(outputs)
        if logits is not None:
            scores = outputs[logits.name]
            embedding = embedding or self._locate_embedding(scores)
            if logits.name == "output":
                logits = self._locate_pre_softmax(scores) or logits
        return assign_layer_names(self._order, list(outputs), embedding=embedding, logits=logits)

    def _locate_pre_softmax(self, output: Any) -> TensorLocation | None:
        """Return the location of the logits if the last layer turns them into probabilities."""
        last = self._calls.get(output.ref())
        if last is None:
            return None
        if isinstance(last.layer, keras.layers.Dense) and not _is_linear(last.layer):
            return last.location._replace(kind=PRE_ACTIVATION)
        if isinstance(last.layer, (keras.layers.Softmax, keras.layers.Activation)):
            previous = self._calls.get(last.input.ref())
            if previous is None or not isinstance(previous.layer, keras.layers.Dense):
                return last.location._replace(kind=LAYER_INPUT)
            return previous.location
        return None

    def _locate_embedding(self, output: Any) -> TensorLocation | None:
        """Return the location of the input of the linear layer that ``output`` is computed by."""
        linear = {
            reference: call.location._replace(kind=LAYER_INPUT)
            for reference, call in self._calls.items()
            if isinstance(call.layer, (keras.layers.Dense, keras.layers.Conv2D))
            and is_vector_per_image(tuple(call.input.shape))
            and is_vector_per_image(tuple(call.output.shape))
            and call.output.shape[-1] == output.shape[-1]
        }
        return find_producer(output.ref(), linear, _preceding_tensors)

    def _is_activation(self, value: Any) -> bool:
        # Tensors inside the graph of a loop or function cannot be used outside it.
        return (
            tf.is_tensor(value)
            and getattr(value, "graph", None) is self._graph
            and value.dtype.is_floating
            and bool(value.shape.rank)
            and value.shape[0] == TRACE_BATCH_SIZE
        )


@contextmanager
def _observed_layers(layers: Mapping[str, Any], observe: Observer) -> Iterator[None]:
    """Call ``observe`` for each call of the layers from this thread."""
    thread = threading.get_ident()
    counts: Counter[str] = Counter()
    originals: list[tuple[Any, Any]] = []

    def observed(name: str, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            output = call(*arguments, **keywords)
            if threading.get_ident() == thread:
                location = TensorLocation(LAYER, name, counts[name])
                observe(layer, location, first_argument(arguments, keywords), output)
                counts[name] += 1
            return output

        return run

    try:
        for name, layer in layers.items():
            originals.append((layer, vars(layer).get("call", _MISSING)))
            # Not by plain assignment: Keras tracks attributes that are set that way.
            object.__setattr__(layer, "call", observed(name, layer, layer.call))
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


def _declared_size(model: Any) -> tuple[int, int] | None:
    """Return the height and width that a model declares; None if they are free or undeclared."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        return None
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] not in (3, None):
        raise UnsupportedError(
            f"model {model.name!r} takes input of shape {shape}; expected one input of shape "
            "(n, height, width, 3)"
        )
    return None if None in shape[1:3] else (shape[1], shape[2])


def _is_linear(layer: Any) -> bool:
    return layer.activation is keras.activations.linear


def _pre_activation(layer: Any, x: Any) -> Any:
    """Return the output of a dense layer without its activation."""
    y = keras.ops.matmul(keras.ops.cast(x, layer.compute_dtype), layer.kernel)
    return y if layer.bias is None else keras.ops.add(y, layer.bias)


def _preceding_tensors(reference: Any) -> list[Any]:
    return [tensor.ref() for tensor in reference.deref().op.inputs]
