"""``transferkit fit``: train a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import parse_path, read_data_set
from transferkit.cli.console import format_count, print_line, print_skipped, print_warning
from transferkit.cli.evaluation import Report, format_accuracy, print_evaluation, write_report
from transferkit.cli.options import (
    CLASSIFIER_SUFFIX,
    DEFAULT_NETWORK,
    DEFAULT_PRECISION,
    Backend,
    BatchSize,
    Cache,
    Network,
    Precision,
    Quiet,
    Seed,
    Weights,
)
from transferkit.errors import DatasetError, OutputError

if TYPE_CHECKING:
    from transferkit.classification import Classifier, Evaluation
    from transferkit.datasets import LabelledImages
    from transferkit.training import History

__all__ = ["fit"]

_MAX_CLASSES_PRINTED = 8


def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class; or a table, such as a "
            ".csv file, with the path and label of each image.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FILE",
            help="The .safetensors file to write.",
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FOLDER", help="A labeled folder or table to test on."
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="The fraction of the images of each class to use for testing instead of "
            "training, such as 0.2.",
        ),
    ] = None,
    report: Report = None,
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
    fine_tune: Annotated[
        bool,
        typer.Option(
            "--fine-tune",
            help="Also train the network, with a backend that can: torch or tensorflow.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of epochs of --fine-tune.",
            show_default="by the number of images",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="The learning rate of --fine-tune, greater than 0.",
            show_default="chosen by short trials",
        ),
    ] = None,
    trainable: Annotated[
        str,
        typer.Option(
            metavar="LAYER",
            help="What --fine-tune trains: all, head, or a layer and everything after it.",
        ),
    ] = "all",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder in which --fine-tune writes its state after each epoch, and from which "
            "the same command resumes.",
        ),
    ] = None,
    precision: Precision = DEFAULT_PRECISION,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    cache: Cache = None,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a folder of class folders.

    The class folders are subfolders with the images of one class each, named after the class.
    Images that cannot be read are skipped and listed at the end. If a table has a column for the
    split, its rows of the split train are used, and those of test for testing. Images with the same
    content are held out together. Without --test, --holdout or --C, prints the accuracy of the
    cross-validation that chooses C. With --fine-tune, Ctrl-C ends the training, and the best
    weights so far are saved.
    """
    from transferkit.classification.classifier import Classifier
    from transferkit.classification.fine_tuning import FineTuning

    _check_arguments(output, report, test, holdout)
    settings = None
    if fine_tune:
        settings = FineTuning(
            epochs=epochs,
            learning_rate=learning_rate,
            trainable=trainable,
            checkpoint=checkpoint,
        )
    elif (epochs, learning_rate, trainable, checkpoint) != (None, None, "all", None):
        raise typer.BadParameter(
            "--epochs, --learning-rate, --trainable and --checkpoint need --fine-tune"
        )
    data = read_data_set(folder, "train")
    tested = None if test is None else read_data_set(test, "test")
    if tested is not None:
        _check_test(tested, data, str(test), str(folder))
    classifier = Classifier(
        network,
        C=inverse_regularization,
        weights=weights,
        backend=backend,
        random_state=seed,
        batch_size=batch_size,
        progress=False if quiet else None,
        fine_tuning=settings,
        precision=precision,
        cache=cache,
    )
    if holdout is not None:
        data, tested = data.split(holdout, random_state=seed)
    classifier.fit(data, on_error="skip")
    classifier.save(output)
    print_skipped(classifier.skipped_)
    classes = [str(label) for label in classifier.classes_.tolist()]
    names = ", ".join(classes[:_MAX_CLASSES_PRINTED])
    if len(classes) > _MAX_CLASSES_PRINTED:
        names += ", ..."
    print_line(f"saved {output}: {len(classes)} classes ({names}), C = {classifier.C_:g}")
    if precision != DEFAULT_PRECISION:
        number = format_count(classifier.calibration_.num_images, "image")
        print_line(f"{precision}, calibrated on {number}")
    _print_history(classifier.history_)
    evaluation = None if tested is None else classifier.evaluate(tested, on_error="skip")
    _print_accuracy(classifier, evaluation, "held out" if test is None else f"of {test}", report)


def _check_arguments(
    output: Path, report: Path | None, test: Path | None, holdout: float | None
) -> None:
    """Check everything that can be checked before the network runs."""
    from transferkit.reports import check_report
    from transferkit.support.atomic_write import check_writable

    if output.suffix != CLASSIFIER_SUFFIX:
        raise OutputError(f"{output}: expected a file name that ends in {CLASSIFIER_SUFFIX}")
    check_writable(output)
    if report is not None:
        if test is None and holdout is None:
            raise typer.BadParameter("--report needs --test or --holdout")
        check_report(report)
    if holdout is not None and test is not None:
        raise typer.BadParameter("--test and --holdout cannot be used together")
    if holdout is not None and not 0 < holdout < 1:
        raise typer.BadParameter(f"--holdout is {holdout:g}; expected a fraction such as 0.2")


def _print_accuracy(
    classifier: Classifier, evaluation: Evaluation | None, where: str, report: Path | None
) -> None:
    """Print an evaluation and write its report, or print the cross-validated accuracy."""
    if evaluation is not None:
        print_evaluation(evaluation, where)
        if report is not None:
            write_report(evaluation, report)
    elif classifier.cv_accuracy_ is not None and classifier.n_samples_fit_ is not None:
        number = classifier.n_samples_fit_
        accuracy = format_accuracy(classifier.cv_accuracy_, number)
        # The folds are those of the head on the frozen network.
        of_probe = "" if classifier.history_ is None else " of the probe"
        print_line(
            f"cross-validated accuracy{of_probe} on {format_count(number, 'image')}: {accuracy}"
        )


def _check_test(tested: LabelledImages, data: LabelledImages, test: str, train: str) -> None:
    """Check the classes of the test images, and warn of exact copies of training images.

    Raises
    ------
    DatasetError
        If classes are unknown.
    """
    from transferkit.inspection import exact_copies

    if unknown := set(tested.counts) - set(data.counts):
        names = ", ".join(sorted(map(str, unknown))[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DatasetError(f"{test}: {len(unknown)} of its classes are not in {train}: {names}")
    if tested.sources == data.sources:
        print_warning(
            f"warning: {test} is also the training folder: the accuracy on new images may be lower"
        )
        return
    copies = exact_copies(data.sources, tested.sources)
    if copies:
        number = format_count(len(copies), "test image")
        verb = "is a copy" if len(copies) == 1 else "are copies"
        print_warning(
            f"warning: {number} {verb} of training images, such as {copies[0][0]} of "
            f"{copies[0][1]}: the accuracy on new images may be lower; 'transferkit inspect' also "
            "finds copies that were re-saved, resized, mirrored or cropped"
        )


def _print_history(history: History | None) -> None:
    """Print what the fine-tuning chose and kept."""
    from transferkit.training.history import PROBE

    if history is None:
        return
    for name, value in history.choices.items():
        print_line(f"chosen: {name.replace('_', ' ')} {_format_choice(value)}")
    scores = {
        candidate.name: f"validation accuracy {candidate.validation_accuracy:.4f}, loss "
        f"{candidate.validation_loss:.4f}"
        for candidate in history.candidates
        if candidate.validation_accuracy is not None
    }
    kept = str(history.best)
    print_line(": ".join((f"kept {kept}", *([scores[kept]] if kept in scores else []))))
    if kept != PROBE and PROBE in scores:
        print_line(f"{PROBE}: {scores[PROBE]}")
    if history.refit is not None:
        print_line("trained again on all images with what was chosen")


def _format_choice(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
