"""The rows of a comparison, and how their values are written in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transferkit.training.history import PROBE

__all__ = [
    "ACCURACY_COLUMNS",
    "FINE_TUNED",
    "SIZE_COLUMNS",
    "ComparedNetwork",
    "format_accuracy",
    "format_size",
    "label_of",
]

FINE_TUNED = "fine-tuned"

ACCURACY_COLUMNS = ("network", "accuracy", "95% interval", "difference", "95% interval", "LogME")
"""The columns of the first table for people; see `format_accuracy`."""

SIZE_COLUMNS = ("network", "weights", "images/s", "backend", "parameters", "MB", "license")
"""The columns of the second; see `format_size`."""

_NONE = "-"


class ComparedNetwork(NamedTuple):
    """A row of `Comparison.table`. What does not apply, or is unknown, is None.

    Attributes
    ----------
    network
        Its name.
    method
        ``"probe"``, logistic regression on the embedding of the unchanged network; or
        ``"fine-tuned"``.
    weights
        The name of its weights; ``"its own"`` for a model.
    accuracy
        The cross-validated accuracy, in [0, 1].
    low, high
        Its 95% confidence interval, by Wilson's method.
    difference
        The accuracy minus that of the best row, at most 0, on the images that both have.
    difference_low, difference_high
        Its 95% confidence interval; see `paired_interval`.
    logme
        See `transferkit.comparison.logme`.
    images_per_second
        The measured speed of the network, without the reading of images.
    backend
        The backend that ran it.
    parameters
        The number of its parameters.
    megabytes
        Their size in float32, in units of 10^6 bytes.
    license
        SPDX identifier of the license of published weights.
    images
        The number of images that it was tested on.
    error
        Why there is no result.
    """

    network: str
    method: str
    weights: str
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    logme: float | None = None
    images_per_second: float | None = None
    backend: str | None = None
    parameters: int | None = None
    megabytes: float | None = None
    license: str | None = None
    images: int | None = None
    error: str | None = None


def label_of(row: ComparedNetwork) -> str:
    """Return the name of a row: the network, and how it was trained if not as a probe."""
    return row.network if row.method == PROBE else f"{row.network}, {row.method}"


def format_accuracy(row: ComparedNetwork) -> Sequence[str]:
    """Return the values of a row that has a result, as text for `ACCURACY_COLUMNS`."""
    is_best = row.difference == row.difference_low == row.difference_high == 0
    return (
        label_of(row),
        _format(row.accuracy, ".4f"),
        _format_interval(row.low, row.high, ".4f"),
        "best" if is_best else _format(row.difference, "+.4f"),
        "" if is_best else _format_interval(row.difference_low, row.difference_high, "+.4f"),
        _format(row.logme, ".3f"),
    )


def format_size(row: ComparedNetwork) -> Sequence[str]:
    """Return the values of a row that has a result, as text for `SIZE_COLUMNS`."""
    return (
        label_of(row),
        row.weights,
        _format_speed(row.images_per_second),
        row.backend or _NONE,
        _NONE if row.parameters is None else f"{row.parameters / 1e6:.3g} M",
        _format(row.megabytes, ".1f"),
        row.license or _NONE,
    )


def _format(value: float | None, specification: str) -> str:
    return _NONE if value is None else format(value, specification)


def _format_interval(low: float | None, high: float | None, specification: str) -> str:
    if low is None or high is None:
        return _NONE
    return f"{low:{specification}} to {high:{specification}}"


def _format_speed(value: float | None) -> str:
    """Return a speed with three significant digits: a measurement has no more."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
