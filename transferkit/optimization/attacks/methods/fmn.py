"""The fast minimum-norm attack (Pintor et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from transferkit.optimization.attacks.base import Attack, AttackBatch, State, boundary_offset
from transferkit.optimization.attacks.norms import (
    mask_saturated,
    project,
    steepest_ascent,
    tensor_norms,
)

__all__ = ["FMN"]

_TINY = 1e-12
# The initial step size as a fraction of the radius, for l0 of a fixed l2 norm, and the initial
# fraction by which the radius changes in a step.
_STEP_SIZE = 0.5
_L0_STEP_NORM = 20
_RADIUS_CHANGE = 0.05
# The number of steps after the first success in which both decrease to half.
_HALF_LIFE = 10


class FMN(Attack):
    """Steps in a ball that shrinks after a success and grows otherwise.

    Until the first success, the radius of the ball is the distance of the decision boundary of
    the linearized network. After it, the step size and the changes of the radius decrease as
    ``1 / (1 + t / 10)``. Unlike the paper's cosine schedules, this does not depend on the number
    of steps.

    Parameters
    ----------
    norm
        Any of `transferkit.optimization.attacks.norms.NORMS`.
    loss
        ``"logit-difference"``.
    """

    name: ClassVar[str] = "fmn"
    supported_norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    supported_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = False
    default_steps: ClassVar[int] = 100

    def start(self, batch: AttackBatch) -> State:
        """Return the original and the initial radius; see `Attack.start`."""
        x = batch.table.asarray(batch.originals)
        count = len(batch.originals)
        return {
            "x": x,
            "original": x,
            "radius": np.full(count, 1.0 if self.norm == "l0" else np.inf),
            "smallest": np.full(count, np.inf),
            "steps since success": np.zeros(count, np.intp),
        }

    def step(
        self,
        batch: AttackBatch,
        state: State,
        evaluation: Mapping[str, Any],
        index: int,  # noqa: ARG002
    ) -> State:
        """Change the radius and take a step; see `Attack.step`."""
        table, norm = batch.table, self.norm
        direction_norm = "l2" if norm == "l0" else norm
        success = evaluation["success"]
        age = state["steps since success"] + (success | (state["steps since success"] > 0))
        decay = 1 / (1 + age / _HALF_LIFE)

        def measure(x: Any, original: Any, gradient: Any) -> dict[str, Any]:
            gradient = mask_saturated(table, gradient, x)
            increase = table.multiply(gradient, steepest_ascent(table, gradient, direction_norm))
            return {
                "distance": tensor_norms(table, table.subtract(x, original), norm),
                "slope": table.sum(increase, axes=(1, 2, 3), keepdims=True),
            }

        measured = batch.compile_once("measure", measure)(
            state["x"], state["original"], evaluation["gradient"]
        )
        distance, slope = (table.to_numpy(measured[name]).ravel() for name in ("distance", "slope"))
        smallest = state["smallest"]
        smallest = np.where(success, np.minimum(smallest, distance), smallest)
        gap = boundary_offset(evaluation["logits"]) - evaluation["loss"]
        boundary_distance = distance + gap / (slope + _TINY)
        radius = self._next_radius(
            state["radius"], smallest, success, boundary_distance, _RADIUS_CHANGE * decay
        )

        def update(x: Any, original: Any, radius: Any, step_size: Any, gradient: Any) -> Any:
            gradient = mask_saturated(table, gradient, x)
            step = table.multiply(steepest_ascent(table, gradient, direction_norm), step_size)
            perturbation = table.add(table.subtract(x, original), step)
            perturbation = project(table, perturbation, radius, norm)
            return table.clip(table.add(original, perturbation), low=0.0, high=1.0)

        step_size = _STEP_SIZE * decay * (_L0_STEP_NORM if norm == "l0" else radius)
        x = batch.compile_once("step", update)(
            state["x"],
            state["original"],
            batch.column(radius),
            batch.column(step_size),
            evaluation["gradient"],
        )
        return {
            **state,
            "x": x,
            "radius": radius,
            "smallest": smallest,
            "steps since success": age,
        }

    def _next_radius(
        self,
        radius: npt.NDArray[Any],
        smallest: npt.NDArray[Any],
        success: npt.NDArray[np.bool_],
        boundary_distance: npt.NDArray[Any],
        change: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Return the radius of the ball for the next step, (n,)."""
        shrunk = np.minimum(radius, smallest) * (1 - change)
        grown = np.minimum(radius * (1 + change), smallest)
        if self.norm == "l0":
            # Whole numbers. The distance of the boundary is unknown, so the radius is doubled
            # until the first success.
            shrunk = np.minimum(np.floor(shrunk), np.minimum(radius, smallest) - 1)
            grown = np.where(
                np.isfinite(smallest),
                np.minimum(np.maximum(np.ceil(grown), radius + 1), smallest),
                radius * 2,
            )
            return np.asarray(np.where(success, np.maximum(shrunk, 1), grown))
        # The radius grows at least as usual: in a network that is far from linear, the distance
        # of the boundary alone can lead to a cycle.
        first = np.maximum(boundary_distance, np.where(np.isfinite(radius), grown, 0))
        grown = np.where(np.isfinite(smallest), grown, first)
        return np.asarray(np.where(success, shrunk, grown))
