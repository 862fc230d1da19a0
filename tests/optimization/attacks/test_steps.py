"""The steps of the bounded attacks, against the same written out, in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.optimization.attacks import METHODS
from transferkit.optimization.attacks.base import Attack, Chunk
from transferkit.testing import ReferenceTable

SHAPE = (5, 4, 3)
STEPS = 14
EPSILON = 0.1
ORIGINALS = np.random.default_rng(0).uniform(0.05, 0.95, (3, *SHAPE)).astype(np.float32)
# Black and white too, beyond which nothing can go.
ORIGINALS[:, 0], ORIGINALS[:, 1, :2] = 0, 1
SUMMITS = ORIGINALS + np.random.default_rng(1).uniform(-0.15, 0.15, ORIGINALS.shape)
STEEPNESS = np.random.default_rng(2).uniform(0.5, 2, ORIGINALS.shape)

Doubles = npt.NDArray[np.float64]


# What the loss is said to be at each step, whatever the slope: rising all the way; up and down;
# and rising more often than not, but not above what it was before.
LOSSES = np.array(
    [
        np.arange(STEPS),
        np.random.default_rng(3).normal(size=STEPS),
        [0, 1, 2, 3, 0.5, 1, 2, 2.5, 3, 4, 3, 4, 5, 6],
    ]
)


def slope(x: Doubles, row: int) -> Doubles:
    """Of a hill whose top some values of a picture may reach and others not."""
    return np.asarray(-STEEPNESS[row] * (x - SUMMITS[row]))


def chunk(
    originals: Any = ORIGINALS, *, targeted: bool = False, restart: int = 0, seed: int = 0
) -> Chunk:
    number = len(originals)
    return Chunk(
        originals,
        np.zeros(number, np.intp),
        np.ones(number, np.intp) if targeted else None,
        np.zeros((number, 3), np.float32),
        EPSILON,
        restart,
        seed,
        ReferenceTable(),
        lambda _, function: function,
    )


def follow(attack: Attack, *, targeted: bool = False, losses: Doubles = LOSSES) -> list[Doubles]:
    """Where it looks, one after the other."""
    given = chunk(targeted=targeted)
    state = attack.start(given)
    places = []
    for index in range(STEPS):
        x = np.asarray(state["x"], np.float64)
        places.append(x)
        rows = range(len(x))
        found = {
            "gradient": np.stack([slope(x[row], row) for row in rows]),
            "loss": losses[:, index],
            "logits": given.logits,
            "success": np.zeros(len(x), np.bool_),
        }
        state = attack.step(given, state, found, index)
    return places


def within(x: Doubles, original: Doubles, norm: str) -> Doubles:
    change = x - original
    if norm == "linf":
        change = np.clip(change, -EPSILON, EPSILON)
    else:
        change = change * min(1.0, EPSILON / np.sqrt((change**2).sum()))
    return np.clip(original + change, 0, 1)


def steepest(gradient: Doubles, norm: str, x: Doubles) -> Doubles:
    """Along what can change, and for l-infinity along all, which comes to the same."""
    if norm == "linf":
        return np.asarray(np.sign(gradient))
    gradient = np.where((x <= 0) & (gradient < 0) | (x >= 1) & (gradient > 0), 0, gradient)
    return np.asarray(gradient / np.sqrt((gradient**2).sum()))


def pgd(row: int, norm: str, momentum: float) -> list[Doubles]:
    original = ORIGINALS[row].astype(np.float64)
    x, velocity, places = original, np.zeros(SHAPE), []
    for step in range(STEPS):
        places.append(x)
        gradient = slope(x, row)
        velocity = momentum * velocity + gradient / np.abs(gradient).mean()
        size = EPSILON / (1 + 0.3 * step)
        x = within(x + size * steepest(velocity, norm, x), original, norm)
    return places


def apgd(row: int, norm: str) -> list[Doubles]:
    """Croce and Hein, algorithm 1, with the checkpoints of `transferkit.optimization.attacks`."""
    original = ORIGINALS[row].astype(np.float64)
    lengths = {3: 3, 7: 4, 12: 5}
    x = before = best = original
    highest, last = -np.inf, np.inf
    size, rises, was_halved, highest_then = EPSILON, 0, True, -np.inf
    places = []
    for step in range(STEPS):
        places.append(x)
        here = LOSSES[row, step]
        rises += here > last
        last = here
        if here > highest:
            best, highest = x, here
        if step in lengths:
            too_few = rises < 0.75 * lengths[step]
            stuck = not was_halved and highest <= highest_then
            was_halved, highest_then, rises = too_few or stuck, highest, 0
            if was_halved:
                size, x, before = size / 2, best, best
        ahead = within(x + size * steepest(slope(x, row), norm, x), original, norm)
        if step == 0:
            moved = ahead
        else:
            moved = within(x + 0.75 * (ahead - x) + 0.25 * (x - before), original, norm)
        before, x = x, moved
    return places


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["pgd", "mi-fgsm", "apgd"])
def test_as_written_out(method: str, norm: str) -> None:
    found = follow(METHODS[method](norm, "logit-difference"))
    for row in range(len(ORIGINALS)):
        if method == "apgd":
            expected = apgd(row, norm)
        else:
            expected = pgd(row, norm, 0.75 if method == "mi-fgsm" else 0.0)
        for step in range(STEPS):
            np.testing.assert_allclose(
                found[step][row], expected[step], atol=1e-6, err_msg=f"{step}"
            )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_as_written_out(norm: str) -> None:
    """Each step to where the loss would be 0 if the network were linear, and all 2 % farther."""
    gaps = np.abs(LOSSES) / 100
    found = follow(METHODS["deepfool"](norm, "logit-difference"), targeted=True, losses=-gaps)
    for row, original in enumerate(ORIGINALS.astype(np.float64)):
        x, total = original, np.zeros(SHAPE)
        for step in range(STEPS):
            np.testing.assert_allclose(found[step][row], x, atol=1e-6)
            gradient = slope(x, row)
            dual = np.abs(gradient).sum() if norm == "linf" else np.sqrt((gradient**2).sum())
            # It does not look at what can change.
            inside = np.full_like(x, 0.5)
            total = total + gaps[row, step] / dual * steepest(gradient, norm, inside)
            x = np.clip(original + 1.02 * total, 0, 1)


def carlini_wagner_steps(successes: list[bool]) -> list[dict[str, Any]]:
    """Its states, where the loss is -0.3, the slope always the same, and some steps succeed."""
    attack, given = METHODS["carlini-wagner"]("l2", "logit-difference"), chunk()
    state = attack.start(given)
    states = [state]
    for index, success in enumerate(successes):
        found = {
            "gradient": SUMMITS,
            "loss": np.full(len(ORIGINALS), -0.3),
            "logits": given.logits,
            "success": np.full(len(ORIGINALS), success),
        }
        state = attack.step(given, state, found, index)
        states.append(state)
    return states


def test_carlini_wagner_as_written_out() -> None:
    """One round: Adam on ``|x - original|^2 - c loss`` over w, where ``x = (tanh(w) + 1) / 2``."""
    successes = [step in (5, 6, 9) for step in range(STEPS)]
    states = carlini_wagner_steps(successes)
    for row, original in enumerate(ORIGINALS.astype(np.float64)):
        steepness = np.sqrt((SUMMITS[row] ** 2).sum())
        constant = 2 * 0.3 / steepness**2
        rate = 2 * 0.3 / steepness / np.sqrt(original.size)
        w, x = np.arctanh((2 * original - 1) * (1 - 1e-6)), original
        mean, square = np.zeros(SHAPE), np.zeros(SHAPE)
        for step, success in enumerate(successes):
            np.testing.assert_allclose(states[step]["x"][row], x, atol=1e-6)
            along = 2 * (x - original) - (0 if success else constant) * SUMMITS[row]
            along = along * 2 * x * (1 - x)
            mean, square = 0.9 * mean + 0.1 * along, 0.999 * square + 0.001 * along**2
            root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            w = w - rate * (1 - step / 40) * mean / (1 - 0.9 ** (step + 1)) / root
            x = (np.tanh(w) + 1) / 2


def test_carlini_wagner_looks_for_the_constant() -> None:
    """Five times as large while it is too small, then half way; each round from the start."""
    rounds = [False, False, True, True, False, True]
    successes = [worked and step == 17 for worked in rounds for step in range(40)]
    states = carlini_wagner_steps(successes)
    found = np.array([state["constant"] for state in states[40::40]])
    np.testing.assert_allclose(found[:, 0] / states[1]["constant"][0], [5, 25, 15, 10, 12.5, 11.25])
    for state in states[40::40]:
        np.testing.assert_array_equal(state["x"], ORIGINALS)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_random_starts(method: str, norm: str) -> None:
    attack = METHODS[method](norm, "logit-difference")
    many = np.random.default_rng(3).uniform(0.3, 0.7, (300, *SHAPE)).astype(np.float32)

    def changes(**settings: int) -> Doubles:
        start = np.asarray(attack.start(chunk(many, **settings))["x"], np.float64)
        return start - many

    np.testing.assert_array_equal(changes(), 0)
    found = changes(restart=1)
    np.testing.assert_array_equal(found, changes(restart=1))
    for other in (changes(restart=2), changes(restart=1, seed=1)):
        assert (np.abs(found - other).max(axis=(1, 2, 3)) > 0).all()
    sizes = np.abs(found) if norm == "linf" else (np.abs(found) ** int(norm[1])).sum(axis=(1, 2, 3))
    lengths = sizes.ravel() ** (0.5 if norm == "l2" else 1)
    # Evenly from 0 to epsilon, and to both sides.
    np.testing.assert_allclose(
        np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]), EPSILON * np.arange(5) / 4, atol=0.012
    )
    assert abs(np.sign(found).mean()) < 0.02
