"""What attacks climb, against the same written out from the papers."""

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
# Of pictures that are still seen as what they are, and of some that are not.
LABELS = np.array([*LOGITS[:4].argmax(axis=1), *LOGITS[4:].argmin(axis=1)])
TARGETS = (LABELS + np.array([1, 2, 3, 4, 1, 2])) % CLASSES


def one_hot(classes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.eye(CLASSES, dtype=np.float32)[classes]


def written_out(name: str, targeted: bool) -> list[float]:
    found = []
    for z, y, t in zip(LOGITS.astype(np.float64), LABELS, TARGETS, strict=True):
        ordered = np.sort(z)[::-1]
        wanted = t if targeted else y
        if name == "cross-entropy":
            log_probability = log_softmax(z)[wanted]
            found.append(log_probability if targeted else -log_probability)
        elif name == "logit-difference":
            difference = z[wanted] - np.delete(z, wanted).max()
            found.append(difference if targeted else -difference)
        elif targeted:
            # Croce and Hein, equation 7.
            found.append(-(z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2))
        else:
            # Equation 6.
            found.append(-(z[y] - np.delete(z, y).max()) / (ordered[0] - ordered[2]))
    return found


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient(differentiable: Backend, name: str, targeted: bool) -> None:
    loss = LOSSES[name]

    def over(table: Any) -> Any:
        label = table.asarray(one_hot(LABELS))
        target = table.asarray(one_hot(TARGETS)) if targeted else None
        return lambda logits: loss(table, logits, label, target)

    table = differentiable.table
    found = differentiable.compile(differentiable.value_and_grad(over(table)))(LOGITS)
    expected = np.array(written_out(name, targeted))
    assert_close(found["value"], expected, ACTIVATION_TOLERANCE, "value")
    reference = over(ReferenceTable())
    directions = np.eye(LOGITS.size).reshape(-1, *LOGITS.shape)
    slopes = finite_differences(lambda x: reference(x).sum(), LOGITS, directions)
    assert_close(found["gradient"].ravel(), slopes, GRADIENT_TOLERANCE, "gradient")


def test_dlr_knows_no_scale() -> None:
    table = ReferenceTable()
    label, target = one_hot(LABELS), one_hot(TARGETS)
    for given in (None, target):
        plain, other = (
            LOSSES["dlr"](table, logits, label, given)
            for logits in (LOGITS.astype(np.float64), 1e3 * LOGITS.astype(np.float64) + 7)
        )
        np.testing.assert_allclose(plain, other, rtol=1e-6)


def test_equal_logits_are_no_infinity(differentiable: Backend) -> None:
    table = differentiable.table
    logits = np.array([[1, 1, 1, 1, 1], [3, 3, 1, 1, 1], [2, 1, 1, 1, 1]], np.float32)
    for loss in LOSSES.values():
        for target in (None, table.asarray(one_hot(np.array([2, 2, 2])))):

            def value(x: Any, loss: Any = loss, target: Any = target) -> Any:
                return loss(table, x, table.asarray(one_hot(np.array([0, 0, 0]))), target)

            found = differentiable.compile(differentiable.value_and_grad(value))(logits)
            assert np.isfinite(found["value"]).all()
            assert np.isfinite(found["gradient"]).all()
