"""``transferkit evaluate``: test a saved classifier on labeled images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import check_output, parse_path, read_data_set
from transferkit.cli.console import print_line, print_table, write_csv
from transferkit.cli.evaluation import Report, print_evaluation, write_report
from transferkit.cli.options import Backend, BatchSize, Cache, Quiet

__all__ = ["evaluate"]

_TOP = 3


def evaluate(
    classifier: Annotated[
        Path,
        typer.Argument(
            parser=parse_path, metavar="FILE", help="A .safetensors file that 'fit' wrote."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class; or a table, such as a "
            ".csv file, with the path and label of each image.",
        ),
    ],
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            parser=parse_path,
            metavar="FILE",
            help="Write the true and predicted class of each image.",
        ),
    ] = None,
    report: Report = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    cache: Cache = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate a classifier on a folder of class folders.

    If a table has a column for the split, its rows of the split test are used. Prints the accuracy
    with its 95% confidence interval, other metrics, precision, recall and F1 of each class, and the
    classes that are confused most often.
    """
    from transferkit.classification import Classifier
    from transferkit.classification.evaluation import format_score
    from transferkit.reports import check_report
    from transferkit.support.atomic_write import write_atomically

    if csv_file is not None:
        check_output(csv_file, folder)
    if report is not None:
        check_report(report)
    data = read_data_set(folder, "test")
    model = Classifier.load(
        classifier,
        backend=backend,
        batch_size=batch_size,
        progress=False if quiet else None,
        cache=cache,
    )
    evaluation = model.evaluate(data, on_error="skip")
    rows = [
        (label, *map(format_score, (score.precision, score.recall, score.f1)), score.support)
        for label, score in evaluation.per_class.items()
    ]
    print_table(("class", "precision", "recall", "F1", "images"), rows)
    if len(evaluation.classes) > _TOP:
        print_line(f"top-{_TOP} accuracy: {evaluation.top_k(_TOP):.4f}")
    calibration = evaluation.calibration
    print_line(f"balanced accuracy: {evaluation.balanced_accuracy:.4f}")
    print_line(f"macro F1: {evaluation.macro_f1:.4f}")
    print_line(f"log loss: {evaluation.log_loss:.4f}")
    print_line(
        f"expected calibration error: {calibration.ece:.4f} (with exactly right probabilities "
        f"{calibration.ece_by_chance:.4f} on average)"
    )
    print_evaluation(evaluation, f"of {folder}")
    if csv_file is not None:
        labels = evaluation.classes.tolist()
        predictions = (
            (source, labels[true], labels[predicted], f"{probabilities[predicted]:.6f}")
            for source, true, predicted, probabilities in zip(
                evaluation.sources,
                evaluation.label_indices,
                evaluation.predicted_indices,
                evaluation.probabilities,
                strict=True,
            )
        )
        with write_atomically(csv_file) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            write_csv(text, ("source", "label", "predicted", "probability"), predictions)
            text.detach()
        print_line(f"saved {csv_file}")
    if report is not None:
        write_report(evaluation, report)
