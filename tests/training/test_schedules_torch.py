"""The same learning rates as torch.optim.lr_scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.optim import lr_scheduler

from transferkit.training import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Schedule,
    Step,
    Warmup,
)

EPOCHS, STEPS_PER_EPOCH = 6, 5
STEPS = EPOCHS * STEPS_PER_EPOCH
WARMUP_STEPS = 6
WARMUP = WARMUP_STEPS / STEPS

Scheduler: TypeAlias = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def warmup(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=WARMUP_STEPS)


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    # It reaches its maximum one step before `pct_start`, and its end in the last step.
    return lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=STEPS + 1,
        pct_start=(WARMUP_STEPS + 1) / (STEPS + 1),
        div_factor=10.0,
        final_div_factor=100.0,
        cycle_momentum=False,
    )


def after_warmup(scheduler: Scheduler) -> Scheduler:
    """Return a scheduler that begins after the warm-up."""
    return lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [warmup(optimizer), scheduler(optimizer)], milestones=[WARMUP_STEPS]
    )


def during_warmup(scheduler: Scheduler) -> Scheduler:
    """Return a scheduler that begins with the warm-up."""
    return lambda optimizer: lr_scheduler.ChainedScheduler(
        [warmup(optimizer), scheduler(optimizer)]
    )


def constant(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def cosine(steps: int) -> Scheduler:
    return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def exponential(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """A scheduler whose steps are steps of training instead of epochs."""
    return lr_scheduler.StepLR(optimizer, step_size=STEPS_PER_EPOCH, gamma=0.98)


def learning_rates_in_torch(scheduler: Scheduler, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduled, learning_rates = scheduler(optimizer), []
    for _ in range(steps):
        learning_rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduled.step()
    return learning_rates


def factors(schedule: Schedule) -> npt.NDArray[np.float64]:
    return np.asarray([schedule(step / STEPS) for step in range(STEPS)])


@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        (Constant(), constant),
        (
            Linear(),
            lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS),
        ),
        (Cosine(), cosine(STEPS)),
        (Step(), lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=STEPS // 3)),
        (Step(0.5, 5), lambda optimizer: lr_scheduler.StepLR(optimizer, STEPS // 5, gamma=0.5)),
        (Exponential(epochs=EPOCHS), exponential),
        (OneCycle(WARMUP, div_factor=10.0, final_div_factor=100.0), one_cycle),
        (Warmup(Constant(), WARMUP), warmup),
        (Warmup(Cosine(), WARMUP), after_warmup(cosine(STEPS - WARMUP_STEPS))),
        (Warmup(Exponential(epochs=EPOCHS), WARMUP), during_warmup(exponential)),
    ],
    # None: the name of the parameter and a number.
    ids=lambda value: str(value) if is_dataclass(value) else None,
)
def test_learning_rates_are_those_of_torch(schedule: Schedule, scheduler: Scheduler) -> None:
    expected = learning_rates_in_torch(scheduler, STEPS)
    np.testing.assert_allclose(factors(schedule), expected, rtol=0, atol=1e-12)


def test_exponential_decay_per_epoch_is_that_of_torch() -> None:
    expected = learning_rates_in_torch(
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.9), EPOCHS
    )
    result = factors(Exponential(0.9, epochs=EPOCHS)).reshape(EPOCHS, STEPS_PER_EPOCH)
    np.testing.assert_allclose(result, np.repeat([expected], STEPS_PER_EPOCH, axis=0).T, rtol=1e-12)
