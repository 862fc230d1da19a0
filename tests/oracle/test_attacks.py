"""Attacks succeed at least as often as those of foolbox, with the same photos and steps.

Collected with ``--oracle`` only, in an environment with torchvision and foolbox.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchattacks
import torchvision

from transferkit import ImageOptimizer
from transferkit.images import Preprocessing, list_images, stream_batches
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.weights import find_weights, load_weights

TARGET = "Egyptian cat"
TARGET_INDEX = 285
_NUM_PHOTOS = 24
_NUM_PHOTOS_SMALLEST = 8
_STEPS_SMALLEST = 40


@pytest.fixture(scope="module")
def dogs(data_folder: Path) -> npt.NDArray[np.float32]:
    """Photos of dogs, preprocessed for MobileNetV2, (n, 224, 224, 3)."""
    paths = list_images(data_folder / "cats_dogs" / "test" / "dog")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, _NUM_PHOTOS).astype(int)]
    preprocessing = find_weights("mobilenet_v2").preprocessing
    batches = stream_batches(chosen, preprocessing, batch_size=_NUM_PHOTOS)
    return np.concatenate([batch.pixels for batch in batches])


@pytest.fixture(scope="module")
def optimizer() -> ImageOptimizer:
    # The photos are resized and cropped already, as foolbox needs them.
    unchanged = Preprocessing(size=None)
    return ImageOptimizer(
        "mobilenet_v2", backend="torch", preprocessing=unchanged, random_state=0, progress=False
    )


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """Torchvision's model with the weights of transferkit."""
    _, weights = load_weights(find_weights("mobilenet_v2"))
    built = torchvision.models.mobilenet_v2()
    state = {name: torch.tensor(array) for name, array in weights.items()}
    built.load_state_dict(state, strict=False)
    return built.eval()


@pytest.fixture(scope="module")
def foolbox_model(model: torch.nn.Module) -> Any:
    normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "axis": -3}
    return foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu", preprocessing=normalization)


def _run_foolbox(
    model: Any, attack: Any, pixels: npt.NDArray[np.float32], epsilon: float | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    criterion = foolbox.criteria.TargetedMisclassification(torch.full((len(pixels),), TARGET_INDEX))
    _, adversarial, success = attack(model, images, criterion, epsilons=epsilon)
    return adversarial.numpy().transpose(0, 2, 3, 1), success.numpy()


def test_pgd_succeeds_more_often_than_foolbox_in_ten_gradients(
    dogs: npt.NDArray[np.float32], optimizer: ImageOptimizer, foolbox_model: Any
) -> None:
    attack = foolbox.attacks.LinfPGD(steps=10, random_start=False)
    _, theirs = _run_foolbox(foolbox_model, attack, dogs, 1 / 255)
    ours = optimizer.attack(dogs, target=TARGET, epsilon=1 / 255, steps=10)
    assert ours.gradient_evaluations.max() <= 10
    assert ours.success_rate > theirs.mean()
    assert ours.success_rate >= 0.6
    assert ours.success_rate_uint8 >= 0.6
    # The successes are successes with torchvision's model too.
    images = torch.from_numpy(ours.images.transpose(0, 3, 1, 2).copy())
    is_target = foolbox_model(images).argmax(1).numpy() == TARGET_INDEX
    assert is_target[ours.success].all()


def test_pgd_always_succeeds_in_forty_gradients(
    dogs: npt.NDArray[np.float32], optimizer: ImageOptimizer
) -> None:
    ours = optimizer.attack(dogs, target=TARGET, epsilon=1 / 255, steps=40)
    assert ours.success.all()
    assert ours.success_uint8.all()


@pytest.mark.parametrize("name", ["L2FMNAttack", "DDNAttack"])
def test_smallest_l2_change_is_at_most_that_of_foolbox(
    dogs: npt.NDArray[np.float32], optimizer: ImageOptimizer, foolbox_model: Any, name: str
) -> None:
    some = dogs[:: _NUM_PHOTOS // _NUM_PHOTOS_SMALLEST]
    attack = getattr(foolbox.attacks, name)(steps=_STEPS_SMALLEST)
    adversarial, success = _run_foolbox(foolbox_model, attack, some, None)
    distances = np.sqrt(((adversarial - some) ** 2).sum(axis=(1, 2, 3)))
    theirs = np.median(np.where(success, distances, np.inf))
    ours = optimizer.attack(some, target=TARGET, method="fmn", norm="l2", steps=_STEPS_SMALLEST)
    assert ours.median_distance <= theirs


def test_pgd_succeeds_as_often_as_torchattacks(
    dogs: npt.NDArray[np.float32], optimizer: ImageOptimizer, model: torch.nn.Module
) -> None:
    normalized_model = torch.nn.Sequential(
        torchvision.transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD), model
    )
    some = dogs[:12]
    images = torch.from_numpy(some.transpose(0, 3, 1, 2).copy())
    attack = torchattacks.PGD(
        normalized_model, eps=1 / 255, alpha=0.25 / 255, steps=5, random_start=False
    )
    attack.set_mode_targeted_by_label(quiet=True)
    adversarial = attack(images, torch.full((len(some),), TARGET_INDEX))
    with torch.no_grad():
        theirs = (normalized_model(adversarial).argmax(1) == TARGET_INDEX).float().mean().item()
    ours = optimizer.attack(some, target=TARGET, epsilon=1 / 255, steps=5)
    assert ours.success_rate >= theirs
