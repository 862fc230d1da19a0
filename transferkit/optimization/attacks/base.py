"""The one way that every attack goes: started, stepped, bounded, counted and judged here.

An attack of its own writes where to begin (`Attack.start`) and where to go next
(`Attack.step`); what that costs, whether it is allowed and whether it worked is decided by
`AttackRunner` alone.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.backends.base import Table
from transferkit.optimization.attacks import losses
from transferkit.optimization.attacks.norms import lengths
from transferkit.optimization.attacks.rounding import is_any_level_reached, round_within
from transferkit.support.progress import show_progress

__all__ = [
    "MARGIN",
    "Attack",
    "AttackRunner",
    "Chunk",
    "Outcome",
    "State",
    "Task",
    "margins",
    "run_logits",
]

MARGIN = 3e-4
"""By how much the winning logit must exceed the others for a success, as a part of the largest
absolute logit: two backends may differ by 1e-4 of that in either, so what is a success on one
is one on all."""

# Where a backend does not say how many pictures it runs fastest on.
_MICRO_BATCH_SIZE = 24
# How far back a smallest change may be taken, and how finely, once the steps are done.
_LEAST_SHARE = 0.75
_HALVINGS = 6
# By how much a change that is lost when it is rounded to 8 bits is made larger, in turn.
_MAGNIFICATIONS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)

Floats: TypeAlias = npt.NDArray[np.float32]
State: TypeAlias = dict[str, Any]
"""Tensors and arrays by name, each with one row for each picture; ``"x"`` is where to look
next, and what is under ``"label"`` or ``"target"`` replaces the chunk's in the loss."""


@dataclass(frozen=True)
class Chunk:
    """Pictures that are attacked together, and what is wanted of them.

    Attributes
    ----------
    originals
        (n, h, w, 3), float32 in [0, 1].
    labels
        (n,) the class that each has: what it is to be no longer.
    targets
        (n,) the class that each is to have; None: any other.
    logits
        (n, classes) what the network says of the originals.
    epsilon
        How far each may be changed; None: as far as it takes.
    restart
        0 for the first try from the start, 1 for the second, ...
    seed
        What random starts are drawn from, together with each picture's own pixels.
    table, compiled
        The primitives, and a way to compile a function over tensors once: name and function.
    """

    originals: Floats
    labels: npt.NDArray[np.intp]
    targets: npt.NDArray[np.intp] | None
    logits: Floats
    epsilon: float | None
    restart: int
    seed: int
    table: Table[Any]
    compiled: Callable[[str, Callable[..., Any]], Callable[..., Any]]

    def take(self, rows: npt.NDArray[np.intp]) -> Chunk:
        """Some of the pictures."""
        return replace(
            self,
            originals=self.originals[rows],
            labels=self.labels[rows],
            targets=None if self.targets is None else self.targets[rows],
            logits=self.logits[rows],
        )

    @property
    def number_of_classes(self) -> int:
        """How many logits there are."""
        return int(self.logits.shape[1])

    @property
    def is_targeted(self) -> bool:
        """Whether one class is wanted, not any other."""
        return self.targets is not None

    def one_hot(self, classes: npt.NDArray[np.intp]) -> Floats:
        """(n, number of classes): 1 at each picture's class, 0 elsewhere."""
        found = np.zeros((len(classes), self.number_of_classes), np.float32)
        found[np.arange(len(classes)), classes] = 1
        return found

    def column(self, values: npt.ArrayLike) -> Any:
        """One number for each picture, or the same for all, as a tensor (n, 1, 1, 1)."""
        column = np.broadcast_to(np.asarray(values, np.float32), (len(self.originals),))
        return self.table.asarray(np.ascontiguousarray(column).reshape(-1, 1, 1, 1))

    def generators(self) -> list[np.random.Generator]:
        """A generator for each picture.

        Each depends on the seed, the restart and the picture's own pixels, and so not on
        which pictures it is attacked together with.
        """
        found = []
        for picture in self.originals:
            digest = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest()
            words = np.frombuffer(digest, np.uint32)
            found.append(np.random.default_rng([self.seed, self.restart, *words.tolist()]))
        return found


