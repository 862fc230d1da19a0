"""Random weights, the same on every backend because NumPy draws them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from transferkit.networks.graph import Network

__all__ = ["random_weights"]


def random_weights(
    network: Network, seed: int | np.random.Generator | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Weights drawn at random, for a network that is to be trained or tested.

    Kernels and matrices are normal with variance 2 / fan-in (He et al., 2015, "Delving Deep
    into Rectifiers", equation 10), biases 0, and a batch norm changes nothing.

    Parameters
    ----------
    network
        Whose parameters to draw.
    seed
        The same seed gives the same weights.

    Returns
    -------
    dict of str to array
        Parameter name to float32 array.

    Examples
    --------
    >>> from transferkit.networks import build_network, random_weights
    >>> weights = random_weights(build_network("mobilenet_v2"), seed=0)
    >>> weights["classifier.1.weight"].shape
    (1000, 1280)
    """
    generator = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in network.parameters.items():
        if len(shape) > 1:
            deviation = math.sqrt(2 / math.prod(shape[1:]))
            weights[name] = generator.normal(0.0, deviation, shape).astype(np.float32)
        elif name.endswith((".running_var", ".weight")):
            weights[name] = np.ones(shape, np.float32)
        else:
            weights[name] = np.zeros(shape, np.float32)
    return weights
