"""The same updates as torch.optim."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from descent import START, STEPS, Parameters, assert_equal_parameters, gradient_at, minimize

from transferkit.training import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

TOLERANCE = 1e-12
PAIRS: tuple[tuple[Optimizer, type[torch.optim.Optimizer], dict[str, Any]], ...] = (
    (SGD(0.1), torch.optim.SGD, {}),
    (SGD(0.1, momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    (
        SGD(0.1, momentum=0.8, weight_decay=0.2),
        torch.optim.SGD,
        {"momentum": 0.8, "weight_decay": 0.2},
    ),
    (
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    (Adam(0.1), torch.optim.Adam, {}),
    (
        Adam(0.1, beta1=0.8, beta2=0.95, epsilon=1e-3),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ),
    (AdamW(0.1), torch.optim.AdamW, {}),
    (
        AdamW(0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.3),
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
    ),
    (RMSprop(0.01, rho=0.99), torch.optim.RMSprop, {}),
    (
        RMSprop(0.01, rho=0.9, epsilon=1e-3, momentum=0.9, weight_decay=0.2),
        torch.optim.RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "momentum": 0.9, "weight_decay": 0.2},
    ),
    (
        RMSprop(0.01, rho=0.9, centered=True),
        torch.optim.RMSprop,
        {"alpha": 0.9, "centered": True},
    ),
    (
        RMSprop(0.01, rho=0.8, momentum=0.5, centered=True, weight_decay=0.1),
        torch.optim.RMSprop,
        {"alpha": 0.8, "momentum": 0.5, "centered": True, "weight_decay": 0.1},
    ),
    (Adagrad(0.1), torch.optim.Adagrad, {}),
    (
        Adagrad(0.1, epsilon=1e-3, weight_decay=0.2),
        torch.optim.Adagrad,
        {"eps": 1e-3, "weight_decay": 0.2},
    ),
)


def minimize_in_torch(
    optimizer: Optimizer,
    expected: type[torch.optim.Optimizer],
    settings: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, float]],
) -> Parameters:
    """Return the parameters after `STEPS` steps with the schedule of ``optimizer``.

    Parameters
    ----------
    groups
        For each parameter, the ``factor`` of its learning rate and further settings.
    """
    parameters = {name: torch.tensor(value, requires_grad=True) for name, value in START.items()}
    reference = expected(
        [{"params": [tensor], **groups.get(name, {})} for name, tensor in parameters.items()],
        **{"lr": optimizer.learning_rate, **settings},  # type: ignore[arg-type]
    )
    for step in range(STEPS):
        for group in reference.param_groups:
            factor = group.get("factor", 1.0)
            group["lr"] = optimizer.learning_rate_at(step, STEPS) * factor
        for name, tensor in parameters.items():
            tensor.grad = torch.tensor(gradient_at(name, tensor.detach().numpy()))
        reference.step()
    return {name: tensor.detach().numpy() for name, tensor in parameters.items()}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("optimizer", "expected", "settings"), PAIRS, ids=str)
def test_update_is_that_of_torch(
    optimizer: Optimizer,
    expected: type[torch.optim.Optimizer],
    settings: dict[str, Any],
    schedule: str,
) -> None:
    optimizer = dataclasses.replace(optimizer, schedule=schedule)
    result = minimize(optimizer)
    assert_equal_parameters(result, minimize_in_torch(optimizer, expected, settings, {}), TOLERANCE)


@pytest.mark.parametrize(("optimizer", "expected", "settings"), PAIRS, ids=str)
def test_factors_and_decay_of_single_parameters_are_those_of_parameter_groups(
    optimizer: Optimizer, expected: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    groups = {
        "kernel": {"factor": 0.1},
        "bias": {"factor": 3.0, "weight_decay": 0.0},
        "temperature": {"weight_decay": 0.0},
    }
    result = minimize(
        optimizer,
        learning_rate_factors={"kernel": 0.1, "bias": 3.0},
        decayed=frozenset({"kernel"}),
    )
    assert_equal_parameters(
        result, minimize_in_torch(optimizer, expected, settings, groups), TOLERANCE
    )
