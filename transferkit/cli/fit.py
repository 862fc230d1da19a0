"""``transferkit fit``: train a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import parse_path
from transferkit.cli.console import format_count, print_line, print_skipped, print_warning
from transferkit.cli.evaluation import format_accuracy, print_evaluation
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
    from transferkit.images import Skipped
    from transferkit.training import History

__all__ = ["fit"]

_MAX_CLASSES_PRINTED = 8


def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class.",
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
        typer.Option(parser=parse_path, metavar="FOLDER", help="A labeled folder to test on."),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="The fraction of the images of each class to use for testing instead of "
            "training, such as 0.2.",
        ),
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
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a folder of class folders.

    The class folders are subfolders with the images of one class each, named after the class.
    Images that cannot be read are skipped and listed at the end. Without --test, --holdout or --C,
    prints the accuracy of the cross-validation that chooses C. With --fine-tune, Ctrl-C ends the
    training, and the best weights so far are saved.
    """
    from transferkit.classification.classifier import Classifier
    from transferkit.classification.fine_tuning import FineTuning
    from transferkit.images import list_labeled_images
    from transferkit.support.atomic_write import check_writable

    # Everything that can be checked before the network runs is checked here.
    if output.suffix != CLASSIFIER_SUFFIX:
        raise OutputError(f"{output}: expected a file name that ends in {CLASSIFIER_SUFFIX}")
    check_writable(output)
    if holdout is not None and test is not None:
        raise typer.BadParameter("--test and --holdout cannot be used together")
    if holdout is not None and not 0 < holdout < 1:
        raise typer.BadParameter(f"--holdout is {holdout:g}; expected a fraction such as 0.2")
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
    skipped: list[Skipped] = []
    X, y = list_labeled_images(folder, on_error="skip", skipped=skipped)
    if test is not None:
        _check_test(test, folder, X, set(y))
    classifier = Classifier(
        network,
        C=inverse_regularization,
        weights=weights,
        backend=backend,
        random_state=seed,
        batch_size=batch_size,
        progress=False if quiet else None,
        fine_tuning=settings,
    )
    if holdout is not None:
        X, held_out, y, labels_held_out = _split(X, y, holdout, seed)
    classifier.fit(X, y, on_error="skip")
    classifier.save(output)
    if test is not None and test.resolve() == folder.resolve():
        print_warning(
            f"{test} is also the training folder: the accuracy on new images may be lower"
        )
    print_skipped(skipped + classifier.skipped_)
    classes = classifier.classes_.tolist()
    names = ", ".join(classes[:_MAX_CLASSES_PRINTED])
    if len(classes) > _MAX_CLASSES_PRINTED:
        names += ", ..."
    print_line(f"saved {output}: {len(classes)} classes ({names}), C = {classifier.C_:g}")
    _print_history(classifier.history_)
    if test is not None:
        print_evaluation(classifier.evaluate(test, on_error="skip"), f"of {test}")
    elif holdout is not None:
        print_evaluation(
            classifier.evaluate(held_out, labels_held_out, on_error="skip"), "held out"
        )
    elif classifier.cv_accuracy_ is not None and classifier.n_samples_fit_ is not None:
        number = classifier.n_samples_fit_
        accuracy = format_accuracy(classifier.cv_accuracy_, number)
        print_line(f"cross-validated accuracy on {format_count(number, 'image')}: {accuracy}")


def _check_test(test: Path, folder: Path, train: list[Path], labels: set[str]) -> None:
    """Check the classes of the test images, and warn of exact copies of training images.

    Raises
    ------
    DatasetError
        If classes are unknown.
    """
    from transferkit.images import list_labeled_images
    from transferkit.inspection.leaks import exact_copies

    images, test_labels = list_labeled_images(test)
    if unknown := set(test_labels) - labels:
        names = ", ".join(sorted(unknown)[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DatasetError(f"{test}: {len(unknown)} of its classes are not in {folder}: {names}")
    if test.resolve() == folder.resolve():
        # A warning after the training says so.
        return
    copies = exact_copies(train, images)
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


def _split(
    X: list[Path], y: list[str], fraction: float, seed: int
) -> tuple[list[Path], list[Path], list[str], list[str]]:
    """Split labeled images into training and test images, each class in proportion.

    Raises
    ------
    DatasetError
        If a class has too few images.
    """
    from sklearn.model_selection import train_test_split

    try:
        train, test, y_train, y_test = train_test_split(
            X, y, test_size=fraction, stratify=y, random_state=seed
        )
    except ValueError as error:
        raise DatasetError(
            f"the images cannot be split by --holdout {fraction:g}: {error}"
        ) from error
    return train, test, y_train, y_test
