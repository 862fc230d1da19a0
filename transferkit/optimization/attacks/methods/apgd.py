"""Auto-PGD (Croce and Hein 2020): PGD with an adaptive step size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import Attack, AttackBatch, State
from transferkit.optimization.attacks.norms import project, where
from transferkit.optimization.attacks.steps import projected_step, random_start
from transferkit.training.averages import moving_average

__all__ = ["APGD"]

# The paper's 1 - alpha and rho: the weight of the previous step in a step, and the smallest
# fraction of steps between two checkpoints that must have increased the loss.
_MOMENTUM = 0.25
_MIN_INCREASES = 0.75
# The number of steps between the first two checkpoints, and its growth from one to the next.
_FIRST_INTERVAL = 3
_INTERVAL_GROWTH = 1.25


class APGD(Attack):
    """Steps with momentum, whose size is halved when the loss stops increasing.

    After it is halved, the search continues from the best point so far. The checkpoints are after
    3, 7, 12, ... steps. In the paper they are at fractions of the number of steps, so that more
    steps could find fewer adversarial images. The size of the first step is epsilon, half the
    paper's.

    Parameters
    ----------
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`; the paper's is ``"dlr"``.
    """

    name: ClassVar[str] = "apgd"
    supported_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    is_bounded: ClassVar[bool] = True
    can_restart: ClassVar[bool] = True
    default_steps: ClassVar[int] = 100

    def start(self, batch: AttackBatch) -> State:
        """Return the original or a random point, and the initial step size; see `Attack.start`."""
        table = batch.table
        start = random_start(batch, self.norm)
        count = len(start)
        x = table.asarray(start)
        return {
            "x": x,
            "previous x": x,
            "original": table.asarray(batch.originals),
            "epsilon": batch.column(batch.epsilon or 0.0),
            "best x": x,
            "best gradient": table.asarray(np.zeros_like(start)),
            "best loss": np.full(count, -np.inf),
            "previous loss": np.full(count, np.inf),
            "relative step size": np.full(count, 1.0),
            "increases": np.zeros(count, np.intp),
            "was halved": np.ones(count, np.bool_),
            "best loss at checkpoint": np.full(count, -np.inf),
        }

    def step(
        self, batch: AttackBatch, state: State, evaluation: Mapping[str, Any], index: int
    ) -> State:
        """Take a step, after halving its size if necessary; see `Attack.step`."""
        table = batch.table
        loss = evaluation["loss"]
        is_best = loss > state["best loss"]
        best_loss = np.where(is_best, loss, state["best loss"])
        increases = state["increases"] + (loss > state["previous loss"])
        step_size, halved = state["relative step size"], state["was halved"]
        best_loss_then = state["best loss at checkpoint"]
        go_back = np.zeros(len(loss), np.bool_)
        interval = _interval_ending_at(index)
        if interval:
            too_few_increases = increases < _MIN_INCREASES * interval
            is_stuck = ~halved & (best_loss <= best_loss_then)
            go_back = too_few_increases | is_stuck
            step_size = np.where(go_back, step_size / 2, step_size)
            halved, best_loss_then, increases = go_back, best_loss, np.zeros_like(increases)
        norm = self.norm

        def update(
            x: Any,
            previous_x: Any,
            original: Any,
            epsilon: Any,
            step_size: Any,
            gradient: Any,
            best_x: Any,
            best_gradient: Any,
            is_best: Any,
            go_back: Any,
            momentum: Any,
        ) -> dict[str, Any]:
            best_x = where(table, is_best, x, best_x)
            best_gradient = where(table, is_best, gradient, best_gradient)
            x = where(table, go_back, best_x, x)
            gradient = where(table, go_back, best_gradient, gradient)
            previous_x = where(table, go_back, x, previous_x)
            ahead = projected_step(table, x, original, epsilon, step_size, gradient, norm)
            previous_step, step = table.subtract(x, previous_x), table.subtract(ahead, x)
            step = moving_average(table, previous_step, step, momentum)
            perturbation = table.add(table.subtract(x, original), step)
            perturbation = project(table, perturbation, epsilon, norm)
            moved = table.clip(table.add(original, perturbation), low=0.0, high=1.0)
            return {
                "x": moved,
                "previous x": x,
                "best x": best_x,
                "best gradient": best_gradient,
            }

        updated = batch.compile_once("step", update)(
            state["x"],
            state["previous x"],
            state["original"],
            state["epsilon"],
            batch.column(step_size * (batch.epsilon or 0.0)),
            evaluation["gradient"],
            state["best x"],
            state["best gradient"],
            batch.column(is_best),
            batch.column(go_back),
            batch.column(0.0 if index == 0 else _MOMENTUM),
        )
        return {
            **state,
            **updated,
            "best loss": best_loss,
            "previous loss": loss,
            "relative step size": step_size,
            "increases": increases,
            "was halved": halved,
            "best loss at checkpoint": best_loss_then,
        }


def _interval_ending_at(index: int) -> int:
    """Return the length of the interval that ends at step ``index``; 0 if it is no checkpoint."""
    interval, end = float(_FIRST_INTERVAL), _FIRST_INTERVAL
    while end < index:
        interval *= _INTERVAL_GROWTH
        end += int(np.ceil(interval))
    return int(np.ceil(interval)) if end == index else 0
