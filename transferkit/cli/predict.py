"""``transferkit predict``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import list_files
from transferkit.cli.console import printable, report_skipped, show_table
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    MODEL_SUFFIX,
    Backend,
    BatchSize,
    Quiet,
    Weights,
)

if TYPE_CHECKING:
    from transferkit.classification import Classifier
    from transferkit.features import Features

__all__ = ["predict"]


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A file saved by 'fit' (.safetensors), then images or folders of them. Without "
            "such a file: ImageNet's classes."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to give for each image.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    network: Annotated[
        str | None,
        typer.Option(
            help="Without such a file: the network; 'transferkit networks' lists them. "
            "[default: mobilenet_v2]"
        ),
    ] = None,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Classify images."""
    from transferkit.classification.classifier import Classifier, top_predictions

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    progress = False if quiet else None
    misplaced = [path for path in paths[1:] if path.suffix == MODEL_SUFFIX]
    if misplaced:
        raise typer.BadParameter(f"{misplaced[0]}: give the classifier's file first")
    if paths[0].suffix == MODEL_SUFFIX:
        for option, given in (("--network", network), ("--weights", weights)):
            if given is not None:
                raise typer.BadParameter(
                    f"{paths[0]}: has its own network and weights; leave out {option}"
                )
        classifier = Classifier.load(paths[0], backend=backend)
        paths = paths[1:]
    else:
        classifier = Classifier.pretrained(
            network or DEFAULT_NETWORK, weights=weights, backend=backend
        )
    found = _probabilities(classifier, paths, batch_size, progress)
    rows = [
        (source, top_predictions(classifier.classes_, probabilities, top))
        for source, probabilities in zip(found.sources, found["probabilities"], strict=True)
    ]
    if as_json:
        images = [
            {"source": source, "predictions": [best._asdict() for best in predictions]}
            for source, predictions in rows
        ]
        skipped = [{"source": left.source, "reason": left.reason} for left in found.skipped]
        json.dump({"images": images, "skipped": skipped}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif as_csv:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name need not be text; a program gets the bytes that it is made of.
            sys.stdout.reconfigure(errors="surrogateescape")
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("source", "rank", "label", "probability"))
        for source, predictions in rows:
            for rank, (label, probability) in enumerate(predictions, start=1):
                writer.writerow((source, rank, label, f"{probability:.6f}"))
    else:
        show_table(
            ("image", "class", "probability"),
            [
                (
                    printable(source) if rank == 0 else "",
                    printable(str(label)),
                    f"{probability:.3f}",
                )
                for source, predictions in rows
                for rank, (label, probability) in enumerate(predictions)
            ],
        )
    report_skipped(found.skipped)


def _probabilities(
    classifier: Classifier, paths: Sequence[Path], batch_size: int, progress: bool | None
) -> Features:
    """The classifier's probabilities, with what cannot be read left out."""
    from transferkit.features.extractor import FeatureExtractor

    extractor = FeatureExtractor(
        classifier.model_,
        backend=classifier.backend,
        batch_size=batch_size,
        progress=progress,
    )
    return extractor.extract(list_files(paths), ["probabilities"], on_error="skip")
