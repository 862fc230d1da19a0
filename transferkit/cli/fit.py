"""``transferkit fit``: train a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.console import (
    print_line,
    print_skipped,
    print_table,
    print_warning,
)
from transferkit.cli.options import (
    CLASSIFIER_SUFFIX,
    DEFAULT_NETWORK,
    Backend,
    BatchSize,
    Network,
    Quiet,
    Seed,
    Weights,
)
from transferkit.errors import DatasetError, OutputError

if TYPE_CHECKING:
    from transferkit.classification import Evaluation

__all__ = ["fit"]

_MAX_CLASSES_PRINTED = 8


def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A folder with one subfolder of images for each class."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The .safetensors file to write."),
    ],
    test: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A labeled folder to test on.")
    ] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    inverse_regularization: Annotated[
        float | None,
        typer.Option(
            "--C",
            metavar="C",
            help="Inverse regularization strength, greater than 0.",
            show_default="chosen by cross-validation",
        ),
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a folder of class folders.

    The class folders are subfolders with the images of one class each, named after the class.
    Images that cannot be read are skipped and listed at the end.
    """
    from transferkit.classification.classifier import Classifier
    from transferkit.images import list_labeled_images
    from transferkit.support.atomic_write import check_writable

    # Everything that can be checked before the network runs is checked here.
    if output.suffix != CLASSIFIER_SUFFIX:
        raise OutputError(f"{output}: expected a file name that ends in {CLASSIFIER_SUFFIX}")
    check_writable(output)
    labels = set(list_labeled_images(folder)[1])
    if test is not None and (unknown := set(list_labeled_images(test)[1]) - labels):
        names = ", ".join(sorted(unknown)[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DatasetError(f"{test}: {len(unknown)} of its classes are not in {folder}: {names}")
    classifier = Classifier(
        network,
        C=inverse_regularization,
        weights=weights,
        backend=backend,
        random_state=seed,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    classifier.fit(folder, on_error="skip")
    classifier.save(output)
    if test is not None and test.resolve() == folder.resolve():
        print_warning(
            f"{test} is also the training folder: the accuracy on new images may be lower"
        )
    print_skipped(classifier.skipped_)
    classes = classifier.classes_.tolist()
    names = ", ".join(classes[:_MAX_CLASSES_PRINTED])
    if len(classes) > _MAX_CLASSES_PRINTED:
        names += ", ..."
    print_line(f"saved {output}: {len(classes)} classes ({names}), C = {classifier.C_:g}")
    if test is not None:
        _print_evaluation(classifier.evaluate(test, on_error="skip"), test)


def _print_evaluation(evaluation: Evaluation, folder: Path) -> None:
    number = int(evaluation.confusion_matrix.sum())
    print_line(f"accuracy on {number} images of {folder}: {evaluation.accuracy:.4f}")
    confusions = evaluation.worst_pairs()
    if confusions:
        print_line("most frequent confusions:")
        print_table(("true class", "predicted class", "images"), confusions)
    print_skipped(evaluation.skipped)
