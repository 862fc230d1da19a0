"""A user's own ``keras.Model`` as a network: its layers are seen while it is traced."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from transferkit.backends.base import Backend, WrappedModel
from transferkit.backends.tensorflow.table import TensorFlowTable
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    OUTPUT,
    PRE_ACTIVATION,
    ShapeCache,
    TensorLocation,
    assign_layer_names,
    build_wrapped_network,
    find_producer,
    is_vector_per_image,
    named_outputs,
)
from transferkit.errors import ShapeError, UnsupportedError

__all__ = ["KerasModel", "check_keras"]

# What the model's layers are learnt from: two, so that an axis of pictures can be told.
_PICTURES = 2
# A model whose first layer multiplies by less than this takes the 256 steps of a byte.
_SCALE_OF_BYTES = 1 / 64

# One for all models, since they may share layers, whose `call` is replaced and restored.
_LOCK = threading.RLock()
_NOTHING = object()

Observer = Callable[[Any, TensorLocation, Any, Any], None]


def check_keras() -> None:
    """Raise an error unless Keras computes with TensorFlow here.

    Raises
    ------
    UnsupportedError
        If it computes with something else; says what to do.
    """
    if keras.backend.backend() != "tensorflow":
        raise UnsupportedError(
            f"Keras computes with {keras.backend.backend()!r} here, and backend 'tensorflow' needs "
            "it to compute with TensorFlow: set the environment variable KERAS_BACKEND=tensorflow "
            "before Keras is imported"
        )


class KerasModel(WrappedModel):
    """A ``keras.Model``, run as at inference, where it is and as it is.

    Parameters
    ----------
    backend
        What wraps it.
    table
        The primitives of ``backend``.
    model
        Takes one tensor, (n, h, w, 3).
    input_size
        The side of the pictures that it is run on, once, to learn its layers; None: what it
        says of itself, or else 224.
    mean, std, channel_order
        What it expects of pixels; None: pixels in [0, 1], or in [0, 255] where its first
        layer is a ``Rescaling`` of such.

    Raises
    ------
    UnsupportedError
        If it is no such model, has not been built, or gives no tensor; if Keras does not
        compute with TensorFlow.
    ShapeError
        If it cannot take such pictures.

    Notes
    -----
    A layer in a layer is called ``outer/inner``. A layer whose output is not one tensor of
    fractions with a row for each picture is not shown.
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
                f"the model {model.name!r} has no weights yet; call it once on a batch of "
                "pictures, or its build()"
            )
        self.backend = backend
        self._table = table
        self.model: Any = model
        self._layers = dict(_find_layers(model))
        # The only size it takes, if any.
        self._size = _declared_size(model)
        height, width = self._size or (input_size or 224,) * 2
        if input_size is not None and (height, width) != (input_size, input_size):
            raise ShapeError(self._takes_only(input_size, input_size))
        self._shapes = ShapeCache()
        self._places, aliases = self._learn(height, width)
        mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
        if (mean, std) == ((0.0,) * 3, (1.0,) * 3) and _takes_bytes(model):
            std = (1 / 255,) * 3
        self.network = build_wrapped_network(
            model.name,
            height,
            self._places,
            aliases,
            mean=mean,
            std=std,
            channel_order=channel_order,
        )
        self._run_all: Any = None

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        places = {layer: self._places[layer] for layer in layers}

        def function(x: Any) -> dict[str, Any]:
            found = self._run(x, set(places.values()))
            missing = [layer for layer, place in places.items() if place not in found]
            if missing:
                raise UnsupportedError(
                    f"layers {', '.join(missing)} of {self.network.name} were not computed: the "
                    "model runs other layers for these pictures"
                )
            dtype = self._table.dtype
            return {layer: tf.cast(found[place], dtype) for layer, place in places.items()}

        return function

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        if self._size not in (None, (height, width)):
            raise ShapeError(self._takes_only(height, width))

        def find() -> Mapping[str, tuple[int, ...]]:
            try:
                if self._run_all is None:
                    self._run_all = self.backend.compile(self.load(list(self._places)))
                found = self._run_all(np.zeros((1, height, width, 3), np.float32))
            except Exception as error:
                raise ShapeError(self._fails(height, width, error)) from error
            return {layer: array.shape[1:] for layer, array in found.items()}

        return self._shapes.get((height, width), find)

    def __reduce__(self) -> tuple[Any, ...]:
        # What was traced cannot be pickled; it is traced again.
        return (_restore, (type(self), {**self.__dict__, "_run_all": None, "_layers": None}))

    def _learn(self, height: int, width: int) -> tuple[dict[str, TensorLocation], dict[str, str]]:
        """Where the model's layers are, and aliases, from tracing it once."""
        if self._size is None:
            # Whether it can be traced for any size shows what it takes.
            try:
                self._trace(lambda x: self.model(x, training=False), (None, None, None, 3))
            except Exception:  # it is the user's own code, and may fail in any way
                self._size = (height, width)
        learnt: list[tuple[dict[str, TensorLocation], dict[str, str]]] = []

        def function(x: Any) -> Any:
            seen = _Seen(x.graph)
            with _seeing(self._layers, seen.see):
                output = self._call(x)
            learnt.append(seen.places(output))
            return x

        try:
            self._trace(function, (_PICTURES, height, width, 3))
        except UnsupportedError:
            raise
        except Exception as error:
            raise ShapeError(self._fails(height, width, error)) from error
        return learnt[0]

    def _trace(self, function: Callable[[Any], Any], shape: tuple[int | None, ...]) -> None:
        spec = tf.TensorSpec(shape, tf.float32)
        with _LOCK, keras.StatelessScope(initialize_variables=False):
            tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()

    def _run(self, x: Any, places: set[TensorLocation]) -> dict[TensorLocation, Any]:
        """The tensors at ``places`` when the model gets ``x`` (n, h, w, 3)."""
        found: dict[TensorLocation, Any] = {}

        def see(layer: Any, place: TensorLocation, taken: Any, given: Any) -> None:
            for kind, tensor in ((LAYER, given), (LAYER_INPUT, taken)):
                if (there := place._replace(kind=kind)) in places and tf.is_tensor(tensor):
                    found[there] = tensor
                    if kind == LAYER_INPUT:
                        found[there] = tf.reshape(tensor, (-1, tensor.shape[-1]))
            if (there := place._replace(kind=PRE_ACTIVATION)) in places:
                found[there] = _before_activation(layer, taken)

        names = {place.name for place in places if place.kind != OUTPUT}
        layers = {name: layer for name, layer in self._layers.items() if name in names}
        if self._size is not None:
            x = tf.ensure_shape(x, (None, *self._size, 3))
        with _LOCK, _seeing(layers, see):
            output = self._call(x)
        wanted = {place.name for place in places if place.kind == OUTPUT}
        if wanted:
            outputs = named_outputs(output, tf.is_tensor)
            found |= {
                TensorLocation(OUTPUT, name): outputs[name] for name in wanted & outputs.keys()
            }
        return found

    def _call(self, x: Any) -> Any:
        # In this scope Keras writes to no variable, and keeps no losses.
        with keras.StatelessScope(initialize_variables=False):
            return self.model(x, training=False)

    def _takes_only(self, height: int | None, width: int | None) -> str:
        only = "{} x {}".format(*self._size) if self._size else "any"
        return f"the model {self.model.name!r} takes only {only} pictures, not {height} x {width}"

    def _fails(self, height: int, width: int, error: Exception) -> str:
        return (
            f"the model {self.model.name!r} fails on pictures of {height} x {width}: "
            f"{type(error).__name__}: {error}"
        )


