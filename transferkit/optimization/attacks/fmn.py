"""The fast minimum-norm attack (Pintor et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import MARGIN, Attack, Chunk, State
from transferkit.optimization.attacks.norms import length, movable, project, steepest

__all__ = ["FMN"]

_TINY = 1e-12
# How far a step goes, in radii of the ball (for l0 in pixels' range), and by what share the
# ball shrinks or grows after it, both at first.
_STEP_SIZE = 0.5
_SHARE = 0.05
# After how many steps both are half as large.
_HALF_TIME = 10


class FMN(Attack):
    """Steps in a ball that shrinks while it holds an example and grows while it does not.

    Until the first success the ball's radius is what would do if the network were linear. From
    then on the steps and the changes of the radius become finer, as ``1 / (1 + t / 10)``: unlike
    the paper's cosines that does not depend on how many steps there will be.

    Parameters
    ----------
    norm
        Any.
    loss
        ``"logit-difference"``.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    known_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = False
    default_steps: ClassVar[int] = 100

    def start(self, chunk: Chunk) -> State:
        """As `Attack.start`."""
        x = chunk.table.asarray(chunk.originals)
        number = len(chunk.originals)
        return {
            "x": x,
            "original": x,
            "radius": np.full(number, 1.0 if self.norm == "l0" else np.inf),
            "shortest": np.full(number, np.inf),
            "age": np.zeros(number, np.intp),
        }

    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:  # noqa: ARG002
        """As `Attack.step`."""
        table, norm = chunk.table, self.norm
        direction_norm = "l2" if norm == "l0" else norm
        age = state["age"] + (found["success"] | (state["age"] > 0))
        fineness = 1 / (1 + age / _HALF_TIME)

        def measure(x: Any, original: Any, gradient: Any) -> dict[str, Any]:
            gradient = movable(table, gradient, x)
            along = table.multiply(gradient, steepest(table, gradient, direction_norm))
            return {
                "length": length(table, table.subtract(x, original), norm),
                "slope": table.sum(along, axes=(1, 2, 3), keepdims=True),
            }

        compiled = chunk.compiled(f"FMN measures {norm}", measure)
        measured = compiled(state["x"], state["original"], found["gradient"])
        here, slope = (table.to_numpy(measured[name]).ravel() for name in ("length", "slope"))
        success, shortest = found["success"], state["shortest"]
        shortest = np.where(success, np.minimum(shortest, here), shortest)
        # A little beyond the boundary, by as much as counts as a success.
        gap = 1.1 * MARGIN * np.abs(found["logits"]).max(axis=1) - found["loss"]
        radius = self._radius(
            state["radius"], shortest, success, here, gap / (slope + _TINY), _SHARE * fineness
        )

        def update(x: Any, original: Any, radius: Any, size: Any, gradient: Any) -> Any:
            direction = steepest(table, movable(table, gradient, x), direction_norm)
            change = table.add(table.subtract(x, original), table.multiply(direction, size))
            change = project(table, change, radius, norm)
            return table.clip(table.add(original, change), low=0.0, high=1.0)

        compiled = chunk.compiled(f"FMN {norm}", update)
        size = _STEP_SIZE * fineness * (20 if norm == "l0" else radius)
        x = compiled(
            state["x"],
            state["original"],
            chunk.column(radius),
            chunk.column(size),
            found["gradient"],
        )
        return {**state, "x": x, "radius": radius, "shortest": shortest, "age": age}

    def _radius(
        self, radius: Any, shortest: Any, success: Any, here: Any, to_boundary: Any, share: Any
    ) -> Any:
        """What the ball's radius is to be now, (n,)."""
        smaller = np.minimum(radius, shortest) * (1 - share)
        larger = np.minimum(radius * (1 + share), shortest)
        if self.norm == "l0":
            # Whole values; there is no telling how many would do.
            smaller = np.maximum(np.minimum(np.floor(smaller), np.minimum(radius, shortest) - 1), 1)
            larger = np.where(
                np.isfinite(shortest),
                np.minimum(np.maximum(np.ceil(larger), radius + 1), shortest),
                radius * 2,
            )
            return np.where(success, smaller, larger)
        # Where a network is far from linear that alone can go round in circles.
        first = np.maximum(here + to_boundary, np.where(np.isfinite(radius), larger, 0))
        larger = np.where(np.isfinite(shortest), larger, first)
        return np.where(success, smaller, larger)
