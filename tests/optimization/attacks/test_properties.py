"""The guarantees of every attack, on random small networks and every backend with gradients."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transferkit import ImageOptimizer, Preprocessing
from transferkit.backends import Backend, Program, get_backend
from transferkit.networks import INPUT, Network, NetworkBuilder
from transferkit.optimization.attacks import attack_methods
from transferkit.optimization.attacks.losses import LOSSES
from transferkit.optimization.attacks.norms import vector_norms
from transferkit.optimization.attacks.result import AdversarialResult
from transferkit.testing.strategies import random_weights_and_statistics

SIDE = 8
CLASSES = 5
METHODS = attack_methods()
# The largest distance between two images.
_LARGEST_DISTANCES = {"linf": 1.0, "l2": np.sqrt(3 * SIDE**2), "l1": 3 * SIDE**2, "l0": 3 * SIDE**2}
EACH = [
    (name, norm) for name, attack_class in METHODS.items() for norm in attack_class.supported_norms
]

_FEW_EXAMPLES = settings(max_examples=4, deadline=None)
# Compiling their functions takes most of the time.
_NUM_NETWORKS = 3
_SEEDS = st.integers(0, 2**16)
_COUNTS = st.integers(1, 3)


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


@functools.cache
def random_optimizer(backend: Backend, seed: int) -> ImageOptimizer:
    """Return an optimizer for a random network; all tests share what it compiles."""
    weights = random_weights_and_statistics(NETWORK, seed)
    # Makes the differences of logits larger than rounding errors.
    weights["logits.weight"] = weights["logits.weight"] * 20
    return ImageOptimizer(
        NETWORK,
        weights=weights,
        preprocessing=Preprocessing(NETWORK.input_size),
        backend=backend,
        progress=False,
    )


class Case:
    """A random network on a backend, and random images with a target class for each."""

    def __init__(self, backend: Backend, seed: int, count: int) -> None:
        generator = np.random.default_rng(seed)
        self.optimizer = random_optimizer(backend, seed % _NUM_NETWORKS)
        self.optimizer.set_params(random_state=seed)
        self.images = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        logits = self.logits(get_backend("onnxruntime"), self.images.astype(np.float32) / 255)
        self.predicted = logits.argmax(axis=1)
        self.targets = (
            (self.predicted + 1 + generator.integers(0, CLASSES - 1)) % CLASSES
        ).tolist()

    def logits(self, backend: Backend, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return Program(backend, NETWORK, self.optimizer.weights).run(pixels, ["logits"])["logits"]

    def attack(
        self, each: tuple[str, str], targeted: bool, rows: slice = slice(None), **settings: Any
    ) -> AdversarialResult:
        method, norm = each
        targets = self.targets[rows] if targeted else None
        steps = METHODS[method].max_steps or 12
        return self.optimizer.attack(
            self.images[rows],
            target=targets,
            method=method,
            norm=norm,
            **{"steps": steps, **settings},
        )


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_result_is_within_epsilon(differentiable: Backend, each: tuple[str, str]) -> None:
    @_FEW_EXAMPLES
    @given(_SEEDS, _COUNTS, st.sampled_from([0.004, 0.013, 0.1, 0.5]), st.booleans())
    def holds(seed: int, count: int, fraction: float, targeted: bool) -> None:
        case = Case(differentiable, seed, count)
        epsilon = float(fraction * _LARGEST_DISTANCES[each[1]])
        result = case.attack(each, targeted, epsilon=epsilon)
        for images in (result.images, result.images_uint8 / 255):
            assert images.min() >= 0
            assert images.max() <= 1
        assert result.distance.max() <= epsilon + 1e-6 * max(1, epsilon)
        assert result.distance_uint8.max() <= epsilon + 1e-6 * max(1, epsilon)
        assert (result.gradient_evaluations <= (METHODS[each[0]].max_steps or 12)).all()
        originals = case.images.astype(np.float32) / 255
        assert result.distance == pytest.approx(
            vector_norms(result.images.astype(np.float64) - originals, each[1])
        )

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_epsilon_zero_changes_nothing(differentiable: Backend, each: tuple[str, str]) -> None:
    case = Case(differentiable, 1, 2)
    result = case.attack(each, True, epsilon=0)
    np.testing.assert_array_equal(result.images, case.images.astype(np.float32) / 255)
    np.testing.assert_array_equal(result.images_uint8, case.images)
    assert not result.success.any()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_success_is_a_success_on_another_backend(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    epsilons = {"linf": 0.2, "l2": 3.0, "l1": 60.0, "l0": 60.0}

    @_FEW_EXAMPLES
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 3)
        result = case.attack(each, targeted, epsilon=epsilons[each[1]])
        other = get_backend("onnxruntime")
        for images, success in (
            (result.images, result.success),
            (result.images_uint8.astype(np.float32) / 255, result.success_uint8),
        ):
            predicted = case.logits(other, images).argmax(axis=1)
            expected = predicted == case.targets if targeted else predicted != case.predicted
            assert expected[success].all()

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_attacks_succeed(differentiable: Backend, each: tuple[str, str]) -> None:
    """Otherwise the other tests could pass for an attack that does nothing."""
    epsilons = {"linf": 0.5, "l2": 7.0, "l1": 150.0, "l0": None}
    results = [
        case.attack(each, False, epsilon=epsilons[each[1]], steps=METHODS[each[0]].max_steps or 60)
        for case in (Case(differentiable, seed, 3) for seed in range(4))
    ]
    # One step succeeds less often than many.
    minimum = 0.25 if each[0] == "fgsm" else 0.75
    assert np.mean([result.success for result in results]) >= minimum
    assert np.mean([result.success_uint8 for result in results]) >= minimum


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", ["pgd", "mi-fgsm", "apgd"])
def test_attacks_succeed_with_every_loss(differentiable: Backend, method: str, loss: str) -> None:
    for targeted, minimum in ((False, 0.75), (True, 0.6)):
        successes = [
            case.attack((method, "linf"), targeted, epsilon=0.5, steps=60, loss=loss).success
            for case in (Case(differentiable, seed, 3) for seed in range(4))
        ]
        assert np.mean(successes) >= minimum


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_more_epsilon_and_more_steps_never_do_worse(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    @_FEW_EXAMPLES
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 2)
        method, norm = each
        max_steps = METHODS[method].max_steps or 25
        epsilons = [float(fraction * _LARGEST_DISTANCES[norm]) for fraction in (0.005, 0.02, 0.08)]
        # For bounded methods this holds within one call, for the others between calls.
        is_bounded = METHODS[method].is_bounded
        choices: list[Any] = (
            [epsilons[: count + 1] for count in range(3)] if is_bounded else list(epsilons)
        )
        by_epsilon = [
            case.attack(each, targeted, epsilon=epsilon, steps=max_steps) for epsilon in choices
        ]
        by_steps = [
            case.attack(each, targeted, epsilon=epsilons[1], steps=steps)
            for steps in sorted({1, min(4, max_steps), max_steps})
        ]
        for runs in (by_epsilon, by_steps):
            for less, more in pairwise(runs):
                assert (more.success >= less.success).all()
                assert (more.success_uint8 >= less.success_uint8).all() or not is_bounded

    holds()


@pytest.mark.parametrize("each", EACH, ids="-".join)
def test_result_does_not_depend_on_the_other_images(
    differentiable: Backend, each: tuple[str, str]
) -> None:
    epsilons = {"linf": 0.05, "l2": 1.0, "l1": 20.0, "l0": 60.0}
    can_restart = METHODS[each[0]].can_restart

    @_FEW_EXAMPLES
    @given(_SEEDS, st.booleans())
    def holds(seed: int, targeted: bool) -> None:
        case = Case(differentiable, seed, 3)
        restarts = {"restarts": 2} if can_restart else {}
        together = case.attack(each, targeted, epsilon=epsilons[each[1]], **restarts)
        for row in range(3):
            alone = case.attack(
                each, targeted, slice(row, row + 1), epsilon=epsilons[each[1]], **restarts
            )
            assert alone.success[0] == together.success[row]
            assert alone.success_uint8[0] == together.success_uint8[row]
            assert alone.gradient_evaluations[0] == together.gradient_evaluations[row]
            assert alone.distance[0] == pytest.approx(together.distance[row], rel=1e-2, abs=1e-4)

    holds()


def test_equal_seeds_give_equal_results(differentiable: Backend) -> None:
    case = Case(differentiable, 3, 3)
    settings: dict[str, Any] = {"epsilon": 0.01, "restarts": 3}
    first, second = (case.attack(("pgd", "linf"), True, **settings) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    other = Case(differentiable, 3, 3)
    other.optimizer.random_state = 4
    if not first.success.all():
        assert (other.attack(("pgd", "linf"), True, **settings).images != first.images).any()
