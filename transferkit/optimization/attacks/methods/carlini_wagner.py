"""The l2 attack of Carlini and Wagner (2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import Attack, AttackBatch, State, boundary_offset
from transferkit.optimization.attacks.norms import tensor_norms
from transferkit.training.optimizers import Adam

__all__ = ["CarliniWagner"]

# The number of steps with one constant c, and the factor of a constant that is too small.
_ROUND_STEPS = 40
_CONSTANT_FACTOR = 5.0
# The learning rate is relative: 1 is the change of each value that a linear network would need if
# all values changed equally. It decreases to 0 during a round.
_OPTIMIZER = Adam(learning_rate=2.0, schedule="linear")
# Keeps the start away from 0 and 1, where the derivative of tanh vanishes.
_MAX_TANH = 1 - 1e-6
_TINY = 1e-12


class CarliniWagner(Attack):
    """Minimizes ``|x - original|^2 + c max(-logit difference, 0)`` with Adam.

    The image is ``(tanh(w) + 1) / 2``, so that it is always in [0, 1]. Each round of 40 steps
    starts again from the original, with a constant c per image: five times the last one while it
    was too small, then the mean of the largest that was too small and the smallest that was not.

    Parameters
    ----------
    norm
        ``"l2"``.
    loss
        ``"logit-difference"``.
    """

    name: ClassVar[str] = "carlini-wagner"
    supported_norms: ClassVar[tuple[str, ...]] = ("l2",)
    supported_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = False
    default_steps: ClassVar[int] = 9 * _ROUND_STEPS

    def start(self, batch: AttackBatch) -> State:
        """Return the state of the first round; see `Attack.start`."""
        count = len(batch.originals)
        state: State = {
            "constant": np.zeros(count),
            "step scale": np.zeros(count),
            "too small": np.zeros(count),
            "large enough": np.full(count, np.inf),
            "succeeded": np.zeros(count, np.bool_),
        }
        return self._start_round(batch, state)

    def step(
        self, batch: AttackBatch, state: State, evaluation: Mapping[str, Any], index: int
    ) -> State:
        """Take a step of Adam, or start the next round; see `Attack.step`."""
        table = batch.table
        state = {**state, "succeeded": state["succeeded"] | evaluation["success"]}
        if index == 0:
            state |= self._initial_scale(batch, evaluation)
        round_step = index % _ROUND_STEPS
        if round_step == _ROUND_STEPS - 1:
            return self._start_round(batch, state | self._next_constant(state))

        def update(
            w: Any,
            x: Any,
            original: Any,
            mean: Any,
            square: Any,
            gradient: Any,
            constant: Any,
            step_scale: Any,
            coefficients: Any,
        ) -> dict[str, Any]:
            distance_gradient = table.multiply(table.subtract(x, original), table.asarray(2.0))
            x_gradient = table.subtract(distance_gradient, table.multiply(gradient, constant))
            # The derivative of (tanh(w) + 1) / 2.
            one = table.asarray(1.0)
            derivative = table.multiply(
                table.multiply(x, table.subtract(one, x)), table.asarray(2.0)
            )
            direction, (mean, square) = _OPTIMIZER.direction(
                table, table.multiply(x_gradient, derivative), (mean, square), coefficients
            )
            w = table.subtract(w, table.multiply(direction, step_scale))
            x = table.multiply(table.add(table.tanh(w), one), table.asarray(0.5))
            return {"w": w, "x": x, "mean": mean, "square": square}

        # Each image has its own learning rate.
        learning_rate = _OPTIMIZER.learning_rate_at(round_step, _ROUND_STEPS)
        updated = batch.compile_once("step", update)(
            *(state[name] for name in ("w", "x", "original", "mean", "square")),
            evaluation["gradient"],
            batch.column(np.where(evaluation["success"], 0, state["constant"])),
            batch.column(state["step scale"] * learning_rate),
            table.asarray(_OPTIMIZER.coefficients(round_step, _ROUND_STEPS)),
        )
        return {**state, **updated}

    @staticmethod
    def _initial_scale(batch: AttackBatch, evaluation: Mapping[str, Any]) -> State:
        """Return the first constant and the scale of the steps, which suit a linear network."""
        table = batch.table
        gradient_norms = batch.compile_once(
            "gradient norm", lambda gradient: tensor_norms(table, gradient, "l2")
        )
        slope = table.to_numpy(gradient_norms(evaluation["gradient"])).ravel()
        slope = slope.astype(np.float64) + _TINY
        gap = np.maximum(-evaluation["loss"], 0) + boundary_offset(evaluation["logits"])
        # At the smallest perturbation, of norm gap / slope, 2 |perturbation| = c slope.
        num_values = batch.originals[0].size
        return {
            "constant": 2 * gap / slope**2,
            "step scale": gap / slope / np.sqrt(num_values),
        }

    @staticmethod
    def _next_constant(state: State) -> State:
        """Return the constant of the next round and its bounds, by bisection."""
        succeeded, constant = state["succeeded"], state["constant"]
        large_enough = np.where(succeeded, constant, state["large enough"])
        too_small = np.where(succeeded, state["too small"], constant)
        has_bound = np.isfinite(large_enough)
        middle = (too_small + np.where(has_bound, large_enough, 0)) / 2
        return {
            "constant": np.where(has_bound, middle, constant * _CONSTANT_FACTOR),
            "large enough": large_enough,
            "too small": too_small,
            "succeeded": np.zeros_like(succeeded),
        }

    @staticmethod
    def _start_round(batch: AttackBatch, state: State) -> State:
        """Return the state at the original, with new averages for Adam."""
        table = batch.table
        zeros = table.asarray(np.zeros_like(batch.originals))
        w = np.arctanh((2 * batch.originals.astype(np.float64) - 1) * _MAX_TANH)
        x = table.asarray(batch.originals)
        return {
            **state,
            "w": table.asarray(w),
            "x": x,
            "original": x,
            "mean": zeros,
            "square": zeros,
        }
