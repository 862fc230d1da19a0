"""The l2 attack of Carlini and Wagner (2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from transferkit.optimization.attacks.base import MARGIN, Attack, Chunk, State
from transferkit.optimization.attacks.norms import length

__all__ = ["CarliniWagner"]

# How long each search with one constant is, and what a constant that is too small is multiplied by.
_ROUND = 40
_FACTOR = 5.0
# Of Adam. The step size, as a part of what each value would have to change by if the network
# were linear and all changed alike, fades during a round.
_STEP_SIZE = 2.0
_DECAY, _SQUARE_DECAY, _EPSILON = 0.9, 0.999, 1e-8
# How near to black and white a picture may begin, where tanh has hardly a slope left.
_INSIDE = 1 - 1e-6
_TINY = 1e-12


class CarliniWagner(Attack):
    """Makes ``|x - original|^2 + c max(-difference of logits, 0)`` small, with Adam.

    The picture is ``(tanh(w) + 1) / 2``, so it is always one. Each round of 40 steps begins
    anew with a constant c of each picture's own: five times the last while that was too
    small, then halfway between one that was too small and one that was not.

    Parameters
    ----------
    norm
        ``"l2"``.
    loss
        ``"logit-difference"``.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    known_losses: ClassVar[tuple[str, ...]] = ("logit-difference",)
    is_bounded: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = False
    default_steps: ClassVar[int] = 9 * _ROUND

    def start(self, chunk: Chunk) -> State:
        """As `Attack.start`."""
        number = len(chunk.originals)
        state: State = {
            "constant": np.zeros(number),
            "size": np.zeros(number),
            "too small": np.zeros(number),
            "enough": np.full(number, np.inf),
            "worked": np.zeros(number, np.bool_),
        }
        return self._begin_round(chunk, state)

    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:
        """As `Attack.step`."""
        table = chunk.table
        state = {**state, "worked": state["worked"] | found["success"]}
        if index == 0:
            state |= self._scale(chunk, found)
        turn = index % _ROUND
        if turn == _ROUND - 1:
            worked, constant = state["worked"], state["constant"]
            enough = np.where(worked, constant, state["enough"])
            too_small = np.where(worked, state["too small"], constant)
            # Not the mean of a bound with one that is not known yet.
            middle = np.where(np.isfinite(enough), (too_small + np.minimum(enough, 1e30)) / 2, 0)
            constant = np.where(np.isfinite(enough), middle, constant * _FACTOR)
            state |= {
                "constant": constant,
                "enough": enough,
                "too small": too_small,
                "worked": np.zeros_like(worked),
            }
            return self._begin_round(chunk, state)

        def update(
            w: Any,
            x: Any,
            original: Any,
            mean: Any,
            square: Any,
            gradient: Any,
            weight: Any,
            size: Any,
            correction: Any,
        ) -> dict[str, Any]:
            def mix(share: float, x: Any, y: Any) -> Any:
                return table.add(
                    table.multiply(x, table.asarray(share)),
                    table.multiply(y, table.asarray(1 - share)),
                )

            change = table.multiply(table.subtract(x, original), table.asarray(2.0))
            slope = table.subtract(change, table.multiply(gradient, weight))
            # The derivative of (tanh(w) + 1) / 2.
            one = table.asarray(1.0)
            inner = table.multiply(table.multiply(x, table.subtract(one, x)), table.asarray(2.0))
            slope = table.multiply(slope, inner)
            mean = mix(_DECAY, mean, slope)
            square = mix(_SQUARE_DECAY, square, table.multiply(slope, slope))
            deviation = table.sqrt(table.multiply(square, correction))
            step = table.divide(mean, table.add(deviation, table.asarray(_EPSILON)))
            w = table.subtract(w, table.multiply(step, size))
            x = table.multiply(table.add(table.tanh(w), one), table.asarray(0.5))
            return {"w": w, "x": x, "mean": mean, "square": square}

        compiled = chunk.compiled("CarliniWagner", update)
        size = state["size"] * (1 - turn / _ROUND) / (1 - _DECAY ** (turn + 1))
        new = compiled(
            *(state[name] for name in ("w", "x", "original", "mean", "square")),
            found["gradient"],
            chunk.column(np.where(found["success"], 0, state["constant"])),
            chunk.column(size),
            chunk.column(1 / (1 - _SQUARE_DECAY ** (turn + 1))),
        )
        return {**state, **new}

    @staticmethod
    def _scale(chunk: Chunk, found: Mapping[str, Any]) -> State:
        """The first constant and the steps' size: what suits a linear network."""
        table = chunk.table
        compiled = chunk.compiled(
            "CarliniWagner slope", lambda gradient: length(table, gradient, "l2")
        )
        slope = table.to_numpy(compiled(found["gradient"])).ravel().astype(np.float64) + _TINY
        gap = np.maximum(-found["loss"], 0) + 1.1 * MARGIN * np.abs(found["logits"]).max(axis=1)
        # There 2 |change| = c slope where the change is the shortest, gap / slope.
        number = np.sqrt(chunk.originals[0].size)
        return {"constant": 2 * gap / slope**2, "size": _STEP_SIZE * gap / slope / number}

    @staticmethod
    def _begin_round(chunk: Chunk, state: State) -> State:
        table = chunk.table
        nothing = table.asarray(np.zeros_like(chunk.originals))
        w = np.arctanh((2 * chunk.originals.astype(np.float64) - 1) * _INSIDE)
        x = table.asarray(chunk.originals)
        return {
            **state,
            "w": table.asarray(w),
            "x": x,
            "original": x,
            "mean": nothing,
            "square": nothing,
        }
