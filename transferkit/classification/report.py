"""The report of an evaluation: one HTML file with the metrics, the mistakes and the provenance."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from transferkit.classification.calibration import Calibration
from transferkit.classification.evaluation_plots import draw_calibration
from transferkit.classification.provenance import Provenance
from transferkit.images import ImageLike, Skipped
from transferkit.reports import Thumbnail, chart, make_thumbnails, write_page
from transferkit.training.history import History

__all__ = ["write_report"]

_MAX_PHOTOS = 24
_MAX_PAIRS = 10
_TOP = 3
# A matrix of more classes would be larger than the page may be, and unreadable.
_MAX_CLASSES_OF_MATRIX = 60
_MAX_SKIPPED = 100
# How strongly the share of images colors a cell: text on it stays readable.
_MAX_OPACITY = 0.35


class _Score(Protocol):
    """What the report needs of the score of a class."""

    @property
    def precision(self) -> float | None: ...
    @property
    def recall(self) -> float | None: ...
    @property
    def f1(self) -> float | None: ...
    @property
    def support(self) -> int: ...


class _Image(Protocol):
    """What it needs of an evaluated image."""

    @property
    def source(self) -> str: ...
    @property
    def label(self) -> Hashable: ...
    @property
    def predicted(self) -> Hashable: ...
    @property
    def probability(self) -> float: ...


class _Evaluation(Protocol):
    """What it needs of an `Evaluation`, whose module imports this one."""

    @property
    def classes(self) -> npt.NDArray[np.generic]: ...
    @property
    def label_indices(self) -> npt.NDArray[np.intp]: ...
    @property
    def sources(self) -> list[str]: ...
    @property
    def skipped(self) -> list[Skipped]: ...
    @property
    def images(self) -> Sequence[ImageLike] | None: ...
    @property
    def temperature(self) -> float | None: ...
    @property
    def history(self) -> History | None: ...
    @property
    def provenance(self) -> Provenance | None: ...
    @property
    def confusion_matrix(self) -> npt.NDArray[np.intp]: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def balanced_accuracy(self) -> float: ...
    @property
    def macro_f1(self) -> float: ...
    @property
    def log_loss(self) -> float: ...
    @property
    def roc_auc(self) -> float | None: ...
    @property
    def average_precision(self) -> float | None: ...
    @property
    def calibration(self) -> Calibration: ...
    @property
    def per_class(self) -> Mapping[Hashable, _Score]: ...
    @property
    def mistakes(self) -> Sequence[_Image]: ...
    def top_k(self, k: int) -> float: ...
    def interval_of(self, metric: str) -> tuple[float, float] | None: ...
    def least_confident(self, number: int) -> Sequence[_Image]: ...
    def worst_pairs(self, number: int) -> Sequence[Sequence[object]]: ...


def write_report(
    path: str | os.PathLike[str], evaluation: _Evaluation, command: str | None
) -> None:
    """Write the report of an evaluation.

    Parameters
    ----------
    path
        Ends in ``.html``.
    evaluation
        The evaluation.
    command
        The command that repeats it; None: unknown.

    Raises
    ------
    UnsupportedError
        If Jinja or matplotlib is not installed.
    OutputError
        If the file cannot be written, or its name does not end in ``.html``.
    """
    write_page(path, "evaluation.html", _content(evaluation, command))


def _content(evaluation: _Evaluation, command: str | None) -> dict[str, Any]:
    """Return the variables of the template."""
    number = len(evaluation.label_indices)
    mistakes = evaluation.mistakes
    uncertain = evaluation.least_confident(min(_MAX_PHOTOS, number))
    calibration = evaluation.calibration
    provenance = evaluation.provenance
    low, high = evaluation.interval
    shown = [image.source for image in mistakes[:_MAX_PHOTOS]]
    shown += [image.source for image in uncertain]
    thumbnails = _thumbnails(evaluation, shown)
    return {
        "number": number,
        "num_correct": number - len(mistakes),
        "num_classes": len(evaluation.classes),
        "network": None if provenance is None else provenance.network,
        "accuracy": evaluation.accuracy,
        "low": low,
        "high": high,
        "metrics": _metrics(evaluation),
        "per_class": _per_class(evaluation),
        "matrix": _matrix(evaluation),
        "pairs": evaluation.worst_pairs(_MAX_PAIRS),
        "calibration": calibration,
        "reliability": chart(
            lambda figure: draw_calibration(figure, calibration),
            width=5,
            height=4.5,
            title="Reliability diagram: accuracy over probability",
        ),
        "bins": [
            (f"{entry.low:.1f} to {entry.high:.1f}", entry.images, *_decimals(entry[3:], 3))
            for entry in calibration.bins
            if entry.images
        ],
        "curves": _curves(evaluation.history),
        "num_mistakes": len(mistakes),
        "mistakes": _photos(mistakes[:_MAX_PHOTOS], thumbnails),
        "uncertain": _photos(uncertain, thumbnails),
        "skipped": [
            (f"{image.source}", image.reason) for image in evaluation.skipped[:_MAX_SKIPPED]
        ],
        "num_skipped": len(evaluation.skipped),
        "skipped_in_fit": []
        if provenance is None
        else [(image.source, image.reason) for image in provenance.skipped[:_MAX_SKIPPED]],
        "num_skipped_in_fit": 0 if provenance is None else len(provenance.skipped),
        "provenance": _provenance(evaluation),
        "command": command,
    }


def _metrics(evaluation: _Evaluation) -> list[tuple[str, str, str]]:
    """Return the name, the value and the interval of each metric."""

    def interval(name: str) -> str:
        found = evaluation.interval_of(name)
        return "-" if found is None else " to ".join(_decimals(found, 4))

    low, high = evaluation.interval
    rows = [("Accuracy", evaluation.accuracy, f"{low:.4f} to {high:.4f}")]
    if len(evaluation.classes) > _TOP:
        rows.append((f"Top-{_TOP} accuracy", evaluation.top_k(_TOP), "-"))
    rows += [
        ("Balanced accuracy", evaluation.balanced_accuracy, interval("balanced_accuracy")),
        ("Macro F1", evaluation.macro_f1, interval("macro_f1")),
        ("Log loss (lower is better)", evaluation.log_loss, interval("log_loss")),
    ]
    if evaluation.roc_auc is not None and evaluation.average_precision is not None:
        rows += [
            ("Area under the ROC curve", evaluation.roc_auc, "-"),
            ("Average precision", evaluation.average_precision, "-"),
        ]
    return [(name, f"{value:.4f}", interval) for name, value, interval in rows]


def _per_class(evaluation: _Evaluation) -> list[tuple[str, ...]]:
    return [
        (
            str(label),
            *_decimals((score.precision, score.recall, score.f1), 3),
            str(score.support),
        )
        for label, score in evaluation.per_class.items()
    ]


def _matrix(evaluation: _Evaluation) -> list[tuple[str, list[tuple[int, float, bool]]]] | None:
    """Return the label and the cells of each row: number, opacity, whether it is correct."""
    matrix = evaluation.confusion_matrix
    if len(matrix) > _MAX_CLASSES_OF_MATRIX:
        return None
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return [
        (
            str(label),
            [
                (count, round(_MAX_OPACITY * share, 3), row == column)
                for column, (count, share) in enumerate(
                    zip(matrix[row].tolist(), shares[row].tolist(), strict=True)
                )
            ],
        )
        for row, label in enumerate(evaluation.classes.tolist())
    ]


def _curves(history: History | None) -> list[tuple[str, str]]:
    """Return a title and a chart of each run of a fine-tuning."""
    runs = [("Training and validation", history)]
    if history is not None and history.refit is not None:
        runs.append(("Second run, on all images", history.refit))
    return [
        (title, chart(run.draw, width=7, height=6, title=f"{title}: loss and accuracy"))
        for title, run in runs
        if run is not None and run.epochs
    ]


def _thumbnails(evaluation: _Evaluation, sources: Sequence[str]) -> dict[str, Thumbnail]:
    images = evaluation.images
    if images is None:
        return make_thumbnails({source: Path(source) for source in sources})
    by_source = dict(zip(evaluation.sources, images, strict=True))
    return make_thumbnails({source: by_source[source] for source in sources})


def _photos(images: Sequence[_Image], thumbnails: dict[str, Thumbnail]) -> list[dict[str, Any]]:
    return [
        {
            "thumbnail": thumbnails[image.source],
            "name": "/".join(Path(image.source).parts[-2:]),
            "label": str(image.label),
            "predicted": str(image.predicted),
            "is_correct": image.label == image.predicted,
            "probability": f"{image.probability:.3f}",
        }
        for image in images
    ]


def _provenance(evaluation: _Evaluation) -> list[tuple[str, str]]:
    provenance = evaluation.provenance
    if provenance is None:
        return []
    preprocessing = ", ".join(f"{name} {value}" for name, value in provenance.preprocessing.items())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    facts: list[tuple[str, object]] = [
        ("Network", provenance.network),
        ("SHA-256 of its weights", provenance.weights_digest),
        ("License of the published weights", provenance.license),
        ("Preprocessing", preprocessing),
        ("Classifier", " ".join(provenance.parameters.split())),
        ("C", provenance.C),
        ("Training images", provenance.num_images),
        ("Temperature", evaluation.temperature),
        ("Seed", provenance.seed),
        ("Backend", provenance.backend),
        ("Versions", versions),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _decimals(values: Sequence[float | None], digits: int) -> list[str]:
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]
