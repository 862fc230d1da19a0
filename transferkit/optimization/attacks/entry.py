"""From what a user asks for to a run of an attack: everything is checked before any work."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import (
    DatasetError,
    ImageError,
    ParameterError,
    ShapeError,
    UnknownNameError,
)
from transferkit.features.extraction import NoneReadableError
from transferkit.images import Images, Preprocessing, Skipped, stream_batches
from transferkit.models.class_names import ClassNames
from transferkit.optimization.attacks import METHODS, usual_norm
from transferkit.optimization.attacks.base import (
    MARGIN,
    Attack,
    AttackRunner,
    Task,
    margins,
    run_logits,
)
from transferkit.optimization.attacks.norms import NORMS
from transferkit.optimization.attacks.result import AdversarialResult, TransferResult, verdicts

__all__ = ["attack_images", "transfer_images"]

_BATCH_SIZE = 32


def attack_images(
    runner: AttackRunner,
    preprocessing: Preprocessing,
    classes: ClassNames,
    images: Images,
    labels: Hashable | Sequence[Hashable] | None,
    target: Hashable | Sequence[Hashable] | None,
    *,
    epsilon: float | Sequence[float] | None,
    method: str,
    norm: str | None,
    loss: str | None,
    steps: int | None,
    restarts: int,
    on_error: str,
    seed: int,
    progress: bool | None,
) -> AdversarialResult:
    """What `transferkit.ImageOptimizer.attack` does, which describes it.

    Parameters
    ----------
    runner
        The network.
    preprocessing, classes
        What belongs to it.
    images, labels, target, epsilon, method, norm, loss, steps, restarts, on_error, seed, progress
        As there.
    """
    norm = usual_norm(method) if norm is None else norm
    attack = _find_attack(method, norm, loss)
    _check_number_of_classes(attack, classes.number, is_targeted=target is not None)
    epsilons = _check_epsilons(epsilon, norm, method, attack)
    steps, restarts = _check_effort(steps, restarts, method, attack)
    wanted = _resolve(target, classes)
    given = _resolve(labels, classes)

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
    places = [index for batch in batches for index in batch.indices]
    logits = runner.logits(pixels)
    seen = logits.argmax(axis=1)
    own = seen if given is None else _spread("labels", given, places, len(skipped))
    aims = None if wanted is None else _spread("target", wanted, places, len(skipped))
    if aims is not None:
        has_it = margins(logits, own, aims) > MARGIN
        for row in np.flatnonzero(has_it | (own == aims)):
            name = classes.name(int(aims[row]))
            reason = f"is {name!r} to the network already; leave it out or choose another target"
            if not has_it[row]:
                reason = f"has the label {name!r}, which is the target"
            if on_error != "skip":
                raise ImageError(sources[row], reason)
            skipped.append(Skipped(sources[row], reason))
        keep = np.flatnonzero(~(has_it | (own == aims)))
        if len(keep) == 0:
            raise DatasetError(
                "none of the images can be attacked: "
                + "; ".join(f"{left.source}: {left.reason}" for left in skipped[:3])
            )
        pixels, logits, own, aims = pixels[keep], logits[keep], own[keep], aims[keep]
        sources = [sources[row] for row in keep]

    radii = None
    if epsilons is not None:
        # No two pictures are farther apart.
        farthest = {"linf": 1.0, "l2": math.sqrt(pixels[0].size)}.get(norm, float(pixels[0].size))
        radii = [min(one, farthest) for one in epsilons]
    task = Task(attack, pixels, own, aims, logits, radii, steps, restarts, seed)
    outcome = runner.run(task, progress=progress)
    saved = outcome.saved.astype(np.float32) / np.float32(255)
    names = _names(classes)

    return AdversarialResult(
        images=outcome.pictures,
        saved=outcome.saved,
        originals=pixels,
        success=outcome.success,
        success_saved=outcome.success_saved,
        before=verdicts(logits, names),
        after=verdicts(outcome.logits, names),
        after_saved=verdicts(runner.logits(saved), names),
        labels=[names[index] for index in own],
        targets=None if aims is None else [names[index] for index in aims],
        method=method,
        norm=norm,
        epsilon=None if epsilons is None else max(epsilons),
        evaluations=outcome.evaluations,
        sources=sources,
        skipped=skipped,
        interrupted=outcome.is_interrupted,
    )


def transfer_images(
    adversarial: AdversarialResult,
    program: Any,
    preprocessing: Preprocessing,
    classes: ClassNames,
    batch_size: int,
) -> TransferResult:
    """What `transferkit.ImageOptimizer.transfer` does, which describes it.

    Parameters
    ----------
    adversarial
        The pictures.
    program, preprocessing, classes
        The other network.
    batch_size
        How many pictures it is given at once.
    """
    if not isinstance(adversarial, AdversarialResult):
        raise TypeError(
            f"what is to be transferred is a {type(adversarial).__name__}; give what "
            "'attack' returned"
        )
    names = _names(classes)
    wanted = adversarial.labels if adversarial.targets is None else adversarial.targets
    for name in wanted:
        # Classes are told apart by name: another network may have them in another order.
        if name not in names:
            raise UnknownNameError("class", name, map(str, names), of="the other network")
    aims = np.array([names.index(name) for name in wanted], np.intp)
    targets = None if adversarial.targets is None else aims

    def look(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        side = preprocessing.size
        if side is not None and pictures.shape[1:3] != (side, side):
            # They are the centre already, so nothing more is cut off.
            whole = Preprocessing(size=side, interpolation=preprocessing.interpolation)
            pictures = np.stack([whole.apply(picture) for picture in pictures])
        return run_logits(program, pictures, batch_size)

    before, after = (
        look(adversarial.originals),
        look(adversarial.saved.astype(np.float32) / np.float32(255)),
    )
    was, is_now = (margins(logits, aims, targets) > 0 for logits in (before, after))
    return TransferResult(
        success=is_now & ~was,
        attempted=adversarial.success_saved & (adversarial.distance_saved > 0) & ~was,
        before=verdicts(before, names),
        after=verdicts(after, names),
    )


def _names(classes: ClassNames) -> list[Hashable]:
    if classes.labels is not None:
        return list(classes.labels)
    return [classes.name(index) for index in range(classes.number)]


def _find_attack(method: str, norm: str, loss: str | None) -> Attack:
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    kind = METHODS[method]
    if norm not in kind.norms:
        others = [name for name, other in METHODS.items() if norm in other.norms]
        hint = f"{norm} is supported by {', '.join(others)}"
        raise UnknownNameError("norm", norm, kind.norms, of=method, hint=hint)
    if loss is not None and loss not in kind.known_losses:
        raise UnknownNameError("loss", loss, kind.known_losses, of=method)
    return kind(norm, loss or kind.known_losses[0])


def _check_number_of_classes(attack: Attack, number: int, *, is_targeted: bool) -> None:
    if number < 2:
        raise ParameterError(f"the network has {number} class, and so none to be taken for another")
    least = 4 if is_targeted else 3
    if attack.loss == "dlr" and number < least:
        raise ParameterError(
            f"loss 'dlr' compares with the {'third and fourth' if is_targeted else 'third'} class, "
            f"but the network has {number}; 'logit-difference' needs two"
        )


def _check_epsilons(
    epsilon: float | Sequence[float] | None, norm: str, method: str, attack: Attack
) -> list[float] | None:
    if epsilon is None:
        if attack.is_bounded:
            raise ParameterError(
                f"method {method!r} needs epsilon, how far a picture may be changed in {norm}: "
                "2/255, say, for linf; 'fmn' looks for the smallest change"
            )
        return None
    given: list[Any] = np.ravel(np.asarray(epsilon, dtype=object)).tolist()
    if not given:
        raise ParameterError("epsilon is an empty list; give at least one")
    for value in given:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ParameterError(f"epsilon is {value!r}; it must be a number")
        if value < 0 or (norm == "linf" and value > 1):
            hint = f"; pixels range from 0 to 1, so write {value:g}/255" if value > 1 else ""
            bounds = "in [0, 1]" if norm == "linf" else "at least 0"
            raise ParameterError(f"epsilon is {value!r}; in {norm} it must be {bounds}{hint}")
    return sorted(float(value) for value in given)


def _check_effort(steps: int | None, restarts: int, method: str, attack: Attack) -> tuple[int, int]:
    steps = attack.default_steps if steps is None else steps
    for name, value in (("steps", steps), ("restarts", restarts)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ParameterError(f"{name} is {value!r}; it must be a whole number, at least 1")
    if attack.most_steps is not None and steps > attack.most_steps:
        raise ParameterError(
            f"steps is {steps}, but {method!r} takes {attack.most_steps}; 'pgd' takes more"
        )
    if restarts > 1 and not attack.can_restart:
        names = ", ".join(repr(name) for name, kind in METHODS.items() if kind.can_restart)
        raise ParameterError(
            f"restarts is {restarts}, but {method!r} has no random starts; {names} have"
        )
    return int(steps), int(restarts)


def _resolve(
    given: Hashable | Sequence[Hashable] | None, classes: ClassNames
) -> int | list[int] | None:
    """The index of one class for all pictures, or one for each; None for None."""
    if given is None:
        return None
    if isinstance(given, list) or (isinstance(given, np.ndarray) and given.ndim):
        return [classes.resolve(_plain(one)) for one in given]
    return classes.resolve(_plain(given))


def _plain(value: Hashable) -> Hashable:
    """NumPy's scalars as Python's own."""
    plain: Hashable = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return plain


def _spread(
    name: str, given: int | list[int], places: list[int], number_skipped: int
) -> npt.NDArray[np.intp]:
    """One class for each picture that was read, (n,)."""
    if isinstance(given, int):
        return np.full(len(places), given, np.intp)
    number = len(places) + number_skipped
    if len(given) != number:
        raise ShapeError(
            f"{name} has {len(given)} classes for {number} images; give one, or one for each"
        )
    return np.asarray([given[place] for place in places], np.intp)