class Attack(ABC):
    """A method: where to begin, and where to go next.

    Attributes
    ----------
    norms
        The norms that it knows.
    is_bounded
        Whether it stays within an epsilon from the start and is done when it succeeds; else
        it looks for the smallest change that succeeds.
    known_losses
        The losses that it can use, its usual one first.
    default_steps
        How many gradients it takes where nothing is said.
    most_steps
        How many it can make use of; None: any number.
    can_restart
        Whether it can begin again in a random place.
    stops_at_success
        Whether what succeeded is not stepped further, although not bounded.
    """

    norms: ClassVar[tuple[str, ...]]
    known_losses: ClassVar[tuple[str, ...]] = tuple(losses.LOSSES)
    is_bounded: ClassVar[bool]
    default_steps: ClassVar[int]
    most_steps: ClassVar[int | None] = None
    can_restart: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = True

    def __init__(self, norm: str, loss: str) -> None:
        self.norm = norm
        self.loss = loss

    def loss_function(self, chunk: Chunk) -> losses.Loss:  # noqa: ARG002
        """What its gradients are of."""
        return losses.LOSSES[self.loss]

    @abstractmethod
    def start(self, chunk: Chunk) -> State:
        """Where the first gradient is to be taken, and all that `step` wants to remember."""

    @abstractmethod
    def step(self, chunk: Chunk, state: State, found: Mapping[str, Any], index: int) -> State:
        """What follows step ``index``, which counts from 0.

        It may not depend on how many steps there will be: so more steps never do worse.

        Parameters
        ----------
        chunk
            The pictures still in work.
        state
            What `start` or the last step gave, for these pictures.
        found
            At ``state["x"]``: ``gradient`` (n, h, w, 3), a tensor; and as arrays ``loss``
            (n,), ``logits`` (n, classes) and ``success`` (n,).
        index
            How many steps there were before.
        """


