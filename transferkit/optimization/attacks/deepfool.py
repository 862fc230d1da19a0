"""DeepFool (Moosavi-Dezfooli et al. 2016): straight to the nearest of the other classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks import losses
from transferkit.optimization.attacks.base import MARGIN, Attack, Chunk, State
from transferkit.optimization.attacks.norms import choose, dual_length, steepest

__all__ = ["DeepFool"]

# The paper's overshoot, and how many of the likeliest other classes are looked at.
_OVERSHOOT = 0.02
_CANDIDATES = 10
_TINY = 1e-12
_FAR = 1e30


class DeepFool(Attack):
    """Takes the network for a linear one and goes to the boundary that is nearest then.

    Without a target each step takes ten gradients, one for each of the classes that are
    likeliest for the picture as it was; with one, a single gradient.

    Parameters
    ----------
    norm
        ``"l2"`` or ``"linf"``.
    loss
        ``"logit-difference"``, which its boundaries are where it is 0.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")
    known_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    default_steps: ClassVar[int] = 100

    def loss_function(self, chunk: Chunk) -> losses.Loss:
        """As `Attack.loss_function`."""
        return losses.logit_difference if chunk.is_targeted else losses.linear

    def start(self, chunk: Chunk) -> State:
        """As `Attack.start`."""
        table = chunk.table
        x = table.asarray(chunk.originals)
        nothing = table.asarray(np.zeros_like(chunk.originals))
        state: State = {
            "x": x,
            "original": x,
            "total": nothing,
            "nearest": nothing,
            "distance": chunk.column(_FAR),
        }
        if chunk.is_targeted:
            return state
        others = chunk.logits.copy()
        others[np.arange(len(others)), chunk.labels] = -np.inf
        number = min(_CANDIDATES, chunk.number_of_classes - 1)
        state["candidates"] = np.argsort(-others, axis=1, kind="stable")[:, :number]
        return self._with_turn(chunk, state, 0)

    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:
        """As `Attack.step`."""
        table, norm = chunk.table, self.norm
        # A little beyond the boundary, by as much as counts as a success.
        beyond = 1.1 * MARGIN * np.abs(found["logits"]).max(axis=1)
        gap = chunk.column(np.maximum(-found["loss"], 0) + beyond)

        def look(nearest: Any, distance: Any, gradient: Any, gap: Any) -> dict[str, Any]:
            slope = table.add(dual_length(table, gradient, norm), table.asarray(_TINY))
            here = table.divide(gap, slope)
            nearer = table.relu(table.sign(table.subtract(distance, here)))
            change = table.multiply(steepest(table, gradient, norm), here)
            return {
                "nearest": choose(table, nearer, change, nearest),
                "distance": choose(table, nearer, here, distance),
            }

        def move(original: Any, total: Any, nearest: Any) -> dict[str, Any]:
            total = table.add(total, nearest)
            change = table.multiply(total, table.asarray(1 + _OVERSHOOT))
            x = table.clip(table.add(original, change), low=0.0, high=1.0)
            return {"x": x, "total": total}

        compiled = chunk.compiled(f"DeepFool looks {norm}", look)
        given = (state["nearest"], state["distance"], found["gradient"], gap)
        state = {**state, **compiled(*given)}
        turn, turns = 0, 1
        if not chunk.is_targeted:
            turns = state["candidates"].shape[1]
            turn = (index + 1) % turns
        if turn == 0:
            compiled = chunk.compiled("DeepFool moves", move)
            state = {**state, **compiled(state["original"], state["total"], state["nearest"])}
            state["distance"] = chunk.column(_FAR)
        return state if chunk.is_targeted else self._with_turn(chunk, state, turn)

    @staticmethod
    def _with_turn(chunk: Chunk, state: State, turn: int) -> State:
        """The next gradient is of the difference of one candidate's logit and the label's."""
        rivals = state["candidates"][:, turn]
        return {**state, "label": chunk.one_hot(rivals) - chunk.one_hot(chunk.labels)}