def _restore(kind: type[KerasModel], state: dict[str, Any]) -> KerasModel:
    model = kind.__new__(kind)
    model.__dict__.update(state)
    model._layers = dict(_find_layers(model.model))
    return model


class _Seen:
    """What was seen of a model that was traced in ``graph``."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._calls: list[tuple[str, int]] = []
        # What each layer took and gave, by a reference to what it gave.
        self._given: dict[Any, tuple[Any, TensorLocation, Any, Any]] = {}

    def see(self, layer: Any, place: TensorLocation, taken: Any, given: Any) -> None:
        if self._is_activation(given):
            self._calls.append((place.name, place.call))
            # A model gives what its last layer gave; the layer is meant.
            self._given.setdefault(given.ref(), (layer, place, taken, given))

    def places(self, output: Any) -> tuple[dict[str, TensorLocation], dict[str, str]]:
        outputs = named_outputs(output, self._is_activation)
        embedding = logits = None
        name = "output" if len(outputs) == 1 else "logits"
        if name in outputs and outputs[name].shape.rank == 2:
            logits = TensorLocation(OUTPUT, name)
            if name == "output":
                logits = self._before_probabilities(outputs[name]) or logits
            embedding = self._embedding(outputs[name])
        if "embedding" in outputs and outputs["embedding"].shape.rank == 2:
            embedding = TensorLocation(OUTPUT, "embedding")
        return assign_layer_names(self._calls, list(outputs), embedding=embedding, logits=logits)

    def _before_probabilities(self, output: Any) -> TensorLocation | None:
        """Where the numbers are that the last layer makes probabilities of, if it does."""
        if output.ref() not in self._given:
            return None
        layer, place, taken, _ = self._given[output.ref()]
        if isinstance(layer, keras.layers.Dense) and not _is_linear(layer):
            return place._replace(kind=PRE_ACTIVATION)
        if isinstance(layer, (keras.layers.Softmax, keras.layers.Activation)):
            found = self._given.get(taken.ref())
            if found is None or not isinstance(found[0], keras.layers.Dense):
                return place._replace(kind=LAYER_INPUT)
            return found[1]
        return None

    def _embedding(self, output: Any) -> TensorLocation | None:
        """What the linear layer takes that ``output`` comes from, where that can be told."""
        linear = {
            reference: place._replace(kind=LAYER_INPUT)
            for reference, (layer, place, taken, given) in self._given.items()
            if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D))
            and is_vector_per_image(tuple(taken.shape))
            and is_vector_per_image(tuple(given.shape))
            and given.shape[-1] == output.shape[-1]
        }
        return find_producer(output.ref(), linear, _steps_before)

    def _is_activation(self, value: Any) -> bool:
        # What was computed in the graph of a loop or of a function cannot leave it.
        return (
            tf.is_tensor(value)
            and getattr(value, "graph", None) is self._graph
            and value.dtype.is_floating
            and bool(value.shape.rank)
            and value.shape[0] == _PICTURES
        )


@contextmanager
def _seeing(layers: Mapping[str, Any], see: Observer) -> Iterator[None]:
    """Calls ``see`` with what each of the layers takes and gives, in this thread."""
    thread = threading.get_ident()
    runs: Counter[str] = Counter()
    before: list[tuple[Any, Any]] = []

    def observed(name: str, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            given = call(*arguments, **named)
            if threading.get_ident() == thread:
                taken = arguments[0] if arguments else next(iter(named.values()), None)
                see(layer, TensorLocation(LAYER, name, runs[name]), taken, given)
                runs[name] += 1
            return given

        return run

    try:
        for name, layer in layers.items():
            before.append((layer, vars(layer).get("call", _NOTHING)))
            # Keras's own attributes are not touched: it keeps count of what is set by its means.
            object.__setattr__(layer, "call", observed(name, layer, layer.call))
        yield
    finally:
        for layer, call in before:
            if call is not _NOTHING:
                object.__setattr__(layer, "call", call)
            elif "call" in vars(layer):
                object.__delattr__(layer, "call")


def _find_layers(outer: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[Any]:
    """Each layer of a model with its path, those in layers too, each once."""
    seen = set() if seen is None else seen
    counts: Counter[str] = Counter()
    for layer in outer.layers if isinstance(outer, keras.Model) else outer._layers:
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        # A subclassed model may have several layers of one name.
        same = counts[layer.name]
        counts[layer.name] += 1
        path = f"{prefix}{layer.name}" + (f"_{same}" if same else "")
        yield path, layer
        yield from _find_layers(layer, f"{path}/", seen)


def _declared_size(model: Any) -> tuple[int, int] | None:
    """The height and width that a model says it takes; None: any, or it does not say."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        return None
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] not in (3, None):
        raise UnsupportedError(
            f"the model {model.name!r} takes {shape}; expected one input of shape "
            "(n, height, width, 3)"
        )
    return None if None in shape[1:3] else (shape[1], shape[2])


def _takes_bytes(model: Any) -> bool:
    """Whether a model begins by scaling what it is given from [0, 255]."""
    first = next(
        (layer for _, layer in _find_layers(model) if not isinstance(layer, keras.Model)),
        None,
    )
    return isinstance(first, keras.layers.Rescaling) and bool(
        np.all(np.abs(np.asarray(first.scale)) < _SCALE_OF_BYTES)
    )


def _is_linear(layer: Any) -> bool:
    return layer.activation is keras.activations.linear


def _before_activation(layer: Any, x: Any) -> Any:
    """The output of a dense layer without its activation."""
    y = keras.ops.matmul(keras.ops.cast(x, layer.compute_dtype), layer.kernel)
    return y if layer.bias is None else keras.ops.add(y, layer.bias)


def _steps_before(reference: Any) -> list[Any]:
    return [tensor.ref() for tensor in reference.deref().op.inputs]
