"""Speed and success rates of attacks, compared with foolbox.

``python tests/benchmarks/attacks.py FOLDER``, with a folder of photos of dogs, prints the speed of
PGD on a batch of 24 relative to foolbox's with torchvision's eager MobileNetV2. Both run in turn,
so that changes of the machine's speed affect both. With ``--strength`` it also prints the fraction
of the photos that each attack turns into an Egyptian cat.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import numpy.typing as npt
import torch
import torchvision

from transferkit import ImageOptimizer
from transferkit.backends import Program, get_backend
from transferkit.images import Preprocessing, list_images, stream_batches
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.optimization.attacks import find_attack_class
from transferkit.optimization.attacks.runner import AttackRunner, Task
from transferkit.weights import find_weights, load_weights

BATCH_SIZE = 24
STEPS = 10
TARGET = 285
# Too small for any success, so that no image finishes early.
UNREACHABLE_EPSILON = 1e-4


def foolbox_model() -> Any:
    """Return torchvision's eager model, as in foolbox's documentation."""
    _, weights = load_weights(find_weights("mobilenet_v2"))
    model = torchvision.models.mobilenet_v2()
    state = {name: torch.tensor(array) for name, array in weights.items()}
    model.load_state_dict(state, strict=False)
    normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "axis": -3}
    return foolbox.PyTorchModel(
        model.eval(), bounds=(0, 1), device="cpu", preprocessing=normalization
    )


def run_foolbox(
    model: Any, attack: Any, pixels: npt.NDArray[np.float32], epsilon: float | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the adversarial images of an attack of foolbox, and which of them succeed."""
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    criterion = foolbox.criteria.TargetedMisclassification(torch.full((len(pixels),), TARGET))
    _, adversarial, success = attack(model, images, criterion, epsilons=epsilon)
    return adversarial.numpy().transpose(0, 2, 3, 1), success.numpy()


def transferkit_run(name: str, pixels: npt.NDArray[np.float32]) -> Callable[[], object]:
    """Return a function that runs PGD, with an epsilon so small that no image finishes early."""
    program = Program(get_backend(name), *load_weights(find_weights("mobilenet_v2")))
    runner = AttackRunner(program, BATCH_SIZE)
    logits = program.run(pixels, ["logits"])["logits"]
    task = Task(
        find_attack_class("pgd")("linf", "logit-difference"),
        pixels,
        logits.argmax(axis=1),
        np.full(len(pixels), TARGET),
        logits,
        epsilons=[UNREACHABLE_EPSILON],
        steps=STEPS,
        restarts=1,
        seed=0,
    )

    def run() -> object:
        outcome = runner.run(task, progress=False)
        if outcome.gradient_evaluations.sum() != STEPS * len(pixels):
            raise RuntimeError("an image finished early, so the speeds cannot be compared")
        return outcome

    return run


def compare_speed(pixels: npt.NDArray[np.float32], names: list[str], rounds: int) -> None:
    """Print steps per second times images, and the median ratio to foolbox in the same round."""
    model = foolbox_model()
    attack = foolbox.attacks.LinfPGD(steps=STEPS, random_start=False)
    contenders: dict[str, Callable[[], object]] = {
        "foolbox": lambda: run_foolbox(model, attack, pixels, UNREACHABLE_EPSILON)
    }
    contenders |= {name: transferkit_run(name, pixels) for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            # The first round warms up.
            if round_:
                speeds[name].append(STEPS * len(pixels) / (time.perf_counter() - start))
    for name, values in speeds.items():
        ratios = [own / other for own, other in zip(values, speeds["foolbox"], strict=True)]
        print(
            f"{name:12} {statistics.median(values):6.1f} image-steps/s, "
            f"{statistics.median(ratios):.2f} times foolbox "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def compare_strength(pixels: npt.NDArray[np.float32], backend: str) -> None:
    """Print the success rates for ten and forty gradients, and the smallest changes."""
    model = foolbox_model()
    # The photos are resized and cropped already, as foolbox needs them.
    optimizer = ImageOptimizer(
        "mobilenet_v2",
        backend=backend,
        preprocessing=Preprocessing(size=None),
        random_state=0,
        progress=False,
    )
    for epsilon in (0.5 / 255, 1 / 255, 2 / 255):
        attack = foolbox.attacks.LinfPGD(steps=STEPS, random_start=False)
        _, success = run_foolbox(model, attack, pixels, epsilon)
        print(f"epsilon {epsilon * 255:g}/255: foolbox's PGD {success.mean():.2f}", end="")
        for method in ("pgd", "mi-fgsm", "apgd"):
            for steps in (STEPS, 4 * STEPS):
                result = optimizer.attack(
                    pixels, target=TARGET, epsilon=epsilon, steps=steps, method=method
                )
                print(
                    f", {method} in {steps} {result.success_rate:.2f} "
                    f"({result.success_rate_uint8:.2f} in 8 bits)",
                    end="",
                )
        print()
    for name in ("L2FMNAttack", "DDNAttack"):
        attack = getattr(foolbox.attacks, name)(steps=50)
        adversarial, success = run_foolbox(model, attack, pixels, None)
        distances = np.sqrt(((adversarial - pixels) ** 2).sum(axis=(1, 2, 3)))
        print(f"foolbox {name}: median l2 {np.median(np.where(success, distances, np.inf)):.4f}")
    result = optimizer.attack(pixels, target=TARGET, method="fmn", norm="l2", steps=50)
    print(f"fmn: median l2 {result.median_distance:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of photos of dogs")
    parser.add_argument("--backends", default="torch,tensorflow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strength", action="store_true", help="also compare success rates")
    arguments = parser.parse_args()
    paths = list_images(arguments.folder)
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, BATCH_SIZE).astype(int)]
    preprocessing = find_weights("mobilenet_v2").preprocessing
    batches = stream_batches(chosen, preprocessing, batch_size=BATCH_SIZE)
    pixels = np.concatenate([batch.pixels for batch in batches])
    names = arguments.backends.split(",")
    compare_speed(pixels, names, arguments.rounds)
    if arguments.strength:
        compare_strength(pixels, names[0])


if __name__ == "__main__":
    main()
