"""Attacks that users define, passed to `ImageOptimizer.attack` as instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from samples import NETWORK, SIDE, WEIGHTS, colored

from transferkit import ImageOptimizer, Preprocessing
from transferkit.backends import Backend
from transferkit.errors import ArgumentTypeError, ParameterError, UnknownNameError
from transferkit.optimization.attacks import Attack, AttackBatch, find_attack_class
from transferkit.optimization.attacks.compiled import CompiledFunctions

IMAGES = colored([0, 1, 2, 3])


class SignSteps(Attack):
    """Steps of a fixed size along the sign of the gradient (Kurakin et al. 2017).

    This is a complete attack. The runner computes the gradients, clips the images to epsilon, and
    stops at a success.
    """

    name = "sign-steps"
    supported_norms = ("linf",)
    is_bounded = True
    default_steps = 5

    def __init__(
        self, norm: str | None = None, loss: str | None = None, step_size: float = 0.02
    ) -> None:
        super().__init__(norm, loss)
        self.step_size = step_size

    def start(self, batch: AttackBatch) -> dict[str, Any]:
        return {"x": batch.table.asarray(batch.originals)}

    def step(
        self,
        batch: AttackBatch,
        state: dict[str, Any],
        evaluation: Mapping[str, Any],
        index: int,  # noqa: ARG002
    ) -> dict[str, Any]:
        table = batch.table

        def update(x: Any, gradient: Any) -> Any:
            change = table.multiply(table.sign(gradient), table.asarray(self.step_size))
            return table.clip(table.add(x, change), low=0.0, high=1.0)

        x = batch.compile_once("step", update)(state["x"], evaluation["gradient"])
        return {"x": x}


class UniformNoise(Attack):
    """The example of `Attack`, which does not use the gradients."""

    name = "uniform-noise"
    supported_norms = ("linf",)
    is_bounded = True
    default_steps = 10

    def start(self, batch: AttackBatch) -> dict[str, Any]:
        return {"x": batch.table.asarray(batch.originals)}

    def step(
        self,
        batch: AttackBatch,
        state: dict[str, Any],  # noqa: ARG002
        evaluation: Mapping[str, Any],  # noqa: ARG002
        index: int,
    ) -> dict[str, Any]:
        noise = np.random.default_rng(index).uniform(-1, 1, batch.originals.shape[1:])
        x = np.clip(batch.originals + (batch.epsilon or 0) * noise, 0, 1)
        return {"x": batch.table.asarray(x)}


def optimizer(backend: Backend) -> ImageOptimizer:
    return ImageOptimizer(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), backend=backend, progress=False
    )


def test_custom_attack_succeeds_within_epsilon(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.3, method=SignSteps(), steps=20)
    assert (result.method, result.norm) == ("sign-steps", "linf")
    assert result.success.any()
    assert result.distance.max() <= 0.3 + 1e-6
    assert "sign-steps" in repr(result)


def test_attack_without_gradients_is_run(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.1, method=UniformNoise())
    assert result.method == "uniform-noise"
    is_changed = result.gradient_evaluations > 0
    # Uniform noise on 768 values is almost as large as its range.
    assert result.distance[is_changed] == pytest.approx(0.1, abs=0.002)


def test_default_number_of_steps_is_that_of_the_attack(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=1e-4, method=SignSteps())
    assert result.gradient_evaluations.max() == SignSteps.default_steps


def test_attacks_with_different_attributes_are_compiled_separately(
    differentiable: Backend,
) -> None:
    opt = optimizer(differentiable)
    distances = [
        opt.attack(IMAGES, epsilon=0.5, method=SignSteps(step_size=step_size), steps=1).distance
        for step_size in (0.01, 0.03)
    ]
    # The first step is as long as the step size, for all images that need one.
    assert distances[0].max() == pytest.approx(0.01, abs=1e-6)
    assert distances[1].max() == pytest.approx(0.03, abs=1e-6)


class WithLoss(SignSteps):
    """Maximizes a loss of the caller."""

    def __init__(self, loss_function: Any) -> None:
        super().__init__()
        self._loss_function = loss_function

    def loss_function(self, batch: AttackBatch) -> Any:  # noqa: ARG002
        return self._loss_function


def test_losses_with_the_same_name_are_compiled_separately(differentiable: Backend) -> None:
    """All lambdas have the same name."""
    losses = [
        lambda table, logits, label, target, index=index: table.sum(  # noqa: ARG005
            table.slice(logits, axis=1, start=index, stop=index + 1), axes=(1,)
        )
        for index in (0, 1)
    ]
    shared = optimizer(differentiable)
    images = []
    for loss in losses:
        result = shared.attack(IMAGES, epsilon=0.01, method=WithLoss(loss), steps=2)
        alone = optimizer(differentiable).attack(
            IMAGES, epsilon=0.01, method=WithLoss(loss), steps=2
        )
        np.testing.assert_array_equal(result.images, alone.images)
        images.append(result.images)
    assert not np.array_equal(images[0], images[1])


@dataclass
class EqualSteps(SignSteps):
    """A dataclass, so that its instances cannot be hashed; all of them are equal."""

    size: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        super().__init__(step_size=self.size)


def test_equal_attacks_are_compiled_separately(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    distances = [
        opt.attack(IMAGES, epsilon=0.5, method=EqualSteps(size), steps=1).distance.max()
        for size in (0.01, 0.03)
    ]
    assert distances == pytest.approx([0.01, 0.03], abs=1e-6)


def test_the_number_of_compiled_functions_is_limited() -> None:
    functions = CompiledFunctions()
    owners = [object() for _ in range(200)]
    for owner in owners:

        def make(owner: object = owner) -> Callable[[], object]:
            return lambda: owner

        assert functions.get(owner, "step", make)() is owner
    assert len(functions) < 100
    assert functions.get(owners[-1], "step", lambda: print)() is owners[-1]
    method = EqualSteps().default_norm
    assert functions.get(method, "loss", lambda: max) is max
    assert functions.get(EqualSteps.default_norm, "loss", lambda: min) is max


def test_built_in_attack_is_accepted_as_an_instance(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    attack = find_attack_class("pgd")("l2", "cross-entropy")
    by_instance = opt.attack(IMAGES, epsilon=1.0, method=attack, steps=5)
    by_name = opt.attack(
        IMAGES, epsilon=1.0, method="pgd", norm="l2", loss="cross-entropy", steps=5
    )
    assert (by_instance.method, by_instance.norm) == ("pgd", "l2")
    np.testing.assert_array_equal(by_instance.images, by_name.images)


def test_norm_and_loss_must_agree_with_the_instance(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    attack = SignSteps(loss="cross-entropy")
    opt.attack(IMAGES, epsilon=0.1, method=attack, norm="linf", loss="cross-entropy", steps=1)
    with pytest.raises(ParameterError, match="norm is 'l2', but the given attack 'sign-steps'"):
        opt.attack(IMAGES, epsilon=0.1, method=attack, norm="l2")
    with pytest.raises(ParameterError, match="loss is 'dlr', but the given attack 'sign-steps'"):
        opt.attack(IMAGES, epsilon=0.1, method=attack, loss="dlr")


def test_limits_of_a_custom_attack_are_checked(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    with pytest.raises(ParameterError, match="'sign-steps' needs epsilon"):
        opt.attack(IMAGES, method=SignSteps())
    with pytest.raises(ParameterError, match="'sign-steps' has no random starts"):
        opt.attack(IMAGES, epsilon=0.1, method=SignSteps(), restarts=2)


def test_class_in_place_of_an_instance_is_rejected(differentiable: Backend) -> None:
    with pytest.raises(ArgumentTypeError, match=r"expected an instance: SignSteps\(\)"):
        optimizer(differentiable).attack(
            IMAGES,
            epsilon=0.1,
            method=SignSteps,  # type: ignore[arg-type]
        )


def test_unsupported_norm_or_loss_is_rejected() -> None:
    with pytest.raises(UnknownNameError, match="sign-steps has no norm 'l2'; available: linf"):
        SignSteps("l2")
    with pytest.raises(UnknownNameError, match="sign-steps has no loss 'hinge'"):
        SignSteps(loss="hinge")


def test_missing_class_attribute_is_reported() -> None:
    class Nameless(Attack):
        supported_norms = ("linf",)
        is_bounded = True
        default_steps = 1
        start = SignSteps.start  # type: ignore[assignment]
        step = SignSteps.step  # type: ignore[assignment]

    with pytest.raises(
        ArgumentTypeError, match="Nameless does not define the class attribute 'name'"
    ):
        Nameless()
