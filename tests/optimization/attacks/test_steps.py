"""The steps of attacks, against the papers' algorithms in NumPy and double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.optimization.attacks import Attack, AttackBatch, find_attack_class
from transferkit.testing import ReferenceTable

SHAPE = (5, 4, 3)
STEPS = 14
EPSILON = 0.1
ORIGINALS = np.random.default_rng(0).uniform(0.05, 0.95, (3, *SHAPE)).astype(np.float32)
# Some values are at the ends of the pixel range.
ORIGINALS[:, 0], ORIGINALS[:, 1, :2] = 0, 1
MAXIMA = ORIGINALS + np.random.default_rng(1).uniform(-0.15, 0.15, ORIGINALS.shape)
CURVATURES = np.random.default_rng(2).uniform(0.5, 2, ORIGINALS.shape)

Doubles = npt.NDArray[np.float64]

# The loss reported at each step, whatever the gradient: always increasing; random; and mostly
# increasing, but not above an earlier value.
LOSSES = np.array(
    [
        np.arange(STEPS),
        np.random.default_rng(3).normal(size=STEPS),
        [0, 1, 2, 3, 0.5, 1, 2, 2.5, 3, 4, 3, 4, 5, 6],
    ]
)


def gradient_at(x: Doubles, row: int) -> Doubles:
    """Return the gradient of a concave function whose maximum is partly out of reach."""
    return np.asarray(-CURVATURES[row] * (x - MAXIMA[row]))


def attack_batch(
    originals: Any = ORIGINALS, *, targeted: bool = False, restart: int = 0, seed: int = 0
) -> AttackBatch:
    count = len(originals)
    return AttackBatch(
        originals,
        np.zeros(count, np.intp),
        np.ones(count, np.intp) if targeted else None,
        np.zeros((count, 3), np.float32),
        EPSILON,
        restart,
        seed,
        ReferenceTable(),
        lambda _, function: function,
    )


def points_of(attack: Attack, *, targeted: bool = False, losses: Doubles = LOSSES) -> list[Doubles]:
    """Return the points at which an attack computes gradients."""
    batch = attack_batch(targeted=targeted)
    state = attack.start(batch)
    points = []
    for index in range(STEPS):
        x = np.asarray(state["x"], np.float64)
        points.append(x)
        evaluation = {
            "gradient": np.stack([gradient_at(x[row], row) for row in range(len(x))]),
            "loss": losses[:, index],
            "logits": batch.logits,
            "success": np.zeros(len(x), np.bool_),
        }
        state = attack.step(batch, state, evaluation, index)
    return points


def project(x: Doubles, original: Doubles, norm: str) -> Doubles:
    perturbation = x - original
    if norm == "linf":
        perturbation = np.clip(perturbation, -EPSILON, EPSILON)
    else:
        perturbation = perturbation * min(1.0, EPSILON / np.sqrt((perturbation**2).sum()))
    return np.clip(original + perturbation, 0, 1)


def steepest_ascent(gradient: Doubles, norm: str, x: Doubles) -> Doubles:
    """Return the direction for the values that can change; for l-infinity for all values.

    For l-infinity that makes no difference.
    """
    if norm == "linf":
        return np.asarray(np.sign(gradient))
    gradient = np.where((x <= 0) & (gradient < 0) | (x >= 1) & (gradient > 0), 0, gradient)
    return np.asarray(gradient / np.sqrt((gradient**2).sum()))


def pgd(row: int, norm: str, momentum: float) -> list[Doubles]:
    original = ORIGINALS[row].astype(np.float64)
    x, velocity, points = original, np.zeros(SHAPE), []
    for step in range(STEPS):
        points.append(x)
        gradient = gradient_at(x, row)
        velocity = momentum * velocity + gradient / np.abs(gradient).mean()
        step_size = EPSILON / (1 + 0.3 * step)
        x = project(x + step_size * steepest_ascent(velocity, norm, x), original, norm)
    return points


def apgd(row: int, norm: str) -> list[Doubles]:
    """Croce and Hein, algorithm 1, with the checkpoints of `transferkit`."""
    original = ORIGINALS[row].astype(np.float64)
    intervals = {3: 3, 7: 4, 12: 5}
    x = previous_x = best_x = original
    best_loss, previous_loss = -np.inf, np.inf
    step_size, increases, was_halved, best_loss_then = EPSILON, 0, True, -np.inf
    points = []
    for step in range(STEPS):
        points.append(x)
        loss = LOSSES[row, step]
        increases += loss > previous_loss
        previous_loss = loss
        if loss > best_loss:
            best_x, best_loss = x, loss
        if step in intervals:
            too_few = increases < 0.75 * intervals[step]
            stuck = not was_halved and best_loss <= best_loss_then
            was_halved, best_loss_then, increases = too_few or stuck, best_loss, 0
            if was_halved:
                step_size, x, previous_x = step_size / 2, best_x, best_x
        ahead = project(
            x + step_size * steepest_ascent(gradient_at(x, row), norm, x), original, norm
        )
        if step == 0:
            moved = ahead
        else:
            moved = project(x + 0.75 * (ahead - x) + 0.25 * (x - previous_x), original, norm)
        previous_x, x = x, moved
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["pgd", "mi-fgsm", "apgd"])
def test_bounded_attack_takes_the_steps_of_its_paper(method: str, norm: str) -> None:
    points = points_of(find_attack_class(method)(norm, "logit-difference"))
    for row in range(len(ORIGINALS)):
        if method == "apgd":
            expected = apgd(row, norm)
        else:
            expected = pgd(row, norm, 0.75 if method == "mi-fgsm" else 0.0)
        for step in range(STEPS):
            np.testing.assert_allclose(
                points[step][row], expected[step], atol=1e-6, err_msg=f"{step}"
            )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_steps_to_the_boundary_of_the_linearized_network(norm: str) -> None:
    """The sum of the steps is multiplied by 1.02, the overshoot of the paper."""
    gaps = np.abs(LOSSES) / 100
    attack = find_attack_class("deepfool")(norm, "logit-difference")
    points = points_of(attack, targeted=True, losses=-gaps)
    for row, original in enumerate(ORIGINALS.astype(np.float64)):
        x, total = original, np.zeros(SHAPE)
        for step in range(STEPS):
            np.testing.assert_allclose(points[step][row], x, atol=1e-6)
            gradient = gradient_at(x, row)
            dual = np.abs(gradient).sum() if norm == "linf" else np.sqrt((gradient**2).sum())
            # DeepFool ignores the limits of the pixel range.
            inside = np.full_like(x, 0.5)
            total = total + gaps[row, step] / dual * steepest_ascent(gradient, norm, inside)
            x = np.clip(original + 1.02 * total, 0, 1)


def carlini_wagner_steps(successes: list[bool]) -> list[dict[str, Any]]:
    """Return the states for a loss of -0.3, a constant gradient, and the given successes."""
    attack, batch = find_attack_class("carlini-wagner")("l2", "logit-difference"), attack_batch()
    state = attack.start(batch)
    states = [state]
    for index, success in enumerate(successes):
        evaluation = {
            "gradient": MAXIMA,
            "loss": np.full(len(ORIGINALS), -0.3),
            "logits": batch.logits,
            "success": np.full(len(ORIGINALS), success),
        }
        state = attack.step(batch, state, evaluation, index)
        states.append(state)
    return states


def test_carlini_wagner_takes_steps_of_adam() -> None:
    """One round minimizes ``|x - original|^2 - c loss`` over w, with ``x = (tanh(w) + 1) / 2``."""
    successes = [step in (5, 6, 9) for step in range(STEPS)]
    states = carlini_wagner_steps(successes)
    for row, original in enumerate(ORIGINALS.astype(np.float64)):
        gradient_norm = np.sqrt((MAXIMA[row] ** 2).sum())
        constant = 2 * 0.3 / gradient_norm**2
        learning_rate = 2 * 0.3 / gradient_norm / np.sqrt(original.size)
        w, x = np.arctanh((2 * original - 1) * (1 - 1e-6)), original
        mean, square = np.zeros(SHAPE), np.zeros(SHAPE)
        for step, success in enumerate(successes):
            np.testing.assert_allclose(states[step]["x"][row], x, atol=1e-6)
            gradient = 2 * (x - original) - (0 if success else constant) * MAXIMA[row]
            gradient = gradient * 2 * x * (1 - x)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            fade = 1 - step / 40
            w = w - learning_rate * fade * mean / (1 - 0.9 ** (step + 1)) / root
            x = (np.tanh(w) + 1) / 2


def test_carlini_wagner_searches_for_the_constant() -> None:
    """It is multiplied by five while too small, then bisected; each round starts again."""
    rounds = [False, False, True, True, False, True]
    successes = [success and step == 17 for success in rounds for step in range(40)]
    states = carlini_wagner_steps(successes)
    constants = np.array([state["constant"][0] for state in states[40::40]])
    np.testing.assert_allclose(constants / states[1]["constant"][0], [5, 25, 15, 10, 12.5, 11.25])
    for state in states[40::40]:
        np.testing.assert_array_equal(state["x"], ORIGINALS)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_random_starts_are_uniform_in_the_ball(method: str, norm: str) -> None:
    attack = find_attack_class(method)(norm, "logit-difference")
    originals = np.random.default_rng(3).uniform(0.3, 0.7, (300, *SHAPE)).astype(np.float32)

    def perturbations(**settings: int) -> Doubles:
        start = np.asarray(attack.start(attack_batch(originals, **settings))["x"], np.float64)
        return start - originals

    np.testing.assert_array_equal(perturbations(), 0)
    first = perturbations(restart=1)
    np.testing.assert_array_equal(first, perturbations(restart=1))
    for other in (perturbations(restart=2), perturbations(restart=1, seed=1)):
        assert (np.abs(first - other).max(axis=(1, 2, 3)) > 0).all()
    if norm == "linf":
        sizes = np.abs(first).ravel()
    else:
        order = int(norm[1])
        sizes = (np.abs(first) ** order).sum(axis=(1, 2, 3)) ** (1 / order)
    # Uniform from 0 to epsilon, and symmetric.
    np.testing.assert_allclose(
        np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]), EPSILON * np.arange(5) / 4, atol=0.012
    )
    assert abs(np.sign(first).mean()) < 0.02
