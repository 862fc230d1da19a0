"""Temperature scaling: one number by which logits are divided, so that probabilities are true."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from transferkit.models import Model
from transferkit.networks.passes import TEMPERATURE, divide_logits

__all__ = [
    "best_temperature",
    "cross_entropies",
    "fit_temperature",
    "temperature_of",
    "with_temperature",
]

Doubles: TypeAlias = npt.NDArray[np.float64]

# Of the logarithm of the temperature.
_MAX_LOG_TEMPERATURE = 5.0
# Of the same. Features that differ by rounding, as those of two backends do, give the same
# temperature.
_TOLERANCE = 1e-9


def cross_entropies(
    logits: npt.NDArray[Any], classes: npt.NDArray[np.intp], temperature: float = 1.0
) -> Doubles:
    """Return the cross-entropy of each image.

    Parameters
    ----------
    logits
        (n, c) logits.
    classes
        (n,) the index of the class of each image.
    temperature
        By which the logits are divided.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.temperature import cross_entropies
    >>> cross_entropies(np.log([[0.25, 0.75]]), np.array([1])).round(4).tolist()
    [0.2877]
    """
    scaled = logits.astype(np.float64) / temperature
    losses: Doubles = -log_softmax(scaled, axis=1)[np.arange(len(classes)), classes]
    return losses


def best_temperature(
    logits: npt.NDArray[Any],
    classes: npt.NDArray[np.intp],
    weights: Doubles,
    *,
    smoothing: float = 0.0,
) -> float:
    """Return the temperature with the lowest mean cross-entropy.

    Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2.

    Parameters
    ----------
    logits
        (n, c) logits.
    classes
        (n,) the index of the class of each image.
    weights
        (n,) the weight of each, by which its loss is multiplied.
    smoothing
        The share of each label that is spread over all classes, in [0, 1).

    Returns
    -------
    float
        Between exp(-5) and exp(5).

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.temperature import best_temperature
    >>> logits, classes = np.array([[9.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    >>> temperature = best_temperature(logits, classes, np.ones(4))
    >>> round(9 / temperature, 3), round(float(np.log(3)), 3)
    (1.099, 1.099)
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / math.exp(log_temperature), axis=1)
        likelihoods = (1 - smoothing) * log_probabilities[rows, classes]
        if smoothing:
            likelihoods += smoothing * log_probabilities.mean(axis=1)
        return -float((likelihoods * weights).mean())

    best = minimize_scalar(
        loss,
        bounds=(-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE),
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    return math.exp(float(best.x))


def fit_temperature(
    logits: npt.NDArray[Any], classes: npt.NDArray[np.intp], weights: Doubles | None = None
) -> float:
    """Return the temperature of a classifier from its logits of images it was not fitted to.

    As in Platt's method, the labels are smoothed as if one more image had been seen, of which
    every class was equally likely: without a mistake among few images, probabilities would
    become 1 otherwise. (Platt, 1999, "Probabilistic Outputs for Support Vector Machines".)

    Parameters
    ----------
    logits, classes
        As for `best_temperature`.
    weights
        (n,) the weight of each image; None: all equal.

    Returns
    -------
    float
        1 unless another temperature lowers the mean cross-entropy by more than one standard
        error.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.temperature import fit_temperature
    >>> logits, classes = np.array([[2.0, 0.0]] * 40), np.array([0] * 39 + [1])
    >>> fit_temperature(logits, classes) < 1
    True
    >>> fit_temperature(logits[:8], np.array([0] * 7 + [1]))
    1.0
    """
    number = len(classes)
    weights = np.ones(number) if weights is None else weights / weights.mean()
    found = best_temperature(logits, classes, weights, smoothing=1 / (number + 1))
    gains = cross_entropies(logits, classes) - cross_entropies(logits, classes, found)
    gains = gains * weights
    error = gains.std() / math.sqrt(number)
    return found if gains.mean() > error else 1.0


def temperature_of(model: Model) -> float:
    """Return the temperature by which a model divides its logits; 1 if it does not.

    Examples
    --------
    >>> from transferkit.classification.temperature import temperature_of
    >>> from transferkit.models import load_model
    >>> temperature_of(load_model("mobilenet_v2"))
    1.0
    """
    return float(model.weights[TEMPERATURE][0]) if TEMPERATURE in model.weights else 1.0


def with_temperature(model: Model, temperature: float) -> Model:
    """Return a model whose probabilities are the softmax of the logits over a temperature.

    Parameters
    ----------
    model
        From pixels to ``logits`` and ``probabilities``; it is not changed.
    temperature
        Greater than 0.
    """
    network = model.network
    if TEMPERATURE not in network.parameters:
        network = divide_logits(network)
    array = np.array([temperature], np.float32)
    array.setflags(write=False)
    weights = {**model.weights, TEMPERATURE: array}
    return dataclasses.replace(
        model, network=network, weights={name: weights[name] for name in network.parameters}
    )
