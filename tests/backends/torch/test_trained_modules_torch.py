"""Training of a user's ``torch.nn.Module``."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import SIDE, colored
from torch import nn

from transferkit import Classifier, FineTuning, Preprocessing
from transferkit.backends import get_backend
from transferkit.errors import UnsupportedError
from transferkit.training import SGD

NUMBERS = [0, 1, 2] * 6
IMAGES = colored(NUMBERS, spread=120)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.drop(self.depthwise(x).mean((2, 3)))
        return self.fc(x)


def net(dropout: float = 0.0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net(dropout)
        module.norm.running_mean.uniform_(-0.2, 0.2)
        module.norm.running_var.uniform_(0.5, 1.5)
    return module.eval()


def tuned(module: nn.Module, **settings: Any) -> Classifier:
    fine_tuning = FineTuning(
        **{
            "epochs": 1,
            "learning_rate": 0.1,
            "batch_size": len(NUMBERS),
            "augmentation": (),
            "validation": None,
            "optimizer": "sgd",
            "warmup": 0.0,
            "schedule": "constant",
            "layer_decay": 1.0,
            "clip_norm": None,
            **settings,
        }
    )
    classifier = Classifier(
        module,
        preprocessing=Preprocessing(SIDE, mean=MEAN, std=STD),
        C=1.0,
        fine_tuning=fine_tuning,
    )
    return classifier.fit(IMAGES, NUMBERS)


def pixels() -> npt.NDArray[np.float32]:
    return (np.stack(IMAGES).astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)


@pytest.mark.parametrize("batch_norm", ["frozen", "update"])
def test_a_step_equals_that_of_the_framework(batch_norm: str) -> None:
    module = net()
    start = Classifier(module, preprocessing=Preprocessing(SIDE, mean=MEAN, std=STD), C=1.0).fit(
        IMAGES, NUMBERS
    )
    head = {name: torch.tensor(array) for name, array in start.model_.weights.items()}
    reference = copy.deepcopy(module)
    reference.norm.train(batch_norm == "update")
    x = torch.tensor(pixels()).permute(0, 3, 1, 2)
    features = reference.depthwise(torch.relu(reference.norm(reference.stem(x)))).mean((2, 3))
    unit = features / features.norm(dim=1, keepdim=True)
    logits = unit @ head["head.weight"].T + head["head.bias"]
    loss = nn.functional.cross_entropy(logits, torch.tensor(NUMBERS))
    loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    result = tuned(module, batch_norm=batch_norm)
    assert result.history_ is not None
    np.testing.assert_allclose(result.history_.steps[0].loss, loss.item(), rtol=1e-5)
    native = result.to_native()
    assert isinstance(native, Net)
    for name, expected in reference.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(
                native.state_dict()[name], expected, rtol=1e-4, atol=1e-6, err_msg=name
            )


def test_the_module_and_the_global_state_are_unchanged() -> None:
    module = net(dropout=0.5).train()
    before = copy.deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    result = tuned(module, epochs=2, batch_size=5, batch_norm="update")
    assert torch.equal(random_state, torch.get_rng_state())
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert result.to_native() is not module


def test_dropout_is_active_and_repeatable() -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 6}
    one, two = (tuned(net(dropout=0.5), **settings).to_native() for _ in range(2))
    without: Any = tuned(net(), **settings).to_native()
    assert isinstance(one, Net)
    assert isinstance(two, Net)
    assert torch.equal(one.stem.weight, two.stem.weight)
    assert not torch.equal(one.stem.weight, without.stem.weight)


def test_only_the_chosen_parameters_are_trained() -> None:
    module = net()
    native: Any = tuned(module, trainable="depthwise").to_native()
    assert torch.equal(native.stem.weight, module.stem.weight)
    assert not torch.equal(native.depthwise.weight, module.depthwise.weight)
    only: Any = tuned(module, trainable=lambda name: name == "stem.bias").to_native()
    assert torch.equal(only.stem.weight, module.stem.weight)
    assert not torch.equal(only.stem.bias, module.stem.bias)
    result = tuned(module, trainable="head", optimizer=SGD(0.1, momentum=0.9))
    assert result.to_native() is module


def test_modules_that_cannot_be_trained() -> None:
    with pytest.raises(UnsupportedError, match=r"no parameter .* has requires_grad=True"):
        tuned(net().requires_grad_(False))
    scripted = torch.jit.script(net())
    wrapped = get_backend("torch").wrap(scripted, input_size=SIDE, mean=MEAN, std=STD)
    with pytest.raises(UnsupportedError, match=r"TorchScript model .* cannot be trained further"):
        wrapped.stateless([])
