"""The losses of attacks, against the papers' formulas in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_softmax

from transferkit.backends import Backend
from transferkit.optimization.attacks.losses import LOSSES
from transferkit.testing import ReferenceTable, finite_differences
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, GRADIENT_TOLERANCE, assert_close

NUMBER, CLASSES = 6, 5
LOGITS = (4 * np.random.default_rng(0).normal(size=(NUMBER, CLASSES))).astype(np.float32)
# Some are predicted correctly, some are not.
LABELS = np.array([*LOGITS[:4].argmax(axis=1), *LOGITS[4:].argmin(axis=1)])
TARGETS = (LABELS + np.array([1, 2, 3, 4, 1, 2])) % CLASSES


def one_hot(classes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.eye(CLASSES, dtype=np.float32)[classes]


def expected_losses(name: str, targeted: bool) -> list[float]:
    losses = []
    for z, y, t in zip(LOGITS.astype(np.float64), LABELS, TARGETS, strict=True):
        ordered = np.sort(z)[::-1]
        own = t if targeted else y
        if name == "cross-entropy":
            log_probability = log_softmax(z)[own]
            losses.append(log_probability if targeted else -log_probability)
        elif name == "logit-difference":
            difference = z[own] - np.delete(z, own).max()
            losses.append(difference if targeted else -difference)
        elif targeted:
            # Croce and Hein, equation 7.
            losses.append(-(z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2))
        else:
            # Equation 6.
            losses.append(-(z[y] - np.delete(z, y).max()) / (ordered[0] - ordered[2]))
    return losses


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_paper(
    differentiable: Backend, name: str, targeted: bool
) -> None:
    loss = LOSSES[name]

    def loss_of_logits(table: Any) -> Any:
        label = table.asarray(one_hot(LABELS))
        target = table.asarray(one_hot(TARGETS)) if targeted else None
        return lambda logits: loss(table, logits, label, target)

    table = differentiable.table
    results = differentiable.compile(differentiable.value_and_grad(loss_of_logits(table)))(LOGITS)
    expected = np.array(expected_losses(name, targeted))
    assert_close(results["value"], expected, ACTIVATION_TOLERANCE, "value")
    reference = loss_of_logits(ReferenceTable())
    directions = np.eye(LOGITS.size).reshape(-1, *LOGITS.shape)
    derivatives = finite_differences(lambda x: reference(x).sum(), LOGITS, directions)
    assert_close(results["gradient"].ravel(), derivatives, GRADIENT_TOLERANCE, "gradient")


def test_dlr_is_invariant_to_scale_and_shift() -> None:
    table = ReferenceTable()
    label, target = one_hot(LABELS), one_hot(TARGETS)
    for target_or_none in (None, target):
        plain, scaled = (
            LOSSES["dlr"](table, logits, label, target_or_none)
            for logits in (LOGITS.astype(np.float64), 1e3 * LOGITS.astype(np.float64) + 7)
        )
        np.testing.assert_allclose(plain, scaled, rtol=1e-6)


def test_losses_are_finite_for_equal_logits(differentiable: Backend) -> None:
    table = differentiable.table
    logits = np.array([[1, 1, 1, 1, 1], [3, 3, 1, 1, 1], [2, 1, 1, 1, 1]], np.float32)
    for loss in LOSSES.values():
        for target in (None, table.asarray(one_hot(np.array([2, 2, 2])))):

            def value(x: Any, loss: Any = loss, target: Any = target) -> Any:
                return loss(table, x, table.asarray(one_hot(np.array([0, 0, 0]))), target)

            results = differentiable.compile(differentiable.value_and_grad(value))(logits)
            assert np.isfinite(results["value"]).all()
            assert np.isfinite(results["gradient"]).all()
