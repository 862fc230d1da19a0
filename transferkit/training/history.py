"""The history of a training run: what was measured in each step and epoch, and what was kept."""

from __future__ import annotations

import dataclasses
import math
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from transferkit.errors import ParameterError, UnknownNameError, shorten
from transferkit.support.data_frames import import_pandas
from transferkit.support.plots import plot_file
from transferkit.support.validation import check_bool, check_integer, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["PROBE", "Candidate", "EpochRecord", "History", "StepRecord", "Trial", "epoch_name"]

# The length of a candidate's name in the legend of a plot.
_MAX_NAME = 36

PROBE = "probe"
"""The name of the candidate whose weights are those before the training, with a linear head fitted
to their features."""


def epoch_name(epoch: int) -> str:
    """Return the name of the candidate whose weights are those after an epoch.

    Examples
    --------
    >>> from transferkit.training.history import epoch_name
    >>> epoch_name(3)
    'epoch 3'
    """
    return f"epoch {epoch}"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The measurements of one step of training.

    Attributes
    ----------
    step
        The number of the step in the run, counted from 1.
    epoch
        The number of the epoch, counted from 1.
    loss
        The mean loss of the batch.
    accuracy
        The fraction of the batch that is classified correctly, in [0, 1].
    learning_rate
        The learning rate of the step.
    gradient_norm
        The Euclidean norm of the gradient of the loss, before clipping.
    seconds
        The time from the start of the training to the end of the step.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The measurements of one epoch.

    Attributes
    ----------
    epoch
        The number of the epoch, counted from 1.
    loss, accuracy
        The means over the steps of the epoch.
    validation_loss, validation_accuracy
        Of the weights after the epoch on the validation images; None without validation.
    learning_rate, gradient_norm
        The means over the steps of the epoch.
    seconds
        The time from the start of the training to the end of the epoch.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    gradient_norm: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights that were compared with others at the end of the training.

    Attributes
    ----------
    name
        `PROBE`, `epoch_name`, or a description: ``"moving average after epoch 3"``,
        ``"soup of epochs 2, 3"``.
    validation_loss, validation_accuracy
        Of these weights on the validation images; None without validation.
    """

    name: str
    validation_loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """A learning rate that was tried to choose one.

    Attributes
    ----------
    learning_rate
        The learning rate.
    validation_loss, validation_accuracy
        Of the moving average on the validation images at the end of the trial. The loss is
        calibrated: its logits are multiplied by the factor that makes it lowest.
    """

    learning_rate: float
    validation_loss: float
    validation_accuracy: float


_Record = TypeVar("_Record", StepRecord, EpochRecord, Candidate, Trial)

# Each table of a history, with the class of its rows.
_TABLES: Mapping[str, type[StepRecord] | type[EpochRecord] | type[Candidate] | type[Trial]] = {
    "steps": StepRecord,
    "epochs": EpochRecord,
    "candidates": Candidate,
    "trials": Trial,
}


@dataclass(frozen=True, slots=True)
class History:
    """The history of a training run.

    Attributes
    ----------
    steps
        One record for each step.
    epochs
        One record for each complete epoch.
    candidates
        The weights that were compared at the end.
    best
        The name of the candidate that was kept; None while the training is not complete.
    trials
        The learning rates that were tried; empty if the learning rate was given.
    choices
        What was chosen automatically, by name: numbers, text, True, False, None, or lists of
        these.
    interrupted
        Whether the training was stopped before its end.
    refit
        The history of the training on all images that followed; None if there was none. Its
        weights were kept.

    Raises
    ------
    ParameterError
        If ``best`` is not the name of a candidate.

    Examples
    --------
    >>> from transferkit.training import Candidate, EpochRecord, History
    >>> history = History(
    ...     epochs=(EpochRecord(1, 0.9, 0.6, 0.7, 0.75, 1e-3, 2.0, 4.1),),
    ...     candidates=(Candidate("probe", 0.8, 0.7), Candidate("epoch 1", 0.7, 0.75)),
    ...     best="epoch 1",
    ... )
    >>> history
    History(1 epoch, best: epoch 1, validation accuracy 0.7500)
    >>> History.from_dict(history.to_dict()) == history
    True
    """

    steps: Sequence[StepRecord] = ()
    epochs: Sequence[EpochRecord] = ()
    candidates: Sequence[Candidate] = ()
    best: str | None = None
    trials: Sequence[Trial] = ()
    choices: Mapping[str, object] = dataclasses.field(default_factory=dict)
    interrupted: bool = False
    refit: History | None = None

    def __post_init__(self) -> None:
        for name in _TABLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.best is not None and self._kept is None:
            names = ", ".join(candidate.name for candidate in self.candidates)
            raise ParameterError(
                f"best is {shorten(self.best)}; expected the name of a candidate: {shorten(names)}"
            )

    @property
    def _kept(self) -> Candidate | None:
        """The candidate that was kept; None if there is none yet."""
        return self._candidate(self.best)

    def _candidate(self, name: str | None) -> Candidate | None:
        return next((found for found in self.candidates if found.name == name), None)

    def to_pandas(self, what: str = "epochs") -> DataFrame:
        """Return the records as a data frame; requires pandas.

        Parameters
        ----------
        what
            ``"steps"``, ``"epochs"``, ``"candidates"`` or ``"trials"``.

        Returns
        -------
        pandas.DataFrame
            One row for each record, and one column for each of its attributes: int64, float64
            with NaN for None, or text.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.
        UnknownNameError
            If there are no such records.

        Examples
        --------
        >>> from transferkit.training import History, Trial
        >>> history = History(trials=(Trial(0.1, 0.9, 0.6), Trial(0.01, 0.7, 0.8)))
        >>> history.to_pandas("trials")["validation_loss"].tolist()
        [0.9, 0.7]
        """
        if what not in _TABLES:
            raise UnknownNameError("table", what, _TABLES, of="a history")
        pd = import_pandas()
        dtypes = {"int": np.int64, "str": object}
        return pd.DataFrame(
            {
                field.name: np.array(
                    _column(getattr(self, what), field.name),
                    dtypes.get(str(field.type), np.float64),
                )
                for field in dataclasses.fields(_TABLES[what])
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the history as data that JSON can express.

        Records become one list for each attribute. A number that is NaN or infinite, which JSON
        does not have, becomes ``{"float": "nan"}``, ``{"float": "inf"}`` or
        ``{"float": "-inf"}``.

        Raises
        ------
        ParameterError
            If one of ``choices`` is not a number, text, True, False, None, or a list of these.

        Examples
        --------
        >>> import math
        >>> from transferkit.training import History, Trial
        >>> history = History(trials=(Trial(0.1, math.inf, 0.6), Trial(0.01, 0.7, 0.8)))
        >>> history.to_dict()["trials"]["validation_loss"]
        [{'float': 'inf'}, 0.7]
        """
        return {
            **{
                name: {
                    field.name: _encode(name, _column(getattr(self, name), field.name))
                    for field in dataclasses.fields(kind)
                }
                for name, kind in _TABLES.items()
            },
            "best": self.best,
            "choices": {
                str(name): _encode(f"choices[{shorten(name)}]", value)
                for name, value in self.choices.items()
            },
            "interrupted": bool(self.interrupted),
            "refit": None if self.refit is None else self.refit.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: object) -> History:
        """Return the history that `to_dict` wrote.

        Raises
        ------
        ParameterError
            If an entry is missing, unknown or invalid; the message names it.

        Examples
        --------
        >>> from transferkit.training import History
        >>> History.from_dict(History(interrupted=True).to_dict()).interrupted
        True
        """
        entries = _entries("history", data, [field.name for field in dataclasses.fields(cls)])
        choices = entries["choices"]
        if not isinstance(choices, Mapping):
            raise ParameterError(f"choices is {shorten(choices)}; expected a mapping")
        best = entries["best"]
        return cls(
            steps=_records("steps", StepRecord, entries["steps"]),
            epochs=_records("epochs", EpochRecord, entries["epochs"]),
            candidates=_records("candidates", Candidate, entries["candidates"]),
            best=None if best is None else _text("best", best),
            trials=_records("trials", Trial, entries["trials"]),
            choices={
                str(name): _decode(f"choices[{shorten(name)}]", value)
                for name, value in choices.items()
            },
            interrupted=check_bool("interrupted", entries["interrupted"]),
            refit=None if entries["refit"] is None else cls.from_dict(entries["refit"]),
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Plot loss, accuracy and learning rate during the training to a PNG file.

        Training values are shown for each step, and as means at the middle of each epoch. The
        probe is a horizontal line. A star marks the weights that were kept: after their epoch, or
        at the end if they are not those after one epoch.

        Parameters
        ----------
        path
            Ends in ``.png``. An existing file is replaced when the new one is complete.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        with plot_file(path, 7, 7) as figure:
            self.draw(figure)

    def draw(self, figure: Figure) -> None:
        """Draw what `plot` does on an empty figure of matplotlib with constrained layout."""
        loss, accuracy, learning_rate = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1))
        self._draw("loss", loss)
        self._draw("accuracy", accuracy)
        unit, positions, _ = self._positions()
        learning_rate.plot(positions, _column(self.steps, "learning_rate"), color="C0")
        learning_rate.set_ylabel("learning rate")
        learning_rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        learning_rate.set_ylim(bottom=0)
        learning_rate.set_xlabel(unit)
        learning_rate.xaxis.get_major_locator().set_params(integer=True)
        for axes in (loss, accuracy, learning_rate):
            axes.grid(alpha=0.3)
        figure.align_ylabels()
        handles, labels = loss.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)

    def _draw(self, quantity: str, axes: Axes) -> None:
        """Draw the panel of the loss or the accuracy."""
        _, steps, epochs = self._positions()
        axes.set_ylabel(quantity)
        if self.steps:
            values = _drawable(self.steps, quantity)
            axes.plot(steps, values, color="C0", alpha=0.3, label="training, each step")
        if self.epochs:
            values = _drawable(self.epochs, quantity)
            middles = [epoch - 0.5 for epoch in epochs]
            axes.plot(middles, values, "o-", color="C0", label="training, mean of the epoch")
            validation = _drawable(self.epochs, f"validation_{quantity}")
            if not np.isnan(validation).all():
                axes.plot(epochs, validation, "s-", color="C1", label="validation")
        probe, kept = self._candidate(PROBE), self._kept
        if probe is not None and probe.validation_loss is not None:
            (value,) = _drawable([probe], f"validation_{quantity}")
            axes.axhline(value, color="0.4", linestyle="--", label="validation, probe")
        if kept is not None and kept.validation_loss is not None:
            (value,) = _drawable([kept], f"validation_{quantity}")
            named = {epoch_name(record.epoch): record.epoch for record in self.epochs}
            last = max([*steps, *epochs], default=0.0)
            position = 0.0 if kept.name == PROBE else named.get(kept.name, last)
            label = f"kept: {textwrap.shorten(kept.name, _MAX_NAME, placeholder=' ...')}"
            axes.plot(position, value, "*", color="C3", markersize=14, zorder=3, label=label)

    def _positions(self) -> tuple[str, list[float], list[float]]:
        """Return the unit of the horizontal axis, and the positions of steps and epochs on it."""
        if not self.epochs:
            return "step", [float(record.step) for record in self.steps], []
        lengths = Counter(record.epoch for record in self.steps)
        complete = {record.epoch for record in self.epochs}
        # The last epoch may be incomplete; it is assumed to be as long as the longest.
        longest = max(lengths.values(), default=1)
        before = dict.fromkeys(lengths, 0)
        steps = []
        for record in self.steps:
            before[record.epoch] += 1
            length = lengths[record.epoch] if record.epoch in complete else longest
            steps.append(record.epoch - 1 + before[record.epoch] / length)
        return "epoch", steps, [float(record.epoch) for record in self.epochs]

    def __repr__(self) -> str:
        number = len(self.epochs)
        parts = [f"{number} epoch{'' if number == 1 else 's'}"]
        kept = self._kept
        if kept is not None:
            parts.append(f"best: {kept.name}")
        if kept is not None and kept.validation_accuracy is not None:
            parts.append(f"validation accuracy {kept.validation_accuracy:.4f}")
        elif self.epochs:
            parts.append(f"training accuracy {self.epochs[-1].accuracy:.4f}")
        if self.refit is not None:
            parts.append("trained again on all images")
        if self.interrupted:
            parts.append("interrupted")
        return f"History({', '.join(parts)})"


