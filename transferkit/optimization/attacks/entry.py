"""From the arguments of `ImageOptimizer.attack` and `transfer` to their results.

All arguments are checked before any work is done.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.datasets.labels import Labels
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    ImageError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    shorten,
)
from transferkit.features import NoneReadableError, check_finite
from transferkit.images import Images, Preprocessing, Skipped, stream_batches
from transferkit.images.conversion import to_float32
from transferkit.models.class_names import ClassNames
from transferkit.optimization.attacks.base import SUCCESS_MARGIN, Attack, success_margins
from transferkit.optimization.attacks.methods import attack_methods, find_attack_class
from transferkit.optimization.attacks.norms import NORMS
from transferkit.optimization.attacks.result import (
    AdversarialResult,
    TransferResult,
    predicted_classes,
)
from transferkit.optimization.attacks.runner import AttackRunner, Task, run_logits
from transferkit.support.numerics import as_array
from transferkit.support.validation import check_integer, is_number

__all__ = ["attack_images", "transfer_images"]

_BATCH_SIZE = 32


def attack_images(
    runner: AttackRunner,
    preprocessing: Preprocessing,
    classes: ClassNames,
    images: Images,
    labels: Hashable | Labels | None,
    target: Hashable | Labels | None,
    *,
    epsilon: float | Sequence[float] | None,
    method: str | Attack,
    norm: str | None,
    loss: str | None,
    steps: int | None,
    restarts: int,
    on_error: str,
    seed: int,
    progress: bool | None,
) -> AdversarialResult:
    """Read images and attack them: the implementation of `transferkit.ImageOptimizer.attack`.

    Parameters
    ----------
    runner
        Runs attacks on the network.
    preprocessing, classes
        The preprocessing and the classes of the network.
    images, labels
        ``X`` and ``y`` of that method.
    target, epsilon, method, norm, loss, steps, restarts, on_error, progress
        As for that method.
    seed
        The seed of the random starts.
    """
    attack = _find_attack(method, norm, loss)
    _check_num_classes(attack, classes.number, is_targeted=target is not None)
    epsilons = _check_epsilons(epsilon, attack)
    steps = check_integer("steps", attack.default_steps if steps is None else steps, 1)
    restarts = check_integer("restarts", restarts, 1)
    _check_steps_and_restarts(steps, restarts, attack)
    target_indices = _resolve_classes(target, classes)
    label_indices = _resolve_classes(labels, classes)

    skipped: list[Skipped] = []
    batches = list(
        stream_batches(
            images, preprocessing, batch_size=_BATCH_SIZE, on_error=on_error, skipped=skipped
        )
    )
    if not batches:
        raise NoneReadableError(skipped)
    pixels = np.concatenate([batch.pixels for batch in batches])
    sources = [source for batch in batches for source in batch.sources]
    positions = [index for batch in batches for index in batch.indices]
    count = len(positions) + len(skipped)
    logits = runner.logits(pixels)
    check_finite(logits, sources, "logits")
    true = _per_image("y", label_indices, positions, count)
    true = logits.argmax(axis=1) if true is None else true
    targets = _per_image("target", target_indices, positions, count)
    if targets is not None:
        is_predicted = success_margins(logits, true, targets) > SUCCESS_MARGIN
        is_excluded = is_predicted | (true == targets)
        for row in np.flatnonzero(is_excluded):
            name = classes.name(int(targets[row]))
            reason = f"the label is the target class, {shorten(name)}"
            if is_predicted[row]:
                reason = f"the predicted class is already the target, {shorten(name)}"
            reason += "; leave it out or choose another target"
            if on_error != "skip":
                raise ImageError(sources[row], reason)
            skipped.append(Skipped(sources[row], reason))
        keep = np.flatnonzero(~is_excluded)
        if len(keep) == 0:
            reasons = "; ".join(f"{image.source}: {image.reason}" for image in skipped[:3])
            raise DatasetError(f"no images are left to attack: {reasons}")
        pixels, logits, true, targets = pixels[keep], logits[keep], true[keep], targets[keep]
        sources = [sources[row] for row in keep]

    task = Task(
        attack,
        pixels,
        true,
        targets,
        logits,
        None if epsilons is None else _limit_epsilons(epsilons, attack.norm, pixels[0].size),
        steps,
        restarts,
        seed,
    )
    outcome = runner.run(task, progress=progress)
    names = _class_labels(classes)

    return AdversarialResult(
        images=outcome.floats.images,
        images_uint8=outcome.uint8.images,
        originals=pixels,
        success=outcome.success,
        success_uint8=outcome.success_uint8,
        before=predicted_classes(logits, names),
        after=predicted_classes(outcome.floats.logits, names),
        after_uint8=predicted_classes(outcome.uint8.logits, names),
        labels=[names[index] for index in true],
        targets=None if targets is None else [names[index] for index in targets],
        method=attack.name,
        norm=attack.norm,
        epsilon=None if epsilons is None else max(epsilons),
        gradient_evaluations=outcome.gradient_evaluations,
        sources=sources,
        skipped=skipped,
        interrupted=outcome.is_interrupted,
        epsilons=() if epsilons is None else tuple(dict.fromkeys(epsilons)),
    )


def transfer_images(
    adversarial: AdversarialResult,
    program: Program,
    preprocessing: Preprocessing,
    classes: ClassNames,
    batch_size: int,
) -> TransferResult:
    """Classify adversarial images with another network: `transferkit.ImageOptimizer.transfer`.

    Parameters
    ----------
    adversarial
        The images.
    program, preprocessing, classes
        The other network.
    batch_size
        The largest number of images at a time.
    """
    if not isinstance(adversarial, AdversarialResult):
        raise ArgumentTypeError(
            f"adversarial is of type {type(adversarial).__name__}; expected the result of 'attack'"
        )
    names = _class_labels(classes)
    wanted = adversarial.labels if adversarial.targets is None else adversarial.targets
    # Classes are matched by name: the other network may have them in another order.
    index_of: dict[Hashable, int] = {}
    for index, name in enumerate(names):
        index_of.setdefault(name, index)
    for name in wanted:
        if name not in index_of:
            raise UnknownNameError("class", name, map(str, names), of="the other network")
    indices = np.array([index_of[name] for name in wanted], np.intp)
    targets = None if adversarial.targets is None else indices

    def other_logits(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = preprocessing.size
        if size is not None and images.shape[1:3] != (size, size):
            # The images are cropped already, so they are only resized.
            resizing = Preprocessing(size=size, interpolation=preprocessing.interpolation)
            images = np.stack([resizing.apply(image) for image in images])
        return run_logits(program, images, batch_size)

    before = other_logits(adversarial.originals)
    after = other_logits(to_float32(adversarial.images_uint8))
    succeeded_before, succeeds = (
        success_margins(logits, indices, targets) > 0 for logits in (before, after)
    )
    is_changed = adversarial.distance_uint8 > 0
    return TransferResult(
        success=succeeds & ~succeeded_before,
        attempted=adversarial.success_uint8 & is_changed & ~succeeded_before,
        before=predicted_classes(before, names),
        after=predicted_classes(after, names),
    )


def _class_labels(classes: ClassNames) -> list[Hashable]:
    """Return the label of each class; its index if labels are unknown."""
    return list(range(classes.number) if classes.labels is None else classes.labels)


def _find_attack(method: str | Attack, norm: str | None, loss: str | None) -> Attack:
    """Return the attack with a name, or the given one, with its norm and loss checked."""
    if isinstance(method, Attack):
        for parameter, value, own in (("norm", norm, method.norm), ("loss", loss, method.loss)):
            if value is not None and value != own:
                raise ParameterError(
                    f"{parameter} is {shorten(value)}, but the given attack {method.name!r} has "
                    f"the {parameter} {shorten(own)}; leave out {parameter}, or give it to the "
                    "attack"
                )
        return method
    if isinstance(method, type) and issubclass(method, Attack):
        raise ArgumentTypeError(
            f"method is the class {method.__name__}; expected an instance: {method.__name__}()"
        )
    attack_class = find_attack_class(method)
    norm = attack_class.default_norm() if norm is None else norm
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    if norm not in attack_class.supported_norms:
        methods = attack_methods().items()
        others = [repr(name) for name, other in methods if norm in other.supported_norms]
        raise UnknownNameError(
            "norm",
            norm,
            attack_class.supported_norms,
            of=method,
            hint=f"methods that support {norm}: {', '.join(others)}",
        )
    if loss is not None and loss not in attack_class.supported_losses:
        raise UnknownNameError("loss", loss, attack_class.supported_losses, of=method)
    return _built_in_attack(attack_class, norm, loss)


@functools.cache
def _built_in_attack(attack_class: type[Attack], norm: str, loss: str | None) -> Attack:
    """Return the same instance each time, for which compiled functions are kept."""
    return attack_class(norm, loss)


def _check_num_classes(attack: Attack, count: int, *, is_targeted: bool) -> None:
    if count < 2:
        raise ParameterError(f"the network has {count} class; an attack needs at least 2")
    minimum = 4 if is_targeted else 3
    if attack.loss == "dlr" and count < minimum:
        kind = "a targeted" if is_targeted else "an untargeted"
        raise ParameterError(
            f"loss 'dlr' needs at least {minimum} classes in {kind} attack, but the network has "
            f"{count}; use 'logit-difference'"
        )


def _check_epsilons(epsilon: float | Sequence[float] | None, attack: Attack) -> list[float] | None:
    if epsilon is None:
        if attack.is_bounded:
            raise ParameterError(
                f"method {attack.name!r} needs epsilon, the largest allowed {attack.norm} norm of "
                "the change (for example 2/255 for linf); 'fmn' finds the smallest change without "
                "it"
            )
        return None
    values: list[Any] = np.ravel(as_array(epsilon, object)).tolist()
    if not values:
        raise ParameterError("epsilon is an empty list; expected at least one number")
    for value in values:
        if not is_number(value) or not math.isfinite(value):
            raise ParameterError(f"epsilon is {shorten(value)}; expected a finite number")
        if value < 0 or (attack.norm == "linf" and value > 1):
            expected = "in [0, 1]" if attack.norm == "linf" else "of at least 0"
            hint = f"; pixel values are in [0, 1], so write {value:g}/255" if value > 1 else ""
            raise ParameterError(
                f"epsilon is {shorten(value)}; expected a number {expected} for {attack.norm}{hint}"
            )
    return sorted(float(value) for value in values)


def _limit_epsilons(epsilons: list[float], norm: str, num_values: int) -> list[float]:
    """Return the epsilons, at most the largest distance between two images."""
    largest = {"linf": 1.0, "l2": math.sqrt(num_values)}.get(norm, float(num_values))
    return [min(epsilon, largest) for epsilon in epsilons]


def _check_steps_and_restarts(steps: int, restarts: int, attack: Attack) -> None:
    if attack.max_steps is not None and steps > attack.max_steps:
        raise ParameterError(
            f"steps is {steps}, but method {attack.name!r} takes at most {attack.max_steps}; use "
            "'pgd' for more"
        )
    if restarts > 1 and not attack.can_restart:
        names = [repr(name) for name, other in attack_methods().items() if other.can_restart]
        raise ParameterError(
            f"restarts is {restarts}, but method {attack.name!r} has no random starts; methods "
            f"with random starts: {', '.join(names)}"
        )


def _resolve_classes(
    given: Hashable | Labels | None, classes: ClassNames
) -> int | list[int] | None:
    """Return the index of the class for all images, or a list of one per image; None for None."""
    if given is None:
        return None
    values: Any = given
    if hasattr(given, "__array__"):
        values = as_array(given)
        if values.ndim > 1:
            raise ShapeError(
                f"the classes have shape {values.shape}; expected one class, or one per image"
            )
        values = list(values) if values.ndim else values[()]
    is_label = isinstance(values, tuple) and values in (classes.labels or ())
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)) and not is_label:
        # Resolving a name takes a while, and there are many images of each class.
        known: dict[Hashable, int] = {}
        for value in map(_as_python, values):
            if (type(value), value) not in known:
                known[type(value), value] = classes.resolve(value)
        return [known[type(value), value] for value in map(_as_python, values)]
    return classes.resolve(_as_python(values))


def _as_python(value: Hashable) -> Hashable:
    """Return the Python value of a NumPy scalar."""
    converted: Hashable = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return converted


def _per_image(
    name: str, indices: int | list[int] | None, positions: list[int], count: int
) -> npt.NDArray[np.intp] | None:
    """Return the class of each image that was read, (n,); None for None.

    ``positions`` are the positions of these images among the ``count`` images of the input.
    """
    if indices is None:
        return None
    if isinstance(indices, int):
        return np.full(len(positions), indices, np.intp)
    if len(indices) != count:
        raise ShapeError(
            f"{name} has {len(indices)} classes for {count} images; give one class, or one per "
            "image"
        )
    return np.asarray([indices[position] for position in positions], np.intp)
