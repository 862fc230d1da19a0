"""The same training as torchvision's networks with torch's own optimizer and loss.

In float64: in float32, the usual loop itself depends on the order of its sums, and AdamW turns the
sign of a small derivative into a step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from double_precision import in_float64
from torchvision import transforms

from transferkit.backends import Backend
from transferkit.networks import Network, Weights, build_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.networks.training import fuse_batch_norm
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.training import AdamW
from transferkit.training.losses import one_hot
from transferkit.training.step import ParameterGroups, TrainingBatch, TrainingStep

_STEPS = 20
_CLASSES = 1000
_LEARNING_RATE = 1e-4
_DECAY = 0.05


def _batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return five batches of four images, four times."""
    generator = np.random.default_rng(0)
    batches = [
        (generator.random((4, 64, 48, 3), np.float32), generator.integers(_CLASSES, size=4))
        for _ in range(5)
    ]
    return batches * (_STEPS // len(batches))


def _torch_losses(network: Network, weights: Weights) -> list[float]:
    """Return the losses of the usual loop in PyTorch."""
    model = torchvision.models.get_model(network.name, weights=None)
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    model.load_state_dict(state, strict=False)
    model.eval().double()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE)
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    losses = []
    for pixels, classes in _batches():
        planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float64))
        loss = F.cross_entropy(model(normalize(planes)), torch.from_numpy(classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class _Case(NamedTuple):
    network: Network
    weights: Weights
    losses: list[float]


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet18"])
def case(request: pytest.FixtureRequest) -> _Case:
    network = build_network(request.param, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    weights = random_weights_and_statistics(network, seed=0)
    return _Case(network, weights, _torch_losses(network, weights))


def test_losses_of_fine_tuning(differentiable: Backend, case: _Case) -> None:
    network, weights, expected = case
    shapes = {n: shape for n, shape in network.parameters.items() if n not in network.statistics}
    groups = ParameterGroups(
        dict.fromkeys(shapes, 1.0),
        frozenset(one for one, shape in shapes.items() if len(shape) > 1),
    )
    optimizer = AdamW(_LEARNING_RATE, weight_decay=_DECAY)
    backend = in_float64(differentiable)
    step = TrainingStep(backend, fuse_batch_norm(network, []), groups, optimizer)
    state = step.initial_state(weights)
    losses = []
    for index, (pixels, classes) in enumerate(_batches()):
        batch = TrainingBatch(pixels, one_hot(classes, _CLASSES), np.ones(4, np.float32))
        state, result = step.run(state, batch, optimizer.coefficients(index, _STEPS))
        losses.append(result.loss)
    # It is a training.
    assert np.mean(expected[-5:]) < 0.9 * np.mean(expected[:5])
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
