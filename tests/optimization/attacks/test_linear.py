"""Attacks find the smallest change of a linear network, which is known, and nothing smaller."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit import ImageOptimizer, Preprocessing
from transferkit.backends import Backend
from transferkit.networks import INPUT, NetworkBuilder
from transferkit.optimization.attacks import attack_methods
from transferkit.optimization.attacks.base import SUCCESS_MARGIN

SIDE = 4
VALUES = 3 * SIDE**2
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(90, 166, (4, SIDE, SIDE, 3), dtype=np.uint8)
PIXELS = (IMAGES / 255).reshape(len(IMAGES), VALUES)
BOUNDED, MINIMIZING = (
    [
        (name, norm)
        for name, attack_class in attack_methods().items()
        if attack_class.is_bounded == is_bounded
        for norm in attack_class.supported_norms
    ]
    for is_bounded in (True, False)
)


class Linear:
    """A network of one layer, and the distances of its decision boundaries."""

    def __init__(self, backend: Backend, classes: int, scale: npt.ArrayLike = 1.0) -> None:
        builder = NetworkBuilder("linear", input_size=SIDE)
        x = builder.add_node("embedding", "flatten", INPUT)
        builder.linear("logits", x, VALUES, classes)
        network = builder.build()
        generator = np.random.default_rng(classes)
        rows = generator.normal(size=(classes, VALUES)) * np.reshape(scale, (-1, 1))
        self.weight = rows.astype(np.float32)
        # At the mean of the images all logits are equal.
        self.bias = (-self.weight @ PIXELS.mean(axis=0)).astype(np.float32)
        weights = {"logits.weight": self.weight, "logits.bias": self.bias}
        self.optimizer = ImageOptimizer(
            network,
            weights=weights,
            preprocessing=Preprocessing(network.input_size),
            backend=backend,
            progress=False,
        )
        self.logits = PIXELS @ self.weight.T.astype(np.float64) + self.bias
        self.labels = self.logits.argmax(axis=1)

    def smallest_distance(self, norm: str) -> npt.NDArray[np.float64]:
        """Return the norm of the smallest change to another class, for each image."""
        distances = []
        for x, logits, label in zip(PIXELS, self.logits, self.labels, strict=True):
            others = [other for other in range(len(logits)) if other != label]
            needed = SUCCESS_MARGIN * np.abs(logits).max()
            distances.append(
                min(
                    _smallest_distance(
                        self.weight[other].astype(np.float64) - self.weight[label],
                        logits[label] - logits[other] + needed,
                        x,
                        norm,
                    )
                    for other in others
                )
            )
        return np.array(distances)


def _smallest_distance(gradient: Any, gap: float, x: Any, norm: str) -> float:
    """Return the smallest norm of a change that increases a linear function by ``gap``."""
    if norm == "linf":
        return float(gap / np.abs(gradient).sum())
    if norm == "l2":
        return float(gap / np.linalg.norm(gradient))
    # The values with the largest gradients change first, each to 0 or 1; for l0 those with the
    # largest increase.
    room = np.where(gradient > 0, 1 - x, x)
    increases = np.abs(gradient) * room
    order = np.argsort(-(increases if norm == "l0" else np.abs(gradient)))
    total = np.concatenate([[0], np.cumsum(increases[order])])
    count = int(np.searchsorted(total, gap)) - 1
    if norm == "l0":
        return count + 1.0
    last = order[count]
    return float(room[order[:count]].sum() + (gap - total[count]) / abs(gradient[last]))


@functools.cache
def linear(backend: Backend, classes: int) -> Linear:
    """Return a network that all tests share, with what was compiled for it."""
    return Linear(backend, classes)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("each", MINIMIZING, ids="-".join)
def test_smallest_change_is_found(
    differentiable: Backend, each: tuple[str, str], classes: int
) -> None:
    method, norm = each
    case = linear(differentiable, classes)
    target = (1 - case.labels).tolist() if classes == 2 else None
    result = case.optimizer.attack(IMAGES, target=target, method=method, norm=norm)
    assert result.success.all()
    ratio = result.distance / case.smallest_distance(norm)
    assert (ratio > 0.999).all()
    # A step in l1 changes many values equally, which is not optimal.
    largest = 1.0001 if norm == "l0" else 1.2 if norm == "l1" else 1.02
    assert (ratio < largest).all()


@pytest.mark.parametrize("each", MINIMIZING, ids="-".join)
def test_epsilon_only_rejects_larger_changes(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    """A change found without epsilon is found if epsilon allows it, and not otherwise."""
    method, norm = each
    case = linear(differentiable, 4)
    steps = 60
    unlimited = case.optimizer.attack(IMAGES, method=method, norm=norm, steps=steps)
    assert unlimited.success.all()
    for row, distance in enumerate(unlimited.distance):
        for epsilon, expected in ((distance * 1.0001, True), (distance * 0.9, False)):
            result = case.optimizer.attack(
                IMAGES[row : row + 1], epsilon=epsilon, method=method, norm=norm, steps=steps
            )
            assert result.success.tolist() == [expected]
            if not expected:
                np.testing.assert_array_equal(result.images, result.originals)


@pytest.mark.parametrize("each", [*BOUNDED, *MINIMIZING], ids="-".join)
def test_attacks_succeed_if_all_pixels_have_the_same_gradient(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    """A network that starts with a mean has such gradients."""
    builder = NetworkBuilder("mean", input_size=SIDE)
    x = builder.add_node("embedding", "mean", INPUT, axes=(1, 2))
    builder.linear("logits", x, 3, 3)
    weights = {
        "logits.weight": 10 * np.eye(3, dtype=np.float32),
        "logits.bias": np.zeros(3, np.float32),
    }
    optimizer = ImageOptimizer(
        builder.build(),
        weights=weights,
        preprocessing=Preprocessing(SIDE),
        backend=differentiable,
        progress=False,
    )
    method, norm = each
    epsilon = {"linf": 0.3, "l2": 2.0, "l1": 15.0, "l0": None}[norm]
    result = optimizer.attack(IMAGES, epsilon=epsilon, method=method, norm=norm)
    # One step in l1 changes few values, and these in all channels.
    assert result.success.all() or (each == ("fgsm", "l1") and result.success.any())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_finds_the_nearest_class(differentiable: Backend, norm: str) -> None:
    """The nearest class is not always the one with the second largest logit."""
    case = Linear(differentiable, 4, [1.0, 4.0, 0.5, 2.0])
    result = case.optimizer.attack(IMAGES, method="deepfool", norm=norm)
    logits = result.images.reshape(len(IMAGES), VALUES) @ case.weight.T + case.bias
    assert (logits.argmax(axis=1) != np.argsort(case.logits, axis=1)[:, -2]).any()
    np.testing.assert_allclose(result.distance, case.smallest_distance(norm), rtol=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("each", BOUNDED, ids="-".join)
def test_bounded_attacks_succeed_from_the_smallest_distance_on(
    differentiable: Backend, each: tuple[str, str], classes: int
) -> None:
    method, norm = each
    case = linear(differentiable, classes)
    target = (1 - case.labels).tolist() if classes == 2 else None
    above = 1.25 if norm == "l1" else 1.05
    for row, distance in enumerate(case.smallest_distance(norm)):
        for factor, expected in ((0.98, False), (above, True)):
            result = case.optimizer.attack(
                IMAGES[row : row + 1],
                target=None if target is None else target[row : row + 1],
                epsilon=factor * distance,
                method=method,
                norm=norm,
            )
            assert result.success.tolist() == [expected], (factor, row)
