"""Auto-PGD (Croce and Hein 2020): PGD that chooses its own step size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import Attack, Chunk, State
from transferkit.optimization.attacks.norms import project
from transferkit.optimization.attacks.pgd import random_start, take_step

__all__ = ["APGD"]

# The paper's: how much of a step is its own and not the last one's, and at least what share
# of the steps between two checkpoints must have made the loss larger.
_OWN_SHARE = 0.75
_ENOUGH = 0.75
# Steps between two checkpoints: as few as tell a trend at first, and slowly more.
_FIRST_INTERVAL = 3
_GROWTH = 1.25


class APGD(Attack):
    """Steps with momentum, halved where they no longer help, then from the best place so far.

    The paper puts its checkpoints at shares of the number of steps; here they come after 3, 7,
    12, ... steps, whatever their number, so that more steps never do worse. The first step is
    epsilon long, not twice that.

    Parameters
    ----------
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`; ``"dlr"`` is the paper's.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    is_bounded: ClassVar[bool] = True
    can_restart: ClassVar[bool] = True
    default_steps: ClassVar[int] = 100

    def start(self, chunk: Chunk) -> State:
        """As `Attack.start`."""
        table = chunk.table
        start = random_start(chunk, self.norm) if chunk.restart else chunk.originals
        number = len(start)
        x = table.asarray(start)
        return {
            "x": x,
            "before": x,
            "original": table.asarray(chunk.originals),
            "epsilon": chunk.column(chunk.epsilon or 0.0),
            "best": x,
            "best gradient": table.asarray(np.zeros_like(start)),
            "best loss": np.full(number, -np.inf),
            "last loss": np.full(number, np.inf),
            "step size": np.full(number, 1.0),
            "improved": np.zeros(number, np.intp),
            "was halved": np.ones(number, np.bool_),
            "best loss then": np.full(number, -np.inf),
        }

    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:
        """As `Attack.step`."""
        table = chunk.table
        loss = found["loss"]
        better = loss > state["best loss"]
        best_loss = np.where(better, loss, state["best loss"])
        improved = state["improved"] + (loss > state["last loss"])
        size, halved, then = state["step size"], state["was halved"], state["best loss then"]
        back = np.zeros(len(loss), np.bool_)
        interval = _interval_ending_at(index)
        if interval:
            too_few = improved < _ENOUGH * interval
            stuck = ~halved & (best_loss <= then)
            back = too_few | stuck
            size = np.where(back, size / 2, size)
            halved, then, improved = back, best_loss, np.zeros_like(improved)
        norm = self.norm

        def update(
            x: Any,
            before: Any,
            original: Any,
            epsilon: Any,
            size: Any,
            gradient: Any,
            best: Any,
            best_gradient: Any,
            better: Any,
            back: Any,
            own_share: Any,
        ) -> dict[str, Any]:
            def mix(share: Any, first: Any, second: Any) -> Any:
                other = table.subtract(table.asarray(1.0), share)
                return table.add(table.multiply(share, first), table.multiply(other, second))

            best, best_gradient = mix(better, x, best), mix(better, gradient, best_gradient)
            x, gradient = mix(back, best, x), mix(back, best_gradient, gradient)
            before = mix(back, x, before)
            ahead = take_step(table, x, original, epsilon, size, gradient, norm)
            momentum = table.subtract(x, before)
            change = table.add(
                table.subtract(x, original),
                mix(own_share, table.subtract(ahead, x), momentum),
            )
            change = project(table, change, epsilon, norm)
            moved = table.clip(table.add(original, change), low=0.0, high=1.0)
            return {"x": moved, "before": x, "best": best, "best gradient": best_gradient}

        compiled = chunk.compiled(f"APGD {norm}", update)
        new = compiled(
            state["x"],
            state["before"],
            state["original"],
            state["epsilon"],
            chunk.column(size * (chunk.epsilon or 0.0)),
            found["gradient"],
            state["best"],
            state["best gradient"],
            chunk.column(better),
            chunk.column(back),
            chunk.column(1.0 if index == 0 else _OWN_SHARE),
        )
        return {
            **state,
            **new,
            "best loss": best_loss,
            "last loss": loss,
            "step size": size,
            "improved": improved,
            "was halved": halved,
            "best loss then": then,
        }


def _interval_ending_at(index: int) -> int:
    """How many steps the interval had that ends at step ``index``; 0 if none does."""
    interval, end = float(_FIRST_INTERVAL), _FIRST_INTERVAL
    while end < index:
        interval *= _GROWTH
        end += int(np.ceil(interval))
    return int(np.ceil(interval)) if end == index else 0
