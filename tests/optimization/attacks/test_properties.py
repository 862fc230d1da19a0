"""What every attack promises, on every backend that has gradients, over random small networks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferkit import ImageOptimizer
from transferkit.backends import Backend, Program, get_backend
from transferkit.networks import INPUT, Network, NetworkBuilder
from transferkit.optimization.attacks import METHODS
from transferkit.optimization.attacks.losses import LOSSES
from transferkit.optimization.attacks.norms import lengths
from transferkit.optimization.attacks.result import AdversarialResult
from transferkit.testing.strategies import random_weights_and_statistics

SIDE = 8
CLASSES = 5
# How far apart two corners of the space of pictures are.
_SPANS = {"linf": 1.0, "l2": np.sqrt(3 * SIDE**2), "l1": 3 * SIDE**2, "l0": 3 * SIDE**2}
EACH = [(method, norm) for method, kind in METHODS.items() for norm in kind.norms]

_SOME = settings(max_examples=4, deadline=None)
_SEEDS = st.integers(0, 2**16)
_NUMBERS = st.integers(1, 3)


def network() -> Network:
    builder = NetworkBuilder("small", input_size=SIDE)
    x = builder.conv2d("conv1", INPUT, 3, 6, size=3, padding=1)
    x = builder.add_node("relu1", "relu", x)
    x = builder.conv2d("conv2", x, 6, 8, size=3, stride=2)
    x = builder.add_node("tanh2", "tanh", x)
    x = builder.add_node("pooled", "mean", x, axes=(1, 2))
    builder.alias("embedding", x)
    builder.linear("logits", x, 8, CLASSES)
    return builder.build()


NETWORK = network()


class Case:
    """A random network on a backend, and pictures of noise with a target for each."""

    def __init__(self, backend: Backend, seed: int, number: int) -> None:
        generator = np.random.default_rng(seed)
        weights = random_weights_and_statistics(NETWORK, seed)
        # So that the classes are told apart by more than rounding.
        weights["logits.weight"] = weights["logits.weight"] * 20
        self.weights = weights
        self.optimizer = ImageOptimizer(
            NETWORK, weights=weights, backend=backend, seed=seed, progress=False
        )
        self.images = generator.integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
        logits = self.logits(get_backend("onnxruntime"), self.images.astype(np.float32) / 255)
        self.seen = logits.argmax(axis=1)
        self.targets = ((self.seen + 1 + generator.integers(0, CLASSES - 1)) % CLASSES).tolist()

    def logits(self, backend: Backend, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return Program(backend, NETWORK, self.weights).run(pixels, ["logits"])["logits"]

    def attack(
        self, each: tuple[str, str], targeted: bool, rows: slice = slice(None), **settings: Any
    ) -> AdversarialResult:
        method, norm = each
        targets = self.targets[rows] if targeted else None
        steps = METHODS[method].most_steps or 12
        return self.optimizer.attack(
            self.images[rows],
            target=targets,
            method=method,
            norm=norm,
            **{"steps": steps, **settings},
        )


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_result_is_within_its_ball(differentiable: Backend, each: tuple[str, str]) -> None:
    @_SOME
    @given(_SEEDS, _NUMBERS, st.sampled_from([0.004, 0.013, 0.1, 0.5]), st.booleans())
    def holds(seed: int, number: int, share: float, targeted: bool) -> None:
        case = Case(differentiable, seed, number)
        epsilon = float(share * _SPANS[each[1]])
        found = case.attack(each, targeted, epsilon=epsilon)
        for pictures in (found.images, found.saved / 255):
            assert pictures.min() >= 0
            assert pictures.max() <= 1
        assert found.distance.max() <= epsilon + 1e-6 * max(1, epsilon)
        assert found.distance_saved.max() <= epsilon + 1e-6 * max(1, epsilon)
        assert (found.evaluations <= (METHODS[each[0]].most_steps or 12)).all()
        originals = case.images.astype(np.float32) / 255
        assert found.distance == pytest.approx(
            lengths(found.images.astype(np.float64) - originals, each[1])
        )

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_epsilon_zero_changes_nothing(differentiable: Backend, each: tuple[str, str]) -> None:
    case = Case(differentiable, 1, 2)
    found = case.attack(each, True, epsilon=0)
    np.testing.assert_array_equal(found.images, case.images.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.saved, case.images)
    assert not found.success.any()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_success_is_one_on_another_backend(differentiable: Backend, each: tuple[str, str]) -> None:
    numbers = {"linf": 0.2, "l2": 3.0, "l1": 60.0, "l0": 60.0}

    @_SOME
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 3)
        found = case.attack(each, targeted, epsilon=numbers[each[1]])
        judge = get_backend("onnxruntime")
        for pictures, success in (
            (found.images, found.success),
            (found.saved.astype(np.float32) / 255, found.success_saved),
        ):
            verdict = case.logits(judge, pictures).argmax(axis=1)
            right = verdict == case.targets if targeted else verdict != case.seen
            assert right[success].all()

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_attacks_succeed(differentiable: Backend, each: tuple[str, str]) -> None:
    """Else all the rest could hold of an attack that does nothing."""
    numbers = {"linf": 0.5, "l2": 7.0, "l1": 150.0, "l0": None}
    found = [
        case.attack(each, False, epsilon=numbers[each[1]], steps=METHODS[each[0]].most_steps or 60)
        for case in (Case(differentiable, seed, 3) for seed in range(4))
    ]
    # One step goes astray where many would not.
    least = 0.25 if each[0] == "fgsm" else 0.75
    assert np.mean([one.success for one in found]) >= least
    assert np.mean([one.success_saved for one in found]) >= least


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["pgd", "mi-fgsm", "apgd"])
def test_any_loss_succeeds(differentiable: Backend, method: str, loss: str) -> None:
    for targeted, least in ((False, 0.75), (True, 0.6)):
        found = [
            case.attack((method, "linf"), targeted, epsilon=0.5, steps=60, loss=loss).success
            for case in (Case(differentiable, seed, 3) for seed in range(4))
        ]
        assert np.mean(found) >= least


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_more_epsilon_and_more_steps_never_do_worse(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    @_SOME
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 2)
        method, norm = each
        most = METHODS[method].most_steps or 25
        epsilons = [float(share * _SPANS[norm]) for share in (0.005, 0.02, 0.08)]
        # A method with an epsilon is asked for all at once; one that looks for the smallest
        # change promises it from call to call.
        is_bounded = METHODS[method].is_bounded
        asked: list[Any] = (
            [epsilons[: number + 1] for number in range(3)] if is_bounded else list(epsilons)
        )
        by_epsilon = [case.attack(each, targeted, epsilon=one, steps=most) for one in asked]
        steps = sorted({1, min(4, most), most})
        by_steps = [case.attack(each, targeted, epsilon=epsilons[1], steps=one) for one in steps]
        for runs in (by_epsilon, by_steps):
            for less, more in pairwise(runs):
                assert (more.success >= less.success).all()
                assert (more.success_saved >= less.success_saved).all() or not is_bounded

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_batch_gives_what_its_images_give_alone(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    numbers = {"linf": 0.05, "l2": 1.0, "l1": 20.0, "l0": 60.0}
    can_restart = METHODS[each[0]].can_restart

    @_SOME
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 3)
        restarts = {"restarts": 2} if can_restart else {}
        together = case.attack(each, targeted, epsilon=numbers[each[1]], **restarts)
        for row in range(3):
            alone = case.attack(
                each, targeted, slice(row, row + 1), epsilon=numbers[each[1]], **restarts
            )
            assert alone.success[0] == together.success[row]
            assert alone.success_saved[0] == together.success_saved[row]
            assert alone.evaluations[0] == together.evaluations[row]
            assert alone.distance[0] == pytest.approx(together.distance[row], rel=1e-2, abs=1e-4)

    holds()


def test_same_seed_gives_the_same(differentiable: Backend) -> None:
    case = Case(differentiable, 3, 3)
    settings: dict[str, Any] = {"epsilon": 0.01, "restarts": 3}
    first, second = (case.attack(("pgd", "linf"), True, **settings) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    other = Case(differentiable, 3, 3)
    other.optimizer.seed = 4
    if not first.success.all():
        assert (other.attack(("pgd", "linf"), True, **settings).images != first.images).any()
