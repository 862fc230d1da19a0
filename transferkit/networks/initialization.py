"""Random weights; sampled with NumPy, so that they are the same on every backend."""

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

# The positions of the parameters that an operation multiplies or divides by. They start at 1, so
# that the operation is the identity.
_FACTORS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"batch_norm": (0, 3), "multiply": (0, 1), "divide": (0, 1)}
)


def random_weights(
    network: Network, random_state: RandomState = None, initialization: str = "he"
) -> dict[str, Floats]:
    """Return random weights for a network to train or to test.

    Only kernels and matrices are random. Biases are 0, and batch norms are the identity, however
    their parameters are named.

    Parameters
    ----------
    network
        The network whose parameters to initialize.
    random_state
        As in scikit-learn; the same int gives the same weights on every machine.
    initialization
        The distribution of kernels and matrices. Fan-in is (in / groups) x height x width,
        the number of inputs of one output; fan-out is out x height x width.

        ``"he"``
            Normal with variance 2 / fan-in (He et al., 2015, "Delving Deep into Rectifiers",
            equation 10): keeps the variance of activations constant through layers with ReLUs.
        ``"glorot"``
            Uniform in ±sqrt(6 / (fan-in + fan-out)) (Glorot and Bengio, 2010, "Understanding
            the Difficulty of Training Deep Feedforward Neural Networks", equation 16): for
            layers whose activation function is nearly linear around 0.
        ``"uniform"``
            Uniform in ±0.05 for every layer.
        ``"gaussian"``
            Normal with standard deviation 0.01 for every layer (Krizhevsky et al., 2012,
            "ImageNet Classification with Deep Convolutional Neural Networks", section 5). With
            this one and ``"uniform"``, activations of deep networks without batch norm vanish.

    Returns
    -------
    dict of str to array
        Parameter name to float32 array.

    Raises
    ------
    UnknownNameError
        If the initialization is unknown.

    Examples
    --------
    >>> from transferkit.networks import build_network, random_weights
    >>> weights = random_weights(build_network("mobilenet_v2"), random_state=0)
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    if initialization not in INITIALIZATIONS:
        raise UnknownNameError("initialization", initialization, INITIALIZATIONS)
    sample = INITIALIZATIONS[initialization]
    generator = as_generator(random_state)
    factors = {
        node.parameters[position]
        for node in network.nodes
        for position in _FACTORS.get(node.operation, ())
        if position < len(node.parameters)
    }
    weights: dict[str, Floats] = {}
    for name, shape in network.parameters.items():
        if len(shape) > 1:
            weights[name] = sample(generator, shape)
        else:
            weights[name] = np.full(shape, float(name in factors), np.float32)
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
    # Sampled in float32 to save memory: VGG-19 has 144 million weights.
    array = generator.standard_normal(shape, np.float32)
    array *= np.float32(deviation)
    return array


INITIALIZATIONS: Mapping[str, Callable[[Generator, tuple[int, ...]], Floats]] = MappingProxyType(
    {"he": _he, "glorot": _glorot, "uniform": _uniform, "gaussian": _normal}
)
"""The name of each initialization to the function that samples a kernel or a matrix."""
