"""``transferkit fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.console import printable, report_skipped, say, show_table, warn
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    MODEL_SUFFIX,
    Backend,
    BatchSize,
    Network,
    Quiet,
    Weights,
)
from transferkit.errors import DatasetError, OutputError

__all__ = ["fit"]


def fit(
    images: Annotated[Path, typer.Argument(help="A folder with one subfolder of images a class.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to save to.")],
    test: Annotated[Path | None, typer.Option(help="Such a folder to judge on.")] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--C", help="Inverse regularisation strength. By default: chosen by cross-validation."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For drawing the folds of cross-validation.")] = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Make a classifier of a folder of labelled folders."""
    from transferkit.classification.classifier import Classifier
    from transferkit.images import list_labeled_images
    from transferkit.support.atomic_write import check_writable

    # Found out now rather than after the work.
    if output.suffix != MODEL_SUFFIX:
        raise OutputError(f"{output}: end the name of a classifier's file in {MODEL_SUFFIX}")
    check_writable(output)
    labels = set(list_labeled_images(images)[1])
    if test is not None and (unknown := set(list_labeled_images(test)[1]) - labels):
        names = ", ".join(sorted(unknown)[:5])
        raise DatasetError(
            f"{test}: {len(unknown)} class folders that {images} does not have: {names}"
        )
    classifier = Classifier(
        network,
        C=strength,
        weights=weights,
        backend=backend,
        random_state=seed,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    classifier.fit(images, on_error="skip")
    classifier.save(output)
    if test is not None and test.resolve() == images.resolve():
        warn(f"{test} is what was learnt from: the accuracy says nothing of other images")
    report_skipped(classifier.skipped_)
    number = len(classifier.classes_)
    names = ", ".join(classifier.classes_[:8].tolist()) + (", ..." if number > 8 else "")
    say(f"saved {output}: {number} classes ({names}), C = {classifier.C_:g}")
    if test is not None:
        evaluation = classifier.evaluate(test, on_error="skip")
        number = int(evaluation.confusion_matrix.sum())
        say(f"accuracy on {number} images of {test}: {evaluation.accuracy:.4f}")
        pairs = evaluation.worst_pairs()
        if pairs:
            say("most often confused:")
            rows = [
                (printable(str(pair.label)), printable(str(pair.predicted)), pair.images)
                for pair in pairs
            ]
            show_table(("is", "taken for", "images"), rows)
        report_skipped(evaluation.skipped)
