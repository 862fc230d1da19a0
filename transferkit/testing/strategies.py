"""Hypothesis strategies for calls of primitives, small networks and images.

Hypothesis draws shapes and attributes, and shrinks those that fail. The values of arrays come from
a random generator with a drawn seed, since shrinking them would not help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from transferkit.backends.base import Table
from transferkit.networks.graph import INPUT, Network, NetworkBuilder, Padding
from transferkit.networks.initialization import random_weights

__all__ = [
    "PRIMITIVE_CALLS",
    "PrimitiveCall",
    "RandomNetwork",
    "images",
    "networks",
    "random_weights_and_statistics",
]

Floats: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]
Draw: TypeAlias = st.DrawFn

_SEEDS = st.integers(0, 2**32 - 1)
_SIDES = st.integers(1, 9)
_CHANNELS = st.integers(1, 6)
_BATCHES = st.integers(1, 5)
_NETWORK_SIDES = st.integers(8, 24)


@dataclass(frozen=True)
class PrimitiveCall:
    """A primitive with arguments, whose results are compared between two tables.

    Parameters
    ----------
    operation
        The name of the primitive.
    arrays
        The first arguments, float32: the inputs of the compiled function.
    constants
        The following arguments, float32: constants in the compiled function.
    attributes
        The keyword arguments.
    through_pool
        Whether each of ``arrays`` first passes through pooling with windows of one pixel; only
        for those with four axes. This does not change values, but it tests tables that store the
        outputs of pooling and convolutions in another memory layout than their inputs.
    """

    operation: str
    arrays: tuple[Floats, ...]
    constants: tuple[Floats, ...]
    attributes: Mapping[str, Any]
    through_pool: tuple[bool, ...]

    def run(self, table: Table[Any], *tensors: Any) -> Any:
        """Call the primitive of ``table`` with ``tensors``, which have the values of `arrays`."""
        inputs = [
            table.max_pool2d(x, size=(1, 1), stride=(1, 1), padding=((0, 0), (0, 0)))
            if is_pooled
            else x
            for x, is_pooled in zip(tensors, self.through_pool, strict=True)
        ]
        constants = [table.asarray(array) for array in self.constants]
        if self.operation == "conv2d":
            groups = self.attributes["groups"]
            constants[0] = table.kernel(self.constants[0], groups=groups)
        return getattr(table, self.operation)(*inputs, *constants, **self.attributes)


class RandomNetwork(NamedTuple):
    """A network with its weights, and the size of the images that it accepts."""

    network: Network
    weights: dict[str, Floats]
    height: int
    width: int


@st.composite
def images(
    draw: Draw,
    heights: st.SearchStrategy[int],
    widths: st.SearchStrategy[int],
    batches: st.SearchStrategy[int] = _BATCHES,
) -> Floats:
    """Draw a batch of random images (n, h, w, 3), float32 in [0, 1].

    Parameters
    ----------
    draw
        Provided by Hypothesis.
    heights, widths
        The strategies for the height and the width.
    batches
        The strategy for the number of images; by default 1 to 5.

    Examples
    --------
    >>> from hypothesis import strategies
    >>> from transferkit.testing.strategies import images
    >>> sides = strategies.integers(32, 300)
    >>> batches = images(heights=sides, widths=sides)
    """
    shape = (draw(batches), draw(heights), draw(widths), 3)
    return np.random.default_rng(draw(_SEEDS)).random(shape, np.float32)


def random_weights_and_statistics(network: Network, seed: int) -> dict[str, Floats]:
    """Return random weights with random biases and batch-normalization statistics.

    With the usual initialization, batch normalization does not change values, so errors in it
    would remain undetected.

    Parameters
    ----------
    network
        The network that the weights are for.
    seed
        The seed of the random generator.

    Returns
    -------
    dict of str to array
        Like `transferkit.networks.random_weights`, but biases and means are random numbers
        around 0, and the scales and variances of batch normalization are positive random numbers
        around 1.

    Examples
    --------
    >>> from transferkit.networks import build_network
    >>> from transferkit.testing.strategies import random_weights_and_statistics
    >>> weights = random_weights_and_statistics(build_network("mobilenet_v2"), seed=0)
    >>> bool((weights["features.0.1.running_var"] == 1).any())
    False
    """
    generator = np.random.default_rng(seed)
    weights = random_weights(network, generator)
    for name, array in weights.items():
        if array.ndim > 1:
            continue
        if not array.any():  # a bias or a mean
            sampled = generator.normal(0.0, 0.3, array.shape)
        else:
            largest = 2.0 if name in network.statistics else 1.5
            sampled = generator.uniform(0.5, largest, array.shape)
        weights[name] = sampled.astype(np.float32)
    return weights


@st.composite
def _arrays(draw: Draw, shape: Shape, *, low: float = -3.0, high: float = 3.0) -> Floats:
    values = np.random.default_rng(draw(_SEEDS)).uniform(low, high, shape)
    return np.asarray(values, np.float32)


@st.composite
def _feature_maps(draw: Draw, channels: int | None = None) -> Floats:
    channels = draw(_CHANNELS) if channels is None else channels
    return draw(_arrays((draw(_BATCHES), draw(_SIDES), draw(_SIDES), channels)))


@st.composite
def _shapes(draw: Draw, min_rank: int = 0, max_rank: int = 4) -> Shape:
    # Mostly feature maps, the only tensors that a backend may store in another layout.
    ranks = [*range(min_rank, max_rank), *[max_rank] * 4]
    rank = draw(st.sampled_from(ranks))
    return tuple(draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank)))


@st.composite
def _call(
    draw: Draw,
    /,
    operation: str,
    arrays: tuple[Floats, ...],
    constants: tuple[Floats, ...] = (),
    **attributes: Any,
) -> PrimitiveCall:
    pools_all = draw(st.booleans())
    through_pool = tuple(array.ndim == 4 and (pools_all or draw(st.booleans())) for array in arrays)
    return PrimitiveCall(operation, arrays, constants, attributes, through_pool)


@st.composite
def _paddings(draw: Draw, largest: Shape) -> Padding:
    (top, bottom), (left, right) = (
        (draw(st.integers(0, limit)), draw(st.integers(0, limit))) for limit in largest
    )
    return ((top, bottom), (left, right))


@st.composite
def _pooling_calls(draw: Draw, operation: str) -> PrimitiveCall:
    size = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    sides = [draw(st.integers(extent, 9)) for extent in size]
    x = draw(_arrays((draw(_BATCHES), *sides, draw(_CHANNELS))))
    if operation == "average_pool2d":
        return draw(_call(operation, (x,), size=size, stride=stride))
    padding = draw(_paddings(tuple(extent - 1 for extent in size)))
    return draw(_call(operation, (x,), size=size, stride=stride, padding=padding))


@st.composite
def _conv2d_calls(draw: Draw) -> PrimitiveCall:
    """Draw plain, grouped and depthwise convolutions, with any stride and uneven padding."""
    groups = draw(st.integers(1, 4))
    per_group = draw(st.integers(1, 3))
    out_channels = groups * draw(st.integers(1, 3))
    size = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    strides = [(1, 1), (2, 2), (3, 3)]
    # oneDNN, which torch 2.13 and TensorFlow 2.21 use, leaves some results uninitialized for an
    # input with one channel, an output one pixel wide, and a stride of (1, 2).
    if groups * per_group > 1:
        strides += [(1, 2), (2, 1)]
    stride = draw(st.sampled_from(strides))
    padding = draw(
        st.one_of(
            # The usual ones in networks: no padding, and padding that keeps the size.
            st.just(((0, 0), (0, 0))),
            st.just(((size[0] // 2, size[0] // 2), (size[1] // 2, size[1] // 2))),
            _paddings((3, 3)),
        )
    )
    sides = [
        draw(st.integers(max(1, extent - sum(pads)), 9))
        for extent, pads in zip(size, padding, strict=True)
    ]
    x = draw(_arrays((draw(_BATCHES), *sides, groups * per_group)))
    kernel = draw(_arrays((out_channels, per_group, *size), low=-1.0, high=1.0))
    bias = (draw(_arrays((out_channels,))),) if draw(st.booleans()) else ()
    constants = (kernel, *bias)
    return draw(_call("conv2d", (x,), constants, stride=stride, padding=padding, groups=groups))


@st.composite
def _batch_norm_calls(draw: Draw) -> PrimitiveCall:
    channels = draw(_CHANNELS)
    bounds = ((0.2, 2.0), (-1.0, 1.0), (-1.0, 1.0), (1e-3, 2.0))
    statistics = tuple(draw(_arrays((channels,), low=low, high=high)) for low, high in bounds)
    epsilon = draw(st.sampled_from([1e-5, 1e-3]))
    return draw(_call("batch_norm", (draw(_feature_maps(channels)),), statistics, epsilon=epsilon))


@st.composite
def _linear_calls(draw: Draw) -> PrimitiveCall:
    in_features, out_features = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    x = draw(_arrays((draw(_BATCHES), in_features)))
    weight = draw(_arrays((out_features, in_features)))
    return draw(_call("linear", (x,), (weight, draw(_arrays((out_features,))))))


@st.composite
def _broadcast_shapes(draw: Draw, max_rank: int = 4) -> tuple[Shape, Shape]:
    """Draw two shapes that broadcast: with axes of length 1, and without some leading axes."""
    shape = draw(_shapes(0, max_rank))
    with_ones = [
        tuple(1 if draw(st.integers(0, 3)) == 0 else length for length in shape) for _ in range(2)
    ]
    missing = draw(st.sampled_from([(0, 0), (0, draw(st.integers(0, len(shape))))]))
    first, second = (lengths[skip:] for lengths, skip in zip(with_ones, missing, strict=True))
    return (first, second) if draw(st.booleans()) else (second, first)


@st.composite
def _matmul_calls(draw: Draw) -> PrimitiveCall:
    leading_x, leading_y = draw(_broadcast_shapes(2))
    rows, shared, columns = (draw(st.integers(1, 5)) for _ in range(3))
    x = draw(_arrays((*leading_x, rows, shared)))
    y = draw(_arrays((*leading_y, shared, columns)))
    return draw(_call("matmul", (x, y)))


@st.composite
def _binary_calls(draw: Draw, operation: str) -> PrimitiveCall:
    shape_x, shape_y = draw(_broadcast_shapes())
    # Quotients by numbers near 0 are arbitrarily large, and so are their errors.
    bounds = {"low": 0.5, "high": 2.0} if operation == "divide" else {}
    x, y = draw(_arrays(shape_x)), draw(_arrays(shape_y, **bounds))
    if draw(st.booleans()):
        return draw(_call(operation, (x,), (y,)))
    return draw(_call(operation, (x, y)))


@st.composite
def _elementwise_calls(
    draw: Draw, operation: str, low: float = -3.0, high: float = 3.0
) -> PrimitiveCall:
    return draw(_call(operation, (draw(_arrays(draw(_shapes()), low=low, high=high)),)))


@st.composite
def _sign_calls(draw: Draw) -> PrimitiveCall:
    values = np.random.default_rng(draw(_SEEDS)).choice(
        [-2.5, -1e-30, 0, 1e-30, 7], draw(_shapes())
    )
    return draw(_call("sign", (np.asarray(values, np.float32),)))


@st.composite
def _clip_calls(draw: Draw) -> PrimitiveCall:
    low, high = draw(st.sampled_from([(0.0, 6.0), (0.0, 1.0), (-1.5, 2.5)]))
    x = draw(_arrays(draw(_shapes()), low=-8.0, high=8.0))
    return draw(_call("clip", (x,), low=low, high=high))


@st.composite
def _softmax_calls(draw: Draw, operation: str) -> PrimitiveCall:
    # The exponential of 1000 overflows.
    size = draw(st.sampled_from([1.0, 10.0, 1000.0]))
    return draw(_call(operation, (draw(_arrays(draw(_shapes(1)), low=-size, high=size)),)))


@st.composite
def _concat_calls(draw: Draw) -> PrimitiveCall:
    shape = draw(_shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    arrays = tuple(draw(_arrays((*shape[:axis], length, *shape[axis + 1 :]))) for length in lengths)
    return draw(_call("concat", arrays, axis=axis))


@st.composite
def _adaptive_average_pool2d_calls(draw: Draw) -> PrimitiveCall:
    """Draw fewer, more and, as in VGG at its design size, as many output pixels as input pixels."""
    x = draw(_feature_maps())
    height, width = (draw(st.one_of(st.just(length), _SIDES)) for length in x.shape[1:3])
    return draw(_call("adaptive_average_pool2d", (x,), height=height, width=width))


@st.composite
def _flatten_calls(draw: Draw) -> PrimitiveCall:
    if draw(st.booleans()):
        return draw(_call("flatten", (draw(_arrays(draw(_shapes(2)))),)))
    return draw(_call("flatten", (draw(_feature_maps()),), channels_first=draw(st.booleans())))


@st.composite
def _reverse_channels_calls(draw: Draw) -> PrimitiveCall:
    return draw(_call("reverse_channels", (draw(_arrays(draw(_shapes(1)))),)))


@st.composite
def _reduction_calls(draw: Draw, operation: str) -> PrimitiveCall:
    shape = draw(_shapes(1))
    all_axes = list(range(len(shape)))
    axes = tuple(draw(st.lists(st.sampled_from(all_axes), unique=True)))
    # Values of the same sign: a sum that cancels to nearly 0 has few correct digits in float32.
    x = draw(_arrays(shape, low=0.1 if operation != "max" else -3.0))
    return draw(_call(operation, (x,), axes=axes, keepdims=draw(st.booleans())))


@st.composite
def _pad_calls(draw: Draw) -> PrimitiveCall:
    value = draw(st.sampled_from([0.0, 1.0, -2.5]))
    x = draw(_feature_maps())
    return draw(_call("pad", (x,), padding=draw(_paddings((3, 3))), value=value))


@st.composite
def _crop_calls(draw: Draw) -> PrimitiveCall:
    x = draw(_feature_maps())
    height, width = (draw(st.integers(1, length)) for length in x.shape[1:3])
    top = draw(st.integers(0, x.shape[1] - height))
    left = draw(st.integers(0, x.shape[2] - width))
    return draw(_call("crop", (x,), top=top, left=left, height=height, width=width))


@st.composite
def _resize_calls(draw: Draw) -> PrimitiveCall:
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return draw(_call("resize", (draw(_feature_maps()),), height=height, width=width))


@st.composite
def _slice_calls(draw: Draw) -> PrimitiveCall:
    shape = draw(_shapes(1))
    axis = draw(st.integers(0, len(shape) - 1))
    length = shape[axis]
    start = draw(st.integers(0, length - 1))
    stop = draw(st.integers(start + 1, length))
    # Equivalent bounds that count from the end.
    start = draw(st.sampled_from([start, start - length]))
    end = draw(st.sampled_from([stop, None if stop == length else stop - length]))
    return draw(_call("slice", (draw(_arrays(shape)),), axis=axis, start=start, stop=end))


@st.composite
def _transpose_calls(draw: Draw) -> PrimitiveCall:
    shape = draw(_shapes(1))
    axes = tuple(draw(st.permutations(range(len(shape)))))
    return draw(_call("transpose", (draw(_arrays(shape)),), axes=axes))


@st.composite
def _sample_calls(draw: Draw) -> PrimitiveCall:
    """Draw positions inside and outside of the image."""
    x = draw(_feature_maps())
    shape = (draw(_SIDES), draw(_SIDES))
    rows, columns = (draw(_arrays(shape, low=-2.0, high=length + 1.0)) for length in x.shape[1:3])
    positions = np.stack([rows, columns], axis=-1)
    if draw(st.booleans()):
        # At the centers of pixels.
        positions = np.round(positions)
    return draw(_call("sample", (x,), (positions,)))


@st.composite
def _normalize_calls(draw: Draw) -> PrimitiveCall:
    channels = draw(_CHANNELS)
    mean, std = (tuple(draw(_arrays((channels,), low=0.2, high=0.6)).tolist()) for _ in range(2))
    return draw(_call("normalize", (draw(_feature_maps(channels)),), mean=mean, std=std))


@st.composite
def _l2_normalize_calls(draw: Draw) -> PrimitiveCall:
    # The result for a row of one number is its sign, whose derivative is only rounding errors.
    shape = (draw(_BATCHES), draw(st.integers(2, 20)))
    return draw(_call("l2_normalize", (draw(_arrays(shape)),)))


PRIMITIVE_CALLS: Mapping[str, st.SearchStrategy[PrimitiveCall]] = MappingProxyType(
    {
        "conv2d": _conv2d_calls(),
        "batch_norm": _batch_norm_calls(),
        "linear": _linear_calls(),
        "matmul": _matmul_calls(),
        "max_pool2d": _pooling_calls("max_pool2d"),
        "average_pool2d": _pooling_calls("average_pool2d"),
        "adaptive_average_pool2d": _adaptive_average_pool2d_calls(),
        "relu": _elementwise_calls("relu"),
        "clip": _clip_calls(),
        # Below -12, some frameworks return about 1e-8 instead of smaller values, an error that is
        # too large relative to results that are all that small.
        "sigmoid": _elementwise_calls("sigmoid", -12.0, 100.0),
        "tanh": _elementwise_calls("tanh"),
        "exp": _elementwise_calls("exp", -20.0, 20.0),
        # The logarithm is undefined below 0, and neither function has a derivative at 0.
        "log": _elementwise_calls("log", 0.1, 50.0),
        "sqrt": _elementwise_calls("sqrt", 0.1, 50.0),
        "absolute": _elementwise_calls("absolute"),
        "sign": _sign_calls(),
        "softmax": _softmax_calls("softmax"),
        "log_softmax": _softmax_calls("log_softmax"),
        "add": _binary_calls("add"),
        "subtract": _binary_calls("subtract"),
        "multiply": _binary_calls("multiply"),
        "divide": _binary_calls("divide"),
        "concat": _concat_calls(),
        "flatten": _flatten_calls(),
        "reverse_channels": _reverse_channels_calls(),
        "sum": _reduction_calls("sum"),
        "mean": _reduction_calls("mean"),
        "max": _reduction_calls("max"),
        "pad": _pad_calls(),
        "crop": _crop_calls(),
        "resize": _resize_calls(),
        "slice": _slice_calls(),
        "transpose": _transpose_calls(),
        "sample": _sample_calls(),
        "normalize": _normalize_calls(),
        "hard_sigmoid": _elementwise_calls("hard_sigmoid", -6.0, 6.0),
        "hard_swish": _elementwise_calls("hard_swish", -6.0, 6.0),
        "l2_normalize": _l2_normalize_calls(),
    }
)
"""The name of each primitive to a strategy that draws calls of it."""


class _NetworkDraft:
    """A random network under construction: each step adds a few nodes after the last one."""

    def __init__(self, draw: Draw, sides: st.SearchStrategy[int]) -> None:
        self.draw = draw
        self.builder = NetworkBuilder("random", input_size=24)
        self.height = draw(sides)
        self.width = draw(sides)
        self.last = self.builder.add_node(
            "normalize", "normalize", INPUT, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)
        )
        self.shape = (self.height, self.width, 3)
        self.earlier = [(self.last, self.shape)]
        self.count = 0

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        self.count += 1
        return self.builder.add_node(f"{operation}.{self.count}", operation, *inputs, **attributes)

    def set_last(self, name: str, shape: tuple[int, int, int]) -> None:
        self.last = name
        self.shape = shape
        self.earlier.append((name, shape))

    def convolution(self) -> None:
        """Add a convolution with any number of groups, with or without batch normalization."""
        draw, (h, w, channels) = self.draw, self.shape
        size = draw(st.sampled_from([1, 3, 5]))
        stride = draw(st.sampled_from([1, 1, 2]))
        divisors = [groups for groups in range(1, channels + 1) if channels % groups == 0]
        groups = draw(st.sampled_from(divisors))
        out_channels = groups * draw(st.integers(1, max(1, 8 // groups)))
        self.count += 1
        name = f"conv.{self.count}"
        has_batch_norm = draw(st.booleans())
        x = self.builder.conv2d(
            name,
            self.last,
            channels,
            out_channels,
            size=size,
            stride=stride,
            padding=size // 2,
            groups=groups,
            bias=draw(st.booleans()),
        )
        if has_batch_norm:
            epsilon = draw(st.sampled_from([1e-5, 1e-3]))
            x = self.builder.batch_norm(f"{name}.norm", x, out_channels, epsilon=epsilon)
        self.set_last(x, ((h - 1) // stride + 1, (w - 1) // stride + 1, out_channels))

    def batch_norm(self) -> None:
        """Add batch normalization, possibly after a convolution that is also used elsewhere."""
        self.count += 1
        name = f"norm.{self.count}"
        x = self.builder.batch_norm(name, self.last, self.shape[2], epsilon=1e-5)
        self.set_last(x, self.shape)

    def activation(self) -> None:
        operation = self.draw(st.sampled_from(["relu", "clip", "sigmoid", "tanh"]))
        attributes = {"low": 0.0, "high": 6.0} if operation == "clip" else {}
        self.set_last(self.add(operation, self.last, **attributes), self.shape)

    def residual(self) -> None:
        candidates = [name for name, shape in self.earlier if shape == self.shape]
        other = self.draw(st.sampled_from(candidates))
        self.set_last(self.add("add", self.last, other), self.shape)

    def concatenation(self) -> None:
        candidates = [(name, shape) for name, shape in self.earlier if shape[:2] == self.shape[:2]]
        other, shape = self.draw(st.sampled_from(candidates))
        channels = self.shape[2] + shape[2]
        # Limit the time.
        if channels <= 16:
            x = self.add("concat", self.last, other, axis=3)
            self.set_last(x, (*self.shape[:2], channels))

    def squeeze_and_excite(self) -> None:
        channels = self.shape[2]
        x = self.add("mean", self.last, axes=(1, 2), keepdims=True)
        self.count += 1
        x = self.builder.conv2d(f"squeeze.{self.count}", x, channels, channels, size=1)
        x = self.add("sigmoid", x)
        self.set_last(self.add("multiply", self.last, x), self.shape)

    def max_pool(self) -> None:
        h, w, channels = self.shape
        if min(h, w) >= 2:
            padding = ((0, 1), (1, 1))
            x = self.add("max_pool2d", self.last, size=(3, 3), stride=(2, 2), padding=padding)
            self.set_last(x, ((h - 2) // 2 + 1, (w - 1) // 2 + 1, channels))

    def average_pool(self) -> None:
        h, w, channels = self.shape
        if min(h, w) >= 2:
            x = self.add("average_pool2d", self.last, size=(2, 2), stride=(1, 2))
            self.set_last(x, (h - 1, (w - 2) // 2 + 1, channels))

    def pad(self) -> None:
        h, w, channels = self.shape
        x = self.add("pad", self.last, padding=((1, 0), (0, 2)), value=0.5)
        self.set_last(x, (h + 1, w + 2, channels))

    def resize(self) -> None:
        height, width = self.draw(st.integers(3, 12)), self.draw(st.integers(3, 12))
        x = self.add("resize", self.last, height=height, width=width)
        self.set_last(x, (height, width, self.shape[2]))


_STEPS: tuple[Callable[[_NetworkDraft], None], ...] = (
    # Most layers of networks are convolutions and activations.
    _NetworkDraft.convolution,
    _NetworkDraft.convolution,
    _NetworkDraft.convolution,
    _NetworkDraft.activation,
    _NetworkDraft.activation,
    _NetworkDraft.batch_norm,
    _NetworkDraft.residual,
    _NetworkDraft.concatenation,
    _NetworkDraft.squeeze_and_excite,
    _NetworkDraft.max_pool,
    _NetworkDraft.average_pool,
    _NetworkDraft.pad,
    _NetworkDraft.resize,
)


@st.composite
def networks(draw: Draw, sides: st.SearchStrategy[int] = _NETWORK_SIDES) -> RandomNetwork:
    """Draw a small network with branches, residuals, batch normalization and random weights.

    It ends in ``embedding`` and ``logits``. It accepts images of its ``height`` x ``width``; with
    other sizes, the shapes of its branches may not match.

    Parameters
    ----------
    draw
        Provided by Hypothesis.
    sides
        The strategy for the height and the width, 8 or more; by default 8 to 24.

    Examples
    --------
    >>> from hypothesis import find
    >>> from transferkit.testing.strategies import networks
    >>> drawn = find(networks(), lambda drawn: "conv.1" in drawn.network.layers)
    >>> drawn.network.layers[0]
    'normalize'
    """
    draft = _NetworkDraft(draw, sides)
    for step in draw(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=8)):
        step(draft)
    builder = draft.builder
    channels = draft.shape[2]
    if draw(st.booleans()):
        x = builder.add_node("embedding", "mean", draft.last, axes=(1, 2))
    else:
        x = builder.add_node("resized", "resize", draft.last, height=2, width=3)
        x = builder.add_node("embedding", "flatten", x)
        channels *= 6
    classes = draw(st.integers(2, 5))
    x = builder.linear("classifier", x, channels, classes)
    builder.alias("logits", x)
    builder.add_node("probabilities", "softmax", x)
    network = builder.build()
    weights = random_weights_and_statistics(network, draw(_SEEDS))
    return RandomNetwork(network, weights, draft.height, draft.width)
