"""Projected gradient descent (Madry et al. 2018), with momentum MI-FGSM (Dong et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.backends.base import Table
from transferkit.optimization.attacks.base import Attack, Chunk, State
from transferkit.optimization.attacks.norms import movable, project, steepest

__all__ = ["MIFGSM", "PGD", "random_start", "take_step"]

_AXES = (1, 2, 3)
_TINY = 1e-20


class PGD(Attack):
    """Steps along the steepest direction, each time back into the ball.

    Step t, from 0, goes ``epsilon / (1 + 0.3 t)`` far: from the start to the ball's surface at
    first, since on the way there nothing is to be found, then finer and finer. The sizes do
    not depend on how many steps there will be. The first try begins at the picture itself,
    further ones in random places of the ball.

    Parameters
    ----------
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    is_bounded: ClassVar[bool] = True
    can_restart: ClassVar[bool] = True
    default_steps: ClassVar[int] = 40
    momentum: ClassVar[float] = 0.0

    def start(self, chunk: Chunk) -> State:
        """As `Attack.start`."""
        table = chunk.table
        start = random_start(chunk, self.norm) if chunk.restart else chunk.originals
        state = {
            "x": table.asarray(start),
            "original": table.asarray(chunk.originals),
            "epsilon": chunk.column(chunk.epsilon or 0.0),
        }
        if self.momentum:
            state["velocity"] = table.asarray(np.zeros_like(chunk.originals))
        return state

    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:
        """As `Attack.step`."""
        table, norm, momentum = chunk.table, self.norm, self.momentum

        def update(
            x: Any, original: Any, epsilon: Any, size: Any, gradient: Any, *past: Any
        ) -> Any:
            direction = gradient
            if past:
                mean = table.mean(table.absolute(gradient), axes=_AXES, keepdims=True)
                mean = table.add(mean, table.asarray(_TINY))
                direction = table.add(
                    table.multiply(past[0], table.asarray(momentum)), table.divide(gradient, mean)
                )
            moved = take_step(table, x, original, epsilon, size, direction, norm)
            return {"x": moved, "velocity": direction} if past else {"x": moved}

        compiled = chunk.compiled(f"PGD {norm} {momentum}", update)
        size = chunk.column((chunk.epsilon or 0.0) / (1 + 0.3 * index))
        past = [state["velocity"]] if momentum else []
        new = compiled(
            state["x"], state["original"], state["epsilon"], size, found["gradient"], *past
        )
        return {**state, **new}


class MIFGSM(PGD):
    """`PGD` along a fading sum of all gradients so far, each divided by its mean size.

    What it finds fools other networks more often.
    """

    momentum: ClassVar[float] = 0.75


def take_step(
    table: Table[Any], x: Any, original: Any, epsilon: Any, size: Any, direction: Any, norm: str
) -> Any:
    """``x`` moved ``size`` along the steepest ascent, within ``epsilon`` and [0, 1].

    Parameters
    ----------
    table
        The primitives.
    x, original, direction
        (n, h, w, 3): where it is, the middle of the ball, and the gradient.
    epsilon, size
        (n, 1, 1, 1)
    norm
        Of both.
    """
    if norm != "linf":
        # Length spent on values that cannot change is lost to those that can.
        direction = movable(table, direction, x)
    step = table.multiply(steepest(table, direction, norm), size)
    change = table.add(table.subtract(x, original), step)
    change = project(table, change, epsilon, norm)
    return table.clip(table.add(original, change), low=0.0, high=1.0)


def random_start(chunk: Chunk, norm: str) -> Any:
    """A random place in the ball around each picture, (n, h, w, 3), float32 in [0, 1].

    It is the same direction for every epsilon: uniform in the cube for l-infinity, else
    uniform on the sphere and at a distance that is uniform in [0, epsilon].
    """
    draw: Mapping[str, Callable[[np.random.Generator, Any], Any]] = {
        "linf": lambda generator, shape: generator.uniform(-1, 1, shape),
        "l2": lambda generator, shape: generator.normal(size=shape),
        "l1": lambda generator, shape: generator.laplace(size=shape),
    }
    starts = []
    for original, generator in zip(chunk.originals, chunk.generators(), strict=True):
        change = draw[norm](generator, original.shape)
        if norm != "linf":
            total = np.abs(change).sum() if norm == "l1" else np.sqrt((change**2).sum())
            change *= generator.uniform() / total
        starts.append(np.clip(original + (chunk.epsilon or 0.0) * change, 0, 1))
    return np.asarray(starts, np.float32)
