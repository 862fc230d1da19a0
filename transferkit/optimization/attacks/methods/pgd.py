"""Projected gradient descent (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import Attack, AttackBatch, State
from transferkit.optimization.attacks.steps import projected_step, random_start

__all__ = ["PGD"]

_AXES = (1, 2, 3)
_TINY = 1e-20


class PGD(Attack):
    """Steps of steepest ascent, each followed by a projection onto the epsilon ball.

    The size of step t, from 0, is ``epsilon / (1 + 0.3 t)``. The first step leads to the surface
    of the ball, since inside it the loss is smaller; later steps are smaller. The sizes do
    not depend on the number of steps. The first run starts at the original, restarts start at
    random points of the ball.

    Parameters
    ----------
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`.
    """

    name: ClassVar[str] = "pgd"
    supported_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    is_bounded: ClassVar[bool] = True
    can_restart: ClassVar[bool] = True
    default_steps: ClassVar[int] = 40
    momentum: ClassVar[float] = 0.0

    def start(self, batch: AttackBatch) -> State:
        """Return the original or a random point, and a velocity of 0; see `Attack.start`."""
        table = batch.table
        state = {
            "x": table.asarray(random_start(batch, self.norm)),
            "original": table.asarray(batch.originals),
            "epsilon": batch.column(batch.epsilon or 0.0),
        }
        if self.momentum:
            state["velocity"] = table.asarray(np.zeros_like(batch.originals))
        return state

    def step(
        self, batch: AttackBatch, state: State, evaluation: Mapping[str, Any], index: int
    ) -> State:
        """Take a projected step, with momentum if there is any; see `Attack.step`."""
        table, norm, momentum = batch.table, self.norm, self.momentum

        def update(
            x: Any, original: Any, epsilon: Any, step_size: Any, gradient: Any, *velocity: Any
        ) -> Any:
            direction = gradient
            if velocity:
                mean = table.mean(table.absolute(gradient), axes=_AXES, keepdims=True)
                mean = table.add(mean, table.asarray(_TINY))
                direction = table.add(
                    table.multiply(velocity[0], table.asarray(momentum)),
                    table.divide(gradient, mean),
                )
            moved = projected_step(table, x, original, epsilon, step_size, direction, norm)
            return {"x": moved, "velocity": direction} if velocity else {"x": moved}

        step_size = batch.column((batch.epsilon or 0.0) / (1 + 0.3 * index))
        velocity = [state["velocity"]] if momentum else []
        updated = batch.compile_once("step", update)(
            state["x"],
            state["original"],
            state["epsilon"],
            step_size,
            evaluation["gradient"],
            *velocity,
        )
        return {**state, **updated}
