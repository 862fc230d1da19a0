"""What the methods with projected steps share: random starts and the step itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transferkit.backends.base import Table
from transferkit.optimization.attacks.base import AttackBatch, Floats
from transferkit.optimization.attacks.norms import mask_saturated, project, steepest_ascent

__all__ = ["projected_step", "random_start"]


def projected_step(
    table: Table[Any],
    x: Any,
    original: Any,
    epsilon: Any,
    step_size: Any,
    gradient: Any,
    norm: str,
) -> Any:
    """Return ``x`` after a step of steepest ascent, projected onto the epsilon ball and [0, 1].

    Parameters
    ----------
    table
        The primitives.
    x, original, gradient
        (n, h, w, 3): the current images, the originals, and the gradient or a direction.
    epsilon, step_size
        (n, 1, 1, 1)
    norm
        The norm of the ball and of the step.

    Returns
    -------
    tensor
        (n, h, w, 3)
    """
    if norm != "linf":
        # Otherwise a part of the step would be spent on values that cannot change.
        gradient = mask_saturated(table, gradient, x)
    step = table.multiply(steepest_ascent(table, gradient, norm), step_size)
    perturbation = table.add(table.subtract(x, original), step)
    perturbation = project(table, perturbation, epsilon, norm)
    return table.clip(table.add(original, perturbation), low=0.0, high=1.0)


def random_start(batch: AttackBatch, norm: str) -> Floats:
    """Return the starting points: the originals, or random ones after a restart.

    Parameters
    ----------
    batch
        The images. The direction of a random perturbation depends on the seed, the restart and
        the image, and not on epsilon.
    norm
        For ``"linf"`` a perturbation is uniform in the cube; for ``"l2"`` and ``"l1"`` its
        direction is random and its norm is uniform in [0, epsilon].

    Returns
    -------
    array
        (n, h, w, 3), float32 in [0, 1].
    """
    if not batch.restart:
        return batch.originals
    sample: Mapping[str, Callable[[np.random.Generator, Any], Any]] = {
        "linf": lambda generator, shape: generator.uniform(-1, 1, shape),
        "l2": lambda generator, shape: generator.normal(size=shape),
        "l1": lambda generator, shape: generator.laplace(size=shape),
    }
    starts = []
    for original, generator in zip(batch.originals, batch.generators(), strict=True):
        perturbation = sample[norm](generator, original.shape)
        if norm == "l1":
            perturbation *= generator.uniform() / np.abs(perturbation).sum()
        elif norm == "l2":
            perturbation *= generator.uniform() / np.sqrt((perturbation**2).sum())
        starts.append(np.clip(original + (batch.epsilon or 0.0) * perturbation, 0, 1))
    return np.asarray(starts, np.float32)
