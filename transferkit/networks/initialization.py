"""Random weights, the same on every backend because NumPy draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import UnknownNameError
from transferkit.networks.graph import Network
from transferkit.support.random_state import RandomState, as_generator

__all__ = ["INITIALIZATIONS", "random_weights"]

Floats: TypeAlias = npt.NDArray[np.float32]
Generator: TypeAlias = np.random.Generator


def random_weights(
    network: Network, random_state: RandomState = None, initialization: str = "he"
) -> dict[str, Floats]:
    """Weights drawn at random, for a network that is to be trained or tested.

    Only kernels and matrices are drawn. Biases are 0, and a batch norm changes nothing.

    Parameters
    ----------
    network
        Whose parameters to draw.
    random_state
        The same int gives the same weights on every machine.
    initialization
        How kernels and matrices are drawn. Fan-in is the number of inputs of one output,
        (in / groups) x height x width, and fan-out likewise, out x height x width.

        ``"he"``
            Normal with variance 2 / fan-in (He et al., 2015, "Delving Deep into Rectifiers",
            equation 10): a signal keeps its size through layers with ReLUs.
        ``"glorot"``
            Uniform within the square root of 6 / (fan-in + fan-out) of 0 (Glorot and Bengio,
            2010, "Understanding the Difficulty of Training Deep Feedforward Neural Networks",
            equation 16): for layers whose activation is nearly linear around 0.
        ``"uniform"``
            Uniform within 0.05 of 0, whatever the layer.
        ``"gaussian"``
            Normal with standard deviation 0.01, whatever the layer (Krizhevsky et al., 2012,
            "ImageNet Classification with Deep Convolutional Neural Networks", section 5). In
            deep networks without batch norm the signal dies away under these two.

    Returns
    -------
    dict of str to array
        Parameter name to float32 array.

    Raises
    ------
    UnknownNameError
        If there is no such initialization.

    Examples
    --------
    >>> from transferkit.networks import build_network, random_weights
    >>> weights = random_weights(build_network("mobilenet_v2"), random_state=0)
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    if initialization not in INITIALIZATIONS:
        raise UnknownNameError("initialization", initialization, INITIALIZATIONS)
    draw = INITIALIZATIONS[initialization]
    generator = as_generator(random_state)
    weights: dict[str, Floats] = {}
    for name, shape in network.parameters.items():
        if len(shape) > 1:
            weights[name] = draw(generator, shape)
        elif name.endswith((".running_var", ".weight")):
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = np.zeros(shape, np.float32)
    return weights


def _he(generator: Generator, shape: tuple[int, ...]) -> Floats:
    return _normal(generator, shape, math.sqrt(2 / math.prod(shape[1:])))


def _glorot(generator: Generator, shape: tuple[int, ...]) -> Floats:
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    return _uniform(generator, shape, math.sqrt(6 / (fan_in + fan_out)))


def _uniform(generator: Generator, shape: tuple[int, ...], limit: float = 0.05) -> Floats:
    array = generator.random(shape, np.float32)
    array -= np.float32(0.5)
    array *= np.float32(2 * limit)
    return array


def _normal(generator: Generator, shape: tuple[int, ...], deviation: float = 0.01) -> Floats:
    # Drawn in float32: VGG-19 has 144 million weights.
    array = generator.standard_normal(shape, np.float32)
    array *= np.float32(deviation)
    return array


INITIALIZATIONS: Mapping[str, Callable[[Generator, tuple[int, ...]], Floats]] = MappingProxyType(
    {"he": _he, "glorot": _glorot, "uniform": _uniform, "gaussian": _normal}
)
"""Name to what draws a kernel or a matrix."""
