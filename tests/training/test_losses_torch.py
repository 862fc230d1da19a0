"""The same losses as torch.nn.functional."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from transferkit.testing import ReferenceTable
from transferkit.training.losses import cross_entropy, one_hot, smooth_labels

CLASSES = np.array([2, 0, 4, 1, 2])
LOGITS = np.random.default_rng(0).normal(0, 3, (5, 6))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_with_label_smoothing_is_that_of_torch(smoothing: float) -> None:
    targets = smooth_labels(np.eye(6)[CLASSES], smoothing)
    losses = cross_entropy(ReferenceTable(), LOGITS, targets)
    expected = F.cross_entropy(
        torch.from_numpy(LOGITS),
        torch.from_numpy(CLASSES),
        reduction="none",
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-12)


def test_one_hot_is_that_of_torch() -> None:
    expected = F.one_hot(torch.from_numpy(CLASSES), 6).numpy()
    np.testing.assert_array_equal(one_hot(CLASSES, 6), expected)
