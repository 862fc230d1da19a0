"""DeepFool (Moosavi-Dezfooli et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import Attack, AttackBatch, State, boundary_offset
from transferkit.optimization.attacks.losses import Loss, logit_difference, weighted_sum
from transferkit.optimization.attacks.norms import dual_norms, steepest_ascent, where

__all__ = ["DeepFool"]

# The paper's overshoot, and the number of classes whose boundaries are considered.
_OVERSHOOT = 0.02
_NUM_CANDIDATES = 10
_TINY = 1e-12
# Farther than any decision boundary.
_FAR = 1e30


class DeepFool(Attack):
    """Steps to the nearest decision boundary of the linearized network.

    An untargeted step takes ten gradients, one for each of the classes with the largest logits
    of the original; a targeted step takes one.

    Parameters
    ----------
    norm
        ``"l2"`` or ``"linf"``.
    loss
        ``"logit-difference"``, which is 0 at the decision boundary.
    """

    name: ClassVar[str] = "deepfool"
    supported_norms: ClassVar[tuple[str, ...]] = ("l2", "linf")
    supported_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    default_steps: ClassVar[int] = 100

    def loss_function(self, batch: AttackBatch) -> Loss:
        """Return the difference to the target's logit, or to that of the current candidate."""
        return logit_difference if batch.is_targeted else weighted_sum

    def start(self, batch: AttackBatch) -> State:
        """Return the original and the candidate classes; see `Attack.start`."""
        table = batch.table
        x = table.asarray(batch.originals)
        zeros = table.asarray(np.zeros_like(batch.originals))
        state: State = {
            "x": x,
            "original": x,
            "total step": zeros,
            "nearest step": zeros,
            "nearest distance": batch.column(_FAR),
        }
        if batch.is_targeted:
            return state
        others = batch.logits.copy()
        others[np.arange(len(others)), batch.labels] = -np.inf
        count = min(_NUM_CANDIDATES, batch.num_classes - 1)
        state["candidates"] = np.argsort(-others, axis=1, kind="stable")[:, :count]
        return self._with_candidate(batch, state, 0)

    def step(
        self, batch: AttackBatch, state: State, evaluation: Mapping[str, Any], index: int
    ) -> State:
        """Compare the candidate with the nearest one; move after the last; see `Attack.step`."""
        table, norm = batch.table, self.norm
        gap = np.maximum(-evaluation["loss"], 0) + boundary_offset(evaluation["logits"])

        def compare(
            nearest_step: Any, nearest_distance: Any, gradient: Any, gap: Any
        ) -> dict[str, Any]:
            slope = table.add(dual_norms(table, gradient, norm), table.asarray(_TINY))
            distance = table.divide(gap, slope)
            is_nearer = table.relu(table.sign(table.subtract(nearest_distance, distance)))
            step = table.multiply(steepest_ascent(table, gradient, norm), distance)
            return {
                "nearest step": where(table, is_nearer, step, nearest_step),
                "nearest distance": where(table, is_nearer, distance, nearest_distance),
            }

        def move(original: Any, total_step: Any, nearest_step: Any) -> dict[str, Any]:
            total_step = table.add(total_step, nearest_step)
            perturbation = table.multiply(total_step, table.asarray(1 + _OVERSHOOT))
            x = table.clip(table.add(original, perturbation), low=0.0, high=1.0)
            return {"x": x, "total step": total_step}

        updated = batch.compile_once("compare", compare)(
            state["nearest step"],
            state["nearest distance"],
            evaluation["gradient"],
            batch.column(gap),
        )
        state = {**state, **updated}
        candidate, count = 0, 1
        if not batch.is_targeted:
            count = state["candidates"].shape[1]
            candidate = (index + 1) % count
        if candidate == 0:
            moved = batch.compile_once("move", move)(
                state["original"], state["total step"], state["nearest step"]
            )
            state = {**state, **moved, "nearest distance": batch.column(_FAR)}
        return state if batch.is_targeted else self._with_candidate(batch, state, candidate)

    @staticmethod
    def _with_candidate(batch: AttackBatch, state: State, candidate: int) -> State:
        """Return the state for the gradient of a candidate's logit minus the label's."""
        classes = state["candidates"][:, candidate]
        return {**state, "label": batch.one_hot(classes) - batch.one_hot(batch.labels)}
