"""On a linear network the smallest change is known: attacks find it, and no less."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit import ImageOptimizer
from transferkit.backends import Backend
from transferkit.networks import INPUT, NetworkBuilder
from transferkit.optimization.attacks import METHODS
from transferkit.optimization.attacks.base import MARGIN

SIDE = 4
VALUES = 3 * SIDE**2
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(90, 166, (4, SIDE, SIDE, 3), dtype=np.uint8)
PIXELS = (IMAGES / 255).reshape(len(IMAGES), VALUES)
BOUNDED = [
    (method, norm) for method, kind in METHODS.items() if kind.is_bounded for norm in kind.norms
]
SMALLEST = [
    (method, norm) for method, kind in METHODS.items() if not kind.is_bounded for norm in kind.norms
]


class Linear:
    """A network of one layer, and how far its classes are from each picture."""

    def __init__(self, backend: Backend, classes: int, steepness: npt.ArrayLike = 1.0) -> None:
        builder = NetworkBuilder("linear", input_size=SIDE)
        x = builder.add_node("embedding", "flatten", INPUT)
        builder.linear("logits", x, VALUES, classes)
        network = builder.build()
        generator = np.random.default_rng(classes)
        rows = generator.normal(size=(classes, VALUES)) * np.reshape(steepness, (-1, 1))
        self.weight = rows.astype(np.float32)
        # All classes about as likely in the middle of the pictures.
        self.bias = (-self.weight @ PIXELS.mean(axis=0)).astype(np.float32)
        weights = {"logits.weight": self.weight, "logits.bias": self.bias}
        self.optimizer = ImageOptimizer(network, weights=weights, backend=backend, progress=False)
        self.logits = PIXELS @ self.weight.T.astype(np.float64) + self.bias
        self.labels = self.logits.argmax(axis=1)

    def shortest(self, norm: str) -> npt.NDArray[np.float64]:
        """How long the shortest change is that makes each picture another class."""
        found = []
        for x, logits, label in zip(PIXELS, self.logits, self.labels, strict=True):
            others = [other for other in range(len(logits)) if other != label]
            needed = MARGIN * np.abs(logits).max()
            found.append(
                min(
                    _shortest(
                        self.weight[other].astype(np.float64) - self.weight[label],
                        logits[label] - logits[other] + needed,
                        x,
                        norm,
                    )
                    for other in others
                )
            )
        return np.array(found)


def _shortest(slope: Any, gap: float, x: Any, norm: str) -> float:
    """The shortest change along which a function of this slope grows by ``gap``."""
    if norm == "linf":
        return float(gap / np.abs(slope).sum())
    if norm == "l2":
        return float(gap / np.linalg.norm(slope))
    # The steepest values first, each as far as black or white; for l0 those that bring most.
    room = np.where(slope > 0, 1 - x, x)
    gains = np.abs(slope) * room
    order = np.argsort(-(gains if norm == "l0" else np.abs(slope)))
    before = np.concatenate([[0], np.cumsum(gains[order])])
    number = int(np.searchsorted(before, gap)) - 1
    if norm == "l0":
        return number + 1.0
    last = order[number]
    return float(room[order[:number]].sum() + (gap - before[number]) / abs(slope[last]))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("each", SMALLEST, ids="-".join)
def test_the_smallest_change_is_found(
    differentiable: Backend, each: tuple[str, str], classes: int
) -> None:
    method, norm = each
    case = Linear(differentiable, classes)
    target = (1 - case.labels).tolist() if classes == 2 else None
    found = case.optimizer.attack(IMAGES, target=target, method=method, norm=norm)
    assert found.success.all()
    ratio = found.distance / case.shortest(norm)
    assert (ratio > 0.999).all()
    # For l1 a step changes many values alike, which is not the shortest way.
    most = 1.0001 if norm == "l0" else 1.2 if norm == "l1" else 1.02
    assert (ratio < most).all()


@pytest.mark.parametrize("each", SMALLEST, ids="-".join)
def test_an_epsilon_takes_nothing_away(differentiable: Backend, each: tuple[str, str]) -> None:
    """What is found without one is found with one that allows it, and is not with a smaller."""
    method, norm = each
    case = Linear(differentiable, 4)
    steps = 60
    free = case.optimizer.attack(IMAGES, method=method, norm=norm, steps=steps)
    assert free.success.all()
    for row, distance in enumerate(free.distance):
        for epsilon, expected in ((distance * 1.0001, True), (distance * 0.9, False)):
            found = case.optimizer.attack(
                IMAGES[row : row + 1], epsilon=epsilon, method=method, norm=norm, steps=steps
            )
            assert found.success.tolist() == [expected]
            if not expected:
                np.testing.assert_array_equal(found.images, found.originals)


@pytest.mark.parametrize("each", [*BOUNDED, *SMALLEST], ids="-".join)
def test_all_pixels_alike(differentiable: Backend, each: tuple[str, str]) -> None:
    """A network that begins with a mean has the same gradient everywhere."""
    builder = NetworkBuilder("mean", input_size=SIDE)
    x = builder.add_node("embedding", "mean", INPUT, axes=(1, 2))
    builder.linear("logits", x, 3, 3)
    weights = {
        "logits.weight": 10 * np.eye(3, dtype=np.float32),
        "logits.bias": np.zeros(3, np.float32),
    }
    optimizer = ImageOptimizer(
        builder.build(), weights=weights, backend=differentiable, progress=False
    )
    method, norm = each
    epsilon = {"linf": 0.3, "l2": 2.0, "l1": 15.0, "l0": None}[norm]
    found = optimizer.attack(IMAGES, epsilon=epsilon, method=method, norm=norm)
    # One step in l1 changes few values, and those of all colours.
    assert found.success.all() or (each == ("fgsm", "l1") and found.success.any())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_goes_to_the_nearest_class(differentiable: Backend, norm: str) -> None:
    """Also where that is not the likeliest."""
    case = Linear(differentiable, 4, [1.0, 4.0, 0.5, 2.0])
    found = case.optimizer.attack(IMAGES, method="deepfool", norm=norm)
    logits = found.images.reshape(len(IMAGES), VALUES) @ case.weight.T + case.bias
    assert (logits.argmax(axis=1) != np.argsort(case.logits, axis=1)[:, -2]).any()
    np.testing.assert_allclose(found.distance, case.shortest(norm), rtol=1e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("each", BOUNDED, ids="-".join)
def test_success_begins_at_the_smallest_change(
    differentiable: Backend, each: tuple[str, str], classes: int
) -> None:
    method, norm = each
    case = Linear(differentiable, classes)
    target = (1 - case.labels).tolist() if classes == 2 else None
    more = 1.25 if norm == "l1" else 1.05
    for row, shortest in enumerate(case.shortest(norm)):
        for share, expected in ((0.98, False), (more, True)):
            found = case.optimizer.attack(
                IMAGES[row : row + 1],
                target=None if target is None else target[row : row + 1],
                epsilon=share * shortest,
                method=method,
                norm=norm,
            )
            assert found.success.tolist() == [expected], (share, row)