@dataclass(frozen=True)
class Task:
    """What is to be attacked, how, and how hard.

    Attributes
    ----------
    attack
        How.
    originals, labels, targets, logits
        As in `Chunk`, for all pictures.
    epsilons
        How far they may be changed, in ascending order: a picture for which the first is
        enough is not tried with the second. None: as far as it takes.
    steps
        How many gradients each picture may take, for each epsilon and restart.
    restarts
        How often to begin, at the first anew and then from random places.
    seed
        For random starts.
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
        """How far a picture may be changed at most; None: as far as it takes."""
        return None if self.epsilons is None else max(self.epsilons)

    @property
    def radii(self) -> list[float | None]:
        """The epsilons to try in turn."""
        # One that looks for the smallest change finds the same whatever is allowed.
        if self.epsilons is None or not self.attack.is_bounded:
            return [self.largest_epsilon]
        return list(self.epsilons)

    def wanted(
        self, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp] | None]:
        """The labels and targets of some of the pictures."""
        return self.labels[rows], None if self.targets is None else self.targets[rows]


@dataclass
class Outcome:
    """What came of some pictures.

    Attributes
    ----------
    pictures
        (n, h, w, 3), float32: changed, and where that failed the last try.
    logits
        (n, classes) what the network says of `pictures`.
    success
        (n,) whether `pictures` are what was wanted, by the network that was attacked.
    saved
        (n, h, w, 3), uint8: as they would be saved.
    success_saved
        (n,) whether `saved` are what was wanted.
    evaluations
        (n,) how many gradients each picture took.
    is_interrupted
        Whether there was a Ctrl-C.
    """

    pictures: Floats
    logits: Floats
    success: npt.NDArray[np.bool_]
    saved: npt.NDArray[np.uint8]
    success_saved: npt.NDArray[np.bool_]
    evaluations: npt.NDArray[np.intp]
    is_interrupted: bool = False


def margins(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    targets: npt.NDArray[np.intp] | None,
) -> npt.NDArray[np.float64]:
    """By how much each picture succeeds, as a part of the largest absolute logit.

    Parameters
    ----------
    logits
        (n, classes)
    labels, targets
        As in `Chunk`.

    Returns
    -------
    array
        (n,), greater than `MARGIN` where an attack counts as a success.
    """
    rows = np.arange(len(logits))
    wanted = labels if targets is None else targets
    others = logits.astype(np.float64)
    own = others[rows, wanted].copy()
    scale = np.abs(others).max(axis=1) + 1e-30
    others[rows, wanted] = -np.inf
    difference = (own - others.max(axis=1)) / scale
    return np.asarray(-difference if targets is None else difference)


@dataclass
class AttackRunner:
    """Runs attacks on a network; what it compiled once it keeps.

    Parameters
    ----------
    program
        The network, on a backend that has gradients.
    batch_size
        How many pictures it is given at once, at most.
    """

    program: Program
    batch_size: int
    _compiled: dict[str, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def run(self, task: Task, *, progress: bool | None) -> Outcome:
        """Attack pictures.

        Parameters
        ----------
        task
            Which, how, and how hard.
        progress
            Whether a progress bar is shown; None: on a terminal.

        Returns
        -------
        Outcome
            On Ctrl-C, what there is by then.
        """
        originals, number = task.originals, len(task.originals)
        rounded, _ = round_within(originals, originals, task.largest_epsilon, task.attack.norm)
        outcome = Outcome(
            originals.copy(),
            task.logits.copy(),
            np.zeros(number, np.bool_),
            rounded,
            np.zeros(number, np.bool_),
            np.zeros(number, np.intp),
        )
        already = margins(task.logits, task.labels, task.targets) > MARGIN
        outcome.success[already] = True
        size = min(self.batch_size, self.program.backend.micro_batch_size or _MICRO_BATCH_SIZE)
        todo = np.flatnonzero(~already)
        try:
            with show_progress("Attacking", number, shown=progress) as advance:
                advance(number - len(todo))
                for start in range(0, len(todo), size):
                    rows = todo[start : start + size]
                    self._attack_rows(task, rows, outcome)
                    advance(len(rows))
        except KeyboardInterrupt:
            outcome.is_interrupted = True
        if not task.attack.is_bounded and task.largest_epsilon is not None:
            # The smallest change that was found, and not small enough.
            distances = lengths(outcome.pictures - originals, task.attack.norm)
            too_far = distances > task.largest_epsilon + 5e-7
            outcome.pictures[too_far] = originals[too_far]
        outcome.logits = self.logits(outcome.pictures)
        outcome.success = margins(outcome.logits, task.labels, task.targets) > MARGIN
        try:
            self._save(task, outcome)
        except KeyboardInterrupt:
            outcome.is_interrupted = True
        return outcome

    def logits(self, pictures: Floats) -> npt.NDArray[np.float32]:
        """What the network says of pictures (n, h, w, 3): (n, classes)."""
        return run_logits(self.program, pictures, self.batch_size)

    def _attack_rows(self, task: Task, rows: npt.NDArray[np.intp], outcome: Outcome) -> None:
        """Attack the pictures at ``rows``, with each epsilon and restart while they resist."""
        attack = task.attack
        for epsilon in task.radii:
            if epsilon == 0:
                continue
            for restart in range(task.restarts):
                left = rows
                if attack.is_bounded:
                    left = rows[~_is_done(task.originals[rows], epsilon, rows, outcome)]
                if len(left) == 0:
                    break
                chunk = Chunk(
                    task.originals[left],
                    *task.wanted(left),
                    task.logits[left],
                    epsilon,
                    restart,
                    task.seed,
                    self.program.backend.table,
                    self._compile_once,
                )
                self._run_chunk(attack, chunk, left, task.steps, outcome)
                if not attack.is_bounded and attack.norm != "l0":
                    self._shorten(chunk, left, outcome)

    def _run_chunk(
        self,
        attack: Attack,
        chunk: Chunk,
        rows: npt.NDArray[np.intp],
        steps: int,
        outcome: Outcome,
    ) -> None:
        """Step until every picture is done or has had its gradients."""
        table = chunk.table
        state = attack.start(chunk)
        best = np.full(len(rows), np.inf)
        for index in range(steps):
            found = self._evaluate(attack, chunk, state)
            outcome.evaluations[rows] += 1
            found["success"] = margins(found["logits"], chunk.labels, chunk.targets) > MARGIN
            done = self._note(attack, chunk, rows, state, found["success"], best, outcome)
            if done.any():
                keep = np.flatnonzero(~done)
                if len(keep) == 0:
                    return
                state, found = (_take(table, mapping, keep) for mapping in (state, found))
                chunk, rows, best = chunk.take(keep), rows[keep], best[keep]
            state = attack.step(chunk, state, found, index)
        pictures = self._bounded(attack, chunk, table.to_numpy(state["x"]))
        logits = self.logits(pictures)
        success = margins(logits, chunk.labels, chunk.targets) > MARGIN
        self._note(attack, chunk, rows, state, success, best, outcome, is_last=True)

    def _shorten(self, chunk: Chunk, rows: npt.NDArray[np.intp], outcome: Outcome) -> None:
        """Go back towards the originals as far as it stays a success; takes no gradients."""
        found = np.flatnonzero(outcome.success[rows])
        if len(found) == 0:
            return
        chunk, rows = chunk.take(found), rows[found]
        changes = outcome.pictures[rows] - chunk.originals
        shares = np.ones(len(rows), np.float32)
        low = np.full(len(rows), _LEAST_SHARE, np.float32)
        for _ in range(_HALVINGS):
            middle = (low + shares) / 2
            pictures = np.clip(chunk.originals + middle.reshape(-1, 1, 1, 1) * changes, 0, 1)
            success = margins(self.logits(pictures), chunk.labels, chunk.targets) > MARGIN
            outcome.pictures[rows[success]] = pictures[success]
            shares, low = np.where(success, middle, shares), np.where(success, low, middle)

    def _note(
        self,
        attack: Attack,
        chunk: Chunk,
        rows: npt.NDArray[np.intp],
        state: State,
        success: npt.NDArray[np.bool_],
        best: npt.NDArray[np.float64],
        outcome: Outcome,
        *,
        is_last: bool = False,
    ) -> npt.NDArray[np.bool_]:
        """Keep the best pictures so far; which of them need no further step."""
        done = np.zeros(len(rows), np.bool_)
        if not success.any() and not is_last:
            return done
        pictures = self._bounded(attack, chunk, chunk.table.to_numpy(state["x"]))
        if not attack.is_bounded:
            distances = lengths(pictures - chunk.originals, attack.norm)
            better = success & (distances < best)
            best[better] = distances[better]
            outcome.pictures[rows[better]] = pictures[better]
            outcome.success[rows[better]] = True
            return success & attack.stops_at_success
        # Judged once more as they are after bounding, since that may change a last digit; and
        # as they would be saved.
        found = np.flatnonzero(success)
        if len(found):
            some = chunk.take(found)
            floats = margins(self.logits(pictures[found]), some.labels, some.targets) > MARGIN
            bytes_, fits = round_within(pictures[found], some.originals, chunk.epsilon, attack.norm)
            saved = margins(self.logits(_floats(bytes_)), some.labels, some.targets) > MARGIN
            saved &= floats & fits
            # With several epsilons, not the smallest that does it in floats by one that is
            # needed for 8 bits only.
            had = lengths(outcome.pictures[rows[found]] - some.originals, attack.norm)
            is_longer = lengths(pictures[found] - some.originals, attack.norm) > had + 1e-6
            new = floats & (~outcome.success[rows[found]] | saved & ~is_longer)
            outcome.pictures[rows[found[new]]] = pictures[found[new]]
            outcome.success[rows[found[new]]] = True
            outcome.saved[rows[found[saved]]] = bytes_[saved]
            outcome.success_saved[rows[found[saved]]] = True
            done = _is_done(chunk.originals, chunk.epsilon, rows, outcome)
        if is_last:
            failed = ~outcome.success[rows]
            outcome.pictures[rows[failed]] = pictures[failed]
        return done

    def _save(self, task: Task, outcome: Outcome) -> None:
        """Find 8-bit pictures that are successes, of those that are in floats.

        A change of less than half a 255th is lost when it is rounded, so it is magnified as
        much as it must be, within epsilon.
        """
        left = np.flatnonzero(~outcome.success_saved)
        for factor in _MAGNIFICATIONS:
            if len(left) == 0:
                return
            start = task.originals[left]
            larger = start + np.float32(factor) * (outcome.pictures[left] - start)
            saved, fits = round_within(larger, start, task.largest_epsilon, task.attack.norm)
            success = margins(self.logits(_floats(saved)), *task.wanted(left)) > MARGIN
            # What rounding alone brings about is luck, which one more step may undo.
            success &= fits & outcome.success[left]
            if factor == 1:
                outcome.saved[left] = saved
            outcome.saved[left[success]] = saved[success]
            outcome.success_saved[left[success]] = True
            left = left[~success & outcome.success[left]]

    def _bounded(self, attack: Attack, chunk: Chunk, pictures: Floats) -> Floats:
        """Clipped to [0, 1] and, where the attack promises that, to epsilon."""
        if not attack.is_bounded or chunk.epsilon is None:
            return np.clip(pictures, 0, 1)
        changes = pictures - chunk.originals
        if attack.norm == "linf":
            changes = np.clip(changes, -chunk.epsilon, chunk.epsilon)
        else:
            over = lengths(changes, attack.norm) / chunk.epsilon
            changes /= np.maximum(over, 1).astype(np.float32).reshape(-1, 1, 1, 1)
        return np.clip(chunk.originals + changes, 0, 1)

    def _evaluate(self, attack: Attack, chunk: Chunk, state: State) -> dict[str, Any]:
        """One gradient for each picture."""
        table = chunk.table
        label = state.get("label")
        label = chunk.one_hot(chunk.labels) if label is None else label
        given = [state["x"], table.asarray(label)]
        if chunk.targets is not None:
            given.append(table.asarray(chunk.one_hot(chunk.targets)))
        loss_function = attack.loss_function(chunk)

        def make() -> Callable[..., Any]:
            network = self.program.load(["logits"])

            def loss(x: Any, label: Any, target: Any = None) -> dict[str, Any]:
                logits = network(x)["logits"]
                each = loss_function(table, logits, label, target)
                return {"value": each, "logits": logits}

            return self.program.backend.value_and_grad(loss)

        name = f"{loss_function.__name__} of {len(given)}"
        if name not in self._compiled:
            self._compile_once(name, make())
        found = dict(self._compiled[name](*given))
        return {
            "gradient": found["gradient"],
            "loss": table.to_numpy(found["value"]),
            "logits": table.to_numpy(found["logits"]),
        }

    def _compile_once(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        if name not in self._compiled:
            self._compiled[name] = self.program.backend.compile_tensors(function)
        return self._compiled[name]


def run_logits(program: Program, pictures: Floats, batch_size: int) -> npt.NDArray[np.float32]:
    """What a network says of pictures (n, h, w, 3), a batch at a time: (n, classes)."""
    batches = [
        program.run(pictures[start : start + batch_size], ["logits"])["logits"]
        for start in range(0, len(pictures), batch_size)
    ]
    return np.concatenate(batches)


def _is_done(
    originals: Floats, epsilon: float | None, rows: npt.NDArray[np.intp], outcome: Outcome
) -> npt.NDArray[np.bool_]:
    """Whether what was found within epsilon for pictures, at ``rows``, is all that can be."""
    done = outcome.success_saved[rows].copy()
    if epsilon is not None:
        # What no 8-bit picture can do need not be looked for.
        done |= outcome.success[rows] & ~is_any_level_reached(originals, epsilon)
    return done


def _take(
    table: Table[Any], mapping: Mapping[str, Any], rows: npt.NDArray[np.intp]
) -> dict[str, Any]:
    """Some rows of tensors and arrays. By way of an array, which happens once for each picture."""
    return {
        name: value[rows]
        if isinstance(value, np.ndarray)
        else table.asarray(np.ascontiguousarray(table.to_numpy(value)[rows]))
        for name, value in mapping.items()
    }


def _floats(pictures: npt.NDArray[np.uint8]) -> Floats:
    return pictures.astype(np.float32) / np.float32(255)