def _column(records: Sequence[object], attribute: str) -> list[Any]:
    return [getattr(record, attribute) for record in records]


def _drawable(records: Sequence[object], attribute: str) -> npt.NDArray[np.float64]:
    """Return the values of an attribute, with NaN for None and infinity."""
    values = np.array(_column(records, attribute), np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _encode(name: str, value: object) -> Any:
    """Return a value as `History.to_dict` expresses it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_encode(name, item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ParameterError(
        f"{name} is {shorten(value)}; expected a number, text, True, False, None, or a list of "
        "these"
    )


def _decode(name: str, value: object) -> Any:
    """Return the value that `_encode` returned as ``value``."""
    if isinstance(value, list):
        return [_decode(name, item) for item in value]
    if isinstance(value, Mapping):
        (text,) = _entries(name, value, ["float"]).values()
        if text not in ("nan", "inf", "-inf"):
            raise ParameterError(f"{name} is {shorten(value)}; expected nan, inf or -inf")
        return float(text)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ParameterError(f"{name} is {shorten(value)}; expected a value that to_dict returns")


def _entries(name: str, data: object, expected: Sequence[str]) -> Mapping[str, object]:
    """Return a mapping that must have the expected entries, and no others."""
    if not isinstance(data, Mapping):
        raise ParameterError(f"{name} is {shorten(data)}; expected a mapping")
    if set(data) != set(expected):
        missing = ", ".join(entry for entry in expected if entry not in data) or "none"
        unknown = shorten(sorted(map(str, set(data) - set(expected))))
        raise ParameterError(f"{name}: missing entries: {missing}; unknown: {unknown}")
    return data


def _records(name: str, kind: type[_Record], data: object) -> tuple[_Record, ...]:
    """Return the records of a table that `History.to_dict` wrote."""
    fields = dataclasses.fields(kind)
    columns = []
    for field in fields:
        column = _entries(name, data, [each.name for each in fields])[field.name]
        if not isinstance(column, list):
            raise ParameterError(f"{name}[{field.name!r}] is {shorten(column)}; expected a list")
        # The types are text, because annotations are not evaluated.
        check = _CHECKS[str(field.type)]
        columns.append([check(f"{name}[{field.name!r}]", value) for value in column])
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ParameterError(f"{name}: lists of lengths {shorten(sorted(lengths))}; expected one")
    return tuple(kind(*row) for row in zip(*columns, strict=True))


def _float(name: str, value: object) -> float:
    value = _decode(name, value)
    if not is_number(value):
        raise ParameterError(f"{name} has {shorten(value)}; expected numbers")
    try:
        return float(value)
    except OverflowError:
        raise ParameterError(f"{name} has {shorten(value)}; expected a float") from None


def _float_or_none(name: str, value: object) -> float | None:
    return None if value is None else _float(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ParameterError(f"{name} is {shorten(value)}; expected text")
    return value


# The check of a value of a record, by the type of the attribute.
_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "int": lambda name, value: check_integer(name, value, 1),
    "float": _float,
    "float | None": _float_or_none,
    "str": _text,
}
