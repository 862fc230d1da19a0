"""The loop that all attacks share: gradients, bounds, success and rounding to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.backends.base import Table
from transferkit.images.conversion import to_float32
from transferkit.optimization.attacks.base import (
    SUCCESS_MARGIN,
    Attack,
    AttackBatch,
    Floats,
    State,
    success_margins,
)
from transferkit.optimization.attacks.compiled import CompiledFunctions
from transferkit.optimization.attacks.norms import vector_norms
from transferkit.optimization.attacks.rounding import has_uint8_neighbor, round_within_epsilon
from transferkit.support.progress import show_progress

__all__ = ["AttackRunner", "JudgedImages", "Outcome", "Task", "run_logits"]

Pixel = TypeVar("Pixel", np.float32, np.uint8)

# The smallest factor that a minimal perturbation is scaled down by after the last step, and the
# number of bisection steps of the search for it.
_MIN_SCALE = 0.75
_BISECTION_STEPS = 6
# The factors tried in turn if a perturbation is lost when it is rounded to 8 bits.
_MAGNIFICATIONS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)


@dataclass(frozen=True)
class Task:
    """The images and the settings of an attack.

    Attributes
    ----------
    attack
        The method.
    originals, labels, targets, logits
        As in `transferkit.optimization.attacks.base.AttackBatch`, for all images.
    epsilons
        The largest allowed norms of the perturbations, in ascending order: each is tried on the
        images for which those before were not enough. None for no limit.
    steps
        The largest number of gradients per image, for each epsilon and restart.
    restarts
        The number of runs: the first from the original, the others from random starts.
    seed
        The seed of the random starts.
    """

    attack: Attack
    originals: Floats
    labels: npt.NDArray[np.intp]
    targets: npt.NDArray[np.intp] | None
    logits: Floats
    epsilons: Sequence[float] | None
    steps: int
    restarts: int
    seed: int

    @property
    def largest_epsilon(self) -> float | None:
        """The largest allowed norm of a perturbation; None for no limit."""
        return None if self.epsilons is None else max(self.epsilons)

    @property
    def search_epsilons(self) -> list[float | None]:
        """The epsilons to run the attack with, in turn."""
        # A method that minimizes the norm finds the same for every epsilon.
        if self.epsilons is None or not self.attack.is_bounded:
            return [self.largest_epsilon]
        return list(self.epsilons)

    def classes_of(
        self, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
        """Return the labels and the targets of some of the images."""
        return self.labels[rows], None if self.targets is None else self.targets[rows]


class JudgedImages(Generic[Pixel]):
    """Images and, as far as they are known, their logits.

    Parameters
    ----------
    images
        (n, h, w, 3)
    logits
        (n, classes) their logits.
    is_known
        (n,) bool: which of the logits are known.

    Attributes
    ----------
    images, logits
        The current ones. The logits of images for which they are not known have no meaning.
    """

    def __init__(
        self,
        images: npt.NDArray[Pixel],
        logits: Floats,
        is_known: npt.NDArray[np.bool_],
    ) -> None:
        self.images: npt.NDArray[Pixel] = images
        self.logits = logits.copy()
        self._is_known = is_known

    def set(
        self, rows: npt.NDArray[np.intp], images: npt.NDArray[Pixel], logits: Floats | None = None
    ) -> None:
        """Replace some of the images; None: by images whose logits are not known."""
        # In this order, so that the logits are right after Ctrl-C, too.
        self._is_known[rows] = False
        self.images[rows] = images
        if logits is not None:
            self.logits[rows] = logits
            self._is_known[rows] = True

    def complete(self, compute_logits: Callable[[npt.NDArray[Pixel]], Floats]) -> None:
        """Compute the logits that are not known."""
        rows = np.flatnonzero(~self._is_known)
        if len(rows):
            self.logits[rows] = compute_logits(self.images[rows])
            self._is_known[rows] = True


@dataclass
class Outcome:
    """The adversarial images and whether they succeed.

    Attributes
    ----------
    floats
        (n, h, w, 3), float32: the best image found, or the last one tried where none succeeds,
        with its logits.
    success
        (n,) bool: whether `floats` succeed on the attacked network.
    uint8
        (n, h, w, 3), uint8: the images that would be saved, with their logits.
    success_uint8
        (n,) bool: whether `uint8` succeed.
    gradient_evaluations
        (n,) the number of gradients computed for each image.
    is_interrupted
        Whether the run was stopped by Ctrl-C.
    """

    floats: JudgedImages[np.float32]
    success: npt.NDArray[np.bool_]
    uint8: JudgedImages[np.uint8]
    success_uint8: npt.NDArray[np.bool_]
    gradient_evaluations: npt.NDArray[np.intp]
    is_interrupted: bool = False


@dataclass
class AttackRunner:
    """Runs attacks on a network, and keeps the compiled functions for further runs.

    Parameters
    ----------
    program
        The network, on a backend with gradients.
    batch_size
        The largest number of images at a time.
    """

    program: Program
    batch_size: int
    _compiled: CompiledFunctions = field(default_factory=CompiledFunctions, repr=False)

    def run(self, task: Task, *, progress: bool | None) -> Outcome:
        """Run an attack.

        Parameters
        ----------
        task
            The images and the settings.
        progress
            Whether to show a progress bar; None: on a terminal or in a notebook.

        Returns
        -------
        Outcome
            After Ctrl-C, with the results so far.
        """
        originals, count = task.originals, len(task.originals)
        rounded, _ = round_within_epsilon(
            originals, originals, task.largest_epsilon, task.attack.norm
        )
        outcome = Outcome(
            floats=JudgedImages(originals.copy(), task.logits, np.ones(count, np.bool_)),
            success=success_margins(task.logits, task.labels, task.targets) > SUCCESS_MARGIN,
            uint8=JudgedImages(rounded, task.logits, _are_same(to_float32(rounded), originals)),
            success_uint8=np.zeros(count, np.bool_),
            gradient_evaluations=np.zeros(count, np.intp),
        )
        size = min(self.batch_size, self.program.backend.micro_batch_size or self.batch_size)
        remaining = np.flatnonzero(~outcome.success)
        try:
            with show_progress("Attacking", count, shown=progress) as advance:
                advance(count - len(remaining))
                for start in range(0, len(remaining), size):
                    rows = remaining[start : start + size]
                    self._attack_rows(task, rows, outcome)
                    advance(len(rows))
        except KeyboardInterrupt:
            outcome.is_interrupted = True
        if not task.attack.is_bounded and task.largest_epsilon is not None:
            # The smallest perturbation found is larger than epsilon.
            distances = vector_norms(outcome.floats.images - originals, task.attack.norm)
            outside = np.flatnonzero(distances > task.largest_epsilon + 5e-7)
            outcome.floats.set(outside, originals[outside], task.logits[outside])
        outcome.floats.complete(self.logits)
        margins = success_margins(outcome.floats.logits, task.labels, task.targets)
        outcome.success = margins > SUCCESS_MARGIN
        try:
            self._find_uint8_images(task, outcome)
        except KeyboardInterrupt:
            outcome.is_interrupted = True
        outcome.uint8.complete(lambda images: self.logits(to_float32(images)))
        return outcome

    def logits(self, images: Floats) -> npt.NDArray[np.float32]:
        """Return the logits (n, classes) of images (n, h, w, 3)."""
        return run_logits(self.program, images, self.batch_size)

    def _attack_rows(self, task: Task, rows: npt.NDArray[np.intp], outcome: Outcome) -> None:
        """Attack the images at ``rows``, with each epsilon and restart until they succeed."""
        attack = task.attack
        for epsilon in task.search_epsilons:
            if epsilon == 0:
                continue
            for restart in range(task.restarts):
                remaining = rows
                if attack.is_bounded:
                    remaining = rows[~_is_finished(task.originals[rows], epsilon, rows, outcome)]
                if len(remaining) == 0:
                    break
                batch = AttackBatch(
                    task.originals[remaining],
                    *task.classes_of(remaining),
                    task.logits[remaining],
                    epsilon,
                    restart,
                    task.seed,
                    self.program.backend.table,
                    # An attack's functions may use its attributes, so they are its own.
                    lambda name, function: self._compiled.get(
                        attack, name, lambda: self.program.backend.compile_tensors(function)
                    ),
                )
                self._attack_batch(attack, batch, remaining, task.steps, outcome)
                if not attack.is_bounded and attack.norm != "l0":
                    self._scale_down(batch, remaining, outcome)

    def _attack_batch(
        self,
        attack: Attack,
        batch: AttackBatch,
        rows: npt.NDArray[np.intp],
        steps: int,
        outcome: Outcome,
    ) -> None:
        """Take steps until every image is finished or has had its gradients."""
        table = batch.table
        state = attack.start(batch)
        smallest = np.full(len(rows), np.inf)
        for index in range(steps):
            evaluation = self._evaluate(attack, batch, state)
            outcome.gradient_evaluations[rows] += 1
            logits = evaluation["logits"]
            success = success_margins(logits, batch.labels, batch.targets) > SUCCESS_MARGIN
            evaluation["success"] = success
            finished = np.zeros(len(rows), np.bool_)
            if success.any():
                x = table.to_numpy(state["x"])
                images = self._clip_to_ball(attack, batch, x)
                # Clipping may change the last digit.
                is_known = _are_same(images, x)
                finished = self._record(
                    attack, batch, rows, images, logits, is_known, success, smallest, outcome
                )
            if finished.any():
                keep = np.flatnonzero(~finished)
                if len(keep) == 0:
                    return
                state, evaluation = (
                    _select_rows(table, values, keep) for values in (state, evaluation)
                )
                batch, rows, smallest = batch.select(keep), rows[keep], smallest[keep]
            state = attack.step(batch, state, evaluation, index)
        images = self._clip_to_ball(attack, batch, table.to_numpy(state["x"]))
        logits = self.logits(images)
        success = success_margins(logits, batch.labels, batch.targets) > SUCCESS_MARGIN
        is_known = np.ones(len(rows), np.bool_)
        self._record(attack, batch, rows, images, logits, is_known, success, smallest, outcome)
        if attack.is_bounded:
            failed = ~outcome.success[rows]
            outcome.floats.set(rows[failed], images[failed], logits[failed])

    def _scale_down(self, batch: AttackBatch, rows: npt.NDArray[np.intp], outcome: Outcome) -> None:
        """Scale the perturbations down as far as they still succeed; computes no gradients."""
        successful = np.flatnonzero(outcome.success[rows])
        if len(successful) == 0:
            return
        batch, rows = batch.select(successful), rows[successful]
        perturbations = outcome.floats.images[rows] - batch.originals
        high = np.ones(len(rows), np.float32)
        low = np.full(len(rows), _MIN_SCALE, np.float32)
        for _ in range(_BISECTION_STEPS):
            middle = (low + high) / 2
            images = np.clip(batch.originals + middle.reshape(-1, 1, 1, 1) * perturbations, 0, 1)
            logits = self.logits(images)
            success = success_margins(logits, batch.labels, batch.targets) > SUCCESS_MARGIN
            outcome.floats.set(rows[success], images[success], logits[success])
            high, low = np.where(success, middle, high), np.where(success, low, middle)

    def _record(
        self,
        attack: Attack,
        batch: AttackBatch,
        rows: npt.NDArray[np.intp],
        images: Floats,
        logits: Floats,
        is_known: npt.NDArray[np.bool_],
        success: npt.NDArray[np.bool_],
        smallest: npt.NDArray[np.float64],
        outcome: Outcome,
    ) -> npt.NDArray[np.bool_]:
        """Keep the best images so far; return which of them need no further step.

        ``logits`` are those of ``images`` where ``is_known``, and otherwise almost.
        """
        if not attack.is_bounded:
            distances = vector_norms(images - batch.originals, attack.norm)
            better = success & (distances < smallest)
            smallest[better] = distances[better]
            known, unknown = np.flatnonzero(better & is_known), np.flatnonzero(better & ~is_known)
            outcome.floats.set(rows[known], images[known], logits[known])
            outcome.floats.set(rows[unknown], images[unknown])
            outcome.success[rows[better]] = True
            return success & attack.stops_at_success
        successful = np.flatnonzero(success)
        if len(successful) == 0:
            return np.zeros(len(rows), np.bool_)
        logits, images = logits[successful], images[successful]
        unknown = np.flatnonzero(~is_known[successful])
        if len(unknown):
            logits[unknown] = self.logits(images[unknown])
        self._record_bounded(
            attack, batch.select(successful), rows[successful], images, logits, outcome
        )
        return _is_finished(batch.originals, batch.epsilon, rows, outcome)

    def _record_bounded(
        self,
        attack: Attack,
        batch: AttackBatch,
        rows: npt.NDArray[np.intp],
        images: Floats,
        logits: Floats,
        outcome: Outcome,
    ) -> None:
        """Keep the images that succeed in floats, in 8 bits, or both."""
        margins = success_margins(logits, batch.labels, batch.targets)
        success = margins > SUCCESS_MARGIN
        images_uint8, is_within = round_within_epsilon(
            images, batch.originals, batch.epsilon, attack.norm
        )
        logits_uint8 = self.logits(to_float32(images_uint8))
        margins = success_margins(logits_uint8, batch.labels, batch.targets)
        success_uint8 = (margins > SUCCESS_MARGIN) & success & is_within
        # With several epsilons, a smaller perturbation that succeeds in floats is not replaced by
        # a larger one that is needed in 8 bits only.
        before = vector_norms(outcome.floats.images[rows] - batch.originals, attack.norm)
        is_larger = vector_norms(images - batch.originals, attack.norm) > before + 1e-6
        replaced = success & (~outcome.success[rows] | success_uint8 & ~is_larger)
        outcome.floats.set(rows[replaced], images[replaced], logits[replaced])
        outcome.success[rows[replaced]] = True
        outcome.uint8.set(
            rows[success_uint8], images_uint8[success_uint8], logits_uint8[success_uint8]
        )
        outcome.success_uint8[rows[success_uint8]] = True

    def _find_uint8_images(self, task: Task, outcome: Outcome) -> None:
        """Find 8-bit images that succeed, for the images that succeed in floats.

        A perturbation of less than half a level is lost when it is rounded. It is therefore
        magnified as much as necessary, within epsilon.
        """

        def round_images(
            rows: npt.NDArray[np.intp], factor: float
        ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
            originals = task.originals[rows]
            images = originals + np.float32(factor) * (outcome.floats.images[rows] - originals)
            return round_within_epsilon(images, originals, task.largest_epsilon, task.attack.norm)

        # A success caused by rounding alone does not count: one more step could undo it.
        failed = np.flatnonzero(~outcome.success_uint8 & ~outcome.success)
        is_changed = ~_are_same(outcome.floats.images[failed], task.originals[failed])
        failed = failed[is_changed]
        if len(failed):
            outcome.uint8.set(failed, round_images(failed, 1.0)[0])
        remaining = np.flatnonzero(~outcome.success_uint8 & outcome.success)
        for factor in _MAGNIFICATIONS:
            if len(remaining) == 0:
                return
            images_uint8, is_within = round_images(remaining, factor)
            logits = self.logits(to_float32(images_uint8))
            margins = success_margins(logits, *task.classes_of(remaining))
            success = (margins > SUCCESS_MARGIN) & is_within
            replaced = success if factor != 1 else np.ones_like(success)
            outcome.uint8.set(remaining[replaced], images_uint8[replaced], logits[replaced])
            outcome.success_uint8[remaining[success]] = True
            remaining = remaining[~success]

    def _clip_to_ball(self, attack: Attack, batch: AttackBatch, images: Floats) -> Floats:
        """Return images clipped to [0, 1] and, if the attack is bounded, to the epsilon ball."""
        if not attack.is_bounded or batch.epsilon is None:
            return np.clip(images, 0, 1)
        perturbations = images - batch.originals
        if attack.norm == "linf":
            perturbations = np.clip(perturbations, -batch.epsilon, batch.epsilon)
        else:
            ratios = vector_norms(perturbations, attack.norm) / batch.epsilon
            perturbations /= np.maximum(ratios, 1).astype(np.float32).reshape(-1, 1, 1, 1)
        return np.clip(batch.originals + perturbations, 0, 1)

    def _evaluate(self, attack: Attack, batch: AttackBatch, state: State) -> dict[str, Any]:
        """Compute the loss, its gradient and the logits of each image."""
        table = batch.table
        label = state.get("label")
        label = batch.one_hot(batch.labels) if label is None else label
        arguments = [state["x"], table.asarray(label)]
        if batch.targets is not None:
            arguments.append(table.asarray(batch.one_hot(batch.targets)))
        value_and_grad = self._loss_gradient(attack.loss_function(batch), len(arguments))
        result = value_and_grad(*arguments)
        return {
            "gradient": result["gradient"],
            "loss": table.to_numpy(result["value"]),
            "logits": table.to_numpy(result["logits"]),
        }

    def _loss_gradient(self, loss_function: Any, num_arguments: int) -> Callable[..., Any]:
        """Return the compiled gradient of a loss of the network; attacks share it."""
        backend = self.program.backend

        def compile_gradient() -> Callable[..., Any]:
            network = self.program.load(["logits"])

            def loss(x: Any, label: Any, target: Any = None) -> dict[str, Any]:
                logits = network(x)["logits"]
                return {
                    "value": loss_function(backend.table, logits, label, target),
                    "logits": logits,
                }

            return backend.compile_tensors(backend.value_and_grad(loss))

        return self._compiled.get(loss_function, num_arguments, compile_gradient)


def run_logits(program: Program, images: Floats, batch_size: int) -> npt.NDArray[np.float32]:
    """Return the logits (n, classes) of images (n, h, w, 3), computed in batches."""
    batches = [
        program.run(images[start : start + batch_size], ["logits"])["logits"]
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches)


def _are_same(images: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Return which of two sets of images (n, h, w, 3) are equal, (n,)."""
    return np.asarray((images == others).all(axis=(1, 2, 3)))


def _is_finished(
    originals: Floats, epsilon: float | None, rows: npt.NDArray[np.intp], outcome: Outcome
) -> npt.NDArray[np.bool_]:
    """Return whether the search within epsilon is finished for the images at ``rows``."""
    finished = outcome.success_uint8[rows].copy()
    if epsilon is not None:
        # A success in 8 bits is impossible where no other 8-bit image is within epsilon.
        finished |= outcome.success[rows] & ~has_uint8_neighbor(originals, epsilon)
    return finished


def _select_rows(
    table: Table[Any], values: Mapping[str, Any], rows: npt.NDArray[np.intp]
) -> dict[str, Any]:
    """Return some rows of tensors and arrays.

    Tensors are converted to arrays and back; this happens at most once per image.
    """
    return {
        name: value[rows]
        if isinstance(value, np.ndarray)
        else table.asarray(np.ascontiguousarray(table.to_numpy(value)[rows]))
        for name, value in values.items()
    }
