"""The sets of weights that are compared on the validation images, of which the best is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.training.history import Candidate, epoch_name

__all__ = [
    "AVERAGE",
    "EPOCH",
    "MEAN",
    "Candidates",
    "RunningMean",
    "Score",
    "Weights",
    "interpolate",
    "mean_weights",
]

Weights: TypeAlias = Mapping[str, npt.NDArray[Any]]

# The kinds of candidates: the weights after an epoch, their moving average over the steps, and
# means over epochs.
EPOCH = "epoch"
AVERAGE = "average"
MEAN = "mean"


@dataclass(frozen=True, order=True)
class Score:
    """How good some weights are on the validation images.

    The order is that of the accuracy, and of the loss if the accuracy is equal.

    Attributes
    ----------
    accuracy
        The weighted fraction of the images that are classified correctly, in [0, 1].
    negative_loss
        Minus the weighted mean of the cross-entropy.
    calibrated_loss
        That mean after temperature scaling.
    standard_error
        That of the accuracy.
    """

    accuracy: float
    negative_loss: float
    calibrated_loss: float = field(compare=False)
    standard_error: float = field(compare=False)

    @property
    def loss(self) -> float:
        """The weighted mean of the cross-entropy."""
        return -self.negative_loss

    def is_better_than(self, other: Score) -> bool:
        """Return whether this score is better than another one on the same images.

        It is if the accuracy is higher by more than its standard error or, if the difference is
        smaller, if the loss after temperature scaling is lower. Of many weights with nearly the
        same accuracy on a few images, the most accurate ones are so by chance; the loss tells
        more.

        Examples
        --------
        >>> from transferkit.classification.fine_tuning.candidates import Score
        >>> one, two = Score(0.90, -0.3, 0.30, 0.05), Score(0.92, -0.5, 0.40, 0.05)
        >>> one.is_better_than(two)
        True
        >>> one.is_better_than(Score(0.98, -0.5, 0.40, 0.02))
        False
        """
        # Logits that are not finite may still have their maximum at the right class.
        if not math.isfinite(self.loss):
            return False
        difference = self.accuracy - other.accuracy
        if abs(difference) > other.standard_error:
            return difference > 0
        # If no image is classified wrongly, some temperature makes any loss 0.
        return (self.calibrated_loss, self.loss) < (other.calibrated_loss, other.loss)


@dataclass
class RunningMean:
    """The mean of sets of weights that are added one by one, in float32.

    Attributes
    ----------
    count
        The number of sets.
    mean
        Their mean; empty before the first.
    """

    count: int = 0
    mean: Weights = field(default_factory=dict)

    def add(self, weights: Weights) -> None:
        """Add a set of weights.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit.classification.fine_tuning.candidates import RunningMean
        >>> average = RunningMean()
        >>> for value in (1, 2, 6):
        ...     average.add({"w": np.float32([value])})
        >>> average.mean["w"]
        array([3.], dtype=float32)
        """
        self.count += 1
        if self.count == 1:
            self.mean = dict(weights)
            return
        self.mean = {
            name: (mean + (weights[name] - mean) / self.count).astype(mean.dtype)
            for name, mean in self.mean.items()
        }


@dataclass
class Candidates:
    """The candidates so far, with the weights of the best one, and of the best epochs.

    Parameters
    ----------
    num_epochs
        The number of epochs whose weights are kept for a soup.
    records
        The name and the score of each candidate, in order.
    best
        The name, the score and the weights of the best candidate; the weights are None for the
        first candidate, from which training starts.
    epochs
        The best epochs: their numbers, scores and weights, from the best.
    mean
        The mean of the weights after the last epochs.
    fraction
        How far the best weights are from the start on the way to the best of an epoch or an
        average, in (0, 1].
    kind
        What the best of an epoch or an average is: `EPOCH`, `AVERAGE` or `MEAN`.
    """

    num_epochs: int
    records: list[Candidate] = field(default_factory=list)
    best: tuple[str, Score, Weights | None] | None = None
    epochs: list[tuple[int, Score, Weights]] = field(default_factory=list)
    mean: RunningMean = field(default_factory=RunningMean)
    fraction: float = 1.0
    kind: str = EPOCH

    def add(self, name: str, score: Score, weights: Weights | None, kind: str = EPOCH) -> None:
        """Add a candidate; it becomes the best one if it is better than those before.

        None with a lower accuracy than the first one does.
        """
        self.records.append(Candidate(name, score.loss, score.accuracy))
        if self._is_best(score):
            self.best, self.kind = (name, score, weights), kind

    def _is_best(self, score: Score) -> bool:
        if self.best is None:
            return True
        lowest = self.records[0].validation_accuracy or 0.0
        return score.accuracy >= lowest and score.is_better_than(self.best[1])

    def add_epoch(self, epoch: int, score: Score, weights: Weights) -> None:
        """Add the weights after an epoch (counted from 1)."""
        self.add(epoch_name(epoch), score, weights)
        if self.num_epochs:
            self.epochs.append((epoch, score, weights))
            self.epochs.sort(key=lambda entry: entry[1], reverse=True)
            del self.epochs[self.num_epochs :]

    def add_averages(
        self,
        evaluate: Callable[[Weights], Score],
        start: Weights,
        start_name: str,
        fractions: Sequence[float],
    ) -> None:
        """Add the averages over epochs, and weights between the start and the best ones.

        Parameters
        ----------
        evaluate
            Returns the score of some weights.
        start, start_name
            The weights from which training started, and their name.
        fractions
            How far the weights between are from the start, each in (0, 1).
        """
        if self.best is None:
            return
        if self.mean.count:
            name = f"mean of the last {self.mean.count} epochs"
            self.add(name, evaluate(self.mean.mean), self.mean.mean, MEAN)
        if len(self.epochs) > 1:
            self._add_soup(evaluate)
        best_name, _, best = self.best
        if best is None:
            return
        for fraction in fractions:
            weights = interpolate(start, best, fraction)
            name = f"{fraction:g} of the way from {start_name} to {best_name}"
            score = evaluate(weights)
            self.records.append(Candidate(name, score.loss, score.accuracy))
            if self._is_best(score):
                self.best, self.fraction = (name, score, weights), fraction

    def _add_soup(self, evaluate: Callable[[Weights], Score]) -> None:
        """Average the best epochs greedily: one is left out if the mean becomes worse with it."""
        members, score = [self.epochs[0]], self.epochs[0][1]
        for entry in self.epochs[1:]:
            mixed = evaluate(mean_weights([member[2] for member in (*members, entry)]))
            if mixed >= score:
                members.append(entry)
                score = mixed
        if len(members) > 1:
            numbers = ", ".join(map(str, sorted(member[0] for member in members)))
            weights = mean_weights([member[2] for member in members])
            self.add(f"soup of epochs {numbers}", score, weights, MEAN)

    def choose(self, start: str, last: tuple[str, Weights] | None) -> tuple[str, Weights | None]:
        """Return the name and the weights to keep.

        Parameters
        ----------
        start
            The name of the weights from which training started.
        last
            The name and the weights that are kept if nothing was evaluated and there is no mean;
            None: there was no epoch.
        """
        if self.best is not None:
            return self.best[0], self.best[2]
        if self.mean.count:
            return f"mean of the last {self.mean.count} epochs", self.mean.mean
        return last or (start, None)

    def to_dict(self) -> tuple[dict[str, Any], dict[str, Weights]]:
        """Return the candidates as plain data and groups of arrays, which `from_dict` takes."""
        data: dict[str, Any] = {
            "records": [dataclasses.astuple(record) for record in self.records],
            "epochs": [(epoch, *dataclasses.astuple(score)) for epoch, score, _ in self.epochs],
            "mean": self.mean.count,
            "best": None,
            "kind": self.kind,
        }
        groups = {f"epoch{epoch}": weights for epoch, _, weights in self.epochs}
        groups["mean"] = self.mean.mean
        if self.best is not None:
            name, score, weights = self.best
            data["best"] = (name, *dataclasses.astuple(score), weights is None)
            groups["best"] = weights or {}
        return data, groups

    @classmethod
    def from_dict(
        cls, num_epochs: int, data: Mapping[str, Any], groups: Mapping[str, Weights]
    ) -> Candidates:
        """Return the candidates that `to_dict` returned."""
        best = None
        if data["best"] is not None:
            name, *score, is_start = data["best"]
            best = (name, Score(*score), None if is_start else groups["best"])
        return cls(
            num_epochs,
            [Candidate(*record) for record in data["records"]],
            best,
            [(epoch, Score(*score), groups[f"epoch{epoch}"]) for epoch, *score in data["epochs"]],
            RunningMean(data["mean"], groups.get("mean", {})),
            kind=data["kind"],
        )


def mean_weights(weights: list[Weights]) -> Weights:
    """Return the mean of several sets of weights, computed in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.candidates import mean_weights
    >>> one, two = ({"w": np.float32([value])} for value in (1, 2))
    >>> mean_weights([one, two])["w"]
    array([1.5], dtype=float32)
    """
    return {
        name: np.mean([entry[name] for entry in weights], axis=0, dtype=np.float64).astype(
            array.dtype
        )
        for name, array in weights[0].items()
    }


def interpolate(start: Weights, end: Weights, fraction: float) -> Weights:
    """Return ``(1 - fraction) * start + fraction * end``, computed in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.candidates import interpolate
    >>> interpolate({"w": np.float32([0])}, {"w": np.float32([1])}, 0.25)["w"]
    array([0.25], dtype=float32)
    """
    return {
        name: (
            (1 - fraction) * start[name].astype(np.float64) + fraction * array.astype(np.float64)
        ).astype(array.dtype)
        for name, array in end.items()
    }
