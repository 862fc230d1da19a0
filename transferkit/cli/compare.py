"""``transferkit compare``: compare networks on labeled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import parse_path, read_data_set
from transferkit.cli.console import print_line, print_skipped, print_table, print_warning
from transferkit.cli.options import Backend, BatchSize, Quiet, Seed

__all__ = ["compare"]


def compare(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class; or a table, such as a "
            ".csv file, with the path and label of each image.",
        ),
    ],
    networks: Annotated[
        list[str],
        typer.Argument(metavar="NETWORK", help="The networks; 'transferkit networks' lists them."),
    ],
    fine_tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="One of the networks, to fine-tune it as well, with a backend that can: torch or "
            "tensorflow. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=parse_path, metavar="FILE", help="The .html page to write."
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", parser=parse_path, metavar="FILE", help="Write the table as JSON."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE", help="Plot the accuracy over speed to a .png file."
        ),
    ] = None,
    cv: Annotated[
        int, typer.Option(metavar="N", min=2, help="Number of folds of the cross-validation.")
    ] = 5,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The weights of all networks, as for 'transferkit fit'; or NETWORK=NAME for those "
            "of one, which may be repeated.",
            show_default="the first that 'transferkit networks' lists",
        ),
    ] = None,
    backend: Backend = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Compare networks on a folder of class folders.

    If a table has a column for the split, its rows of the split train are used.
    Each network runs once over the images; a classifier on its output is tested by a
    cross-validation with the same folds for all. Prints accuracy with its 95% confidence interval,
    the difference to the best, LogME, speed, size and license. Images that cannot be read are
    skipped. A network that fails is listed with the reason. After Ctrl-C, the networks that are
    finished are kept.
    """
    from transferkit.comparison import compare as compare_networks
    from transferkit.comparison.table import (
        ACCURACY_COLUMNS,
        SIZE_COLUMNS,
        format_accuracy,
        format_size,
        label_of,
    )
    from transferkit.reports import check_report
    from transferkit.support.atomic_write import check_writable
    from transferkit.support.plots import check_plot

    # Everything that can be checked before the networks run is checked here.
    if output is not None:
        check_report(output)
    if json_file is not None:
        check_writable(json_file)
    if plot is not None:
        check_plot(plot)
    comparison = compare_networks(
        networks,
        read_data_set(folder, "train"),
        cv=cv,
        fine_tune=fine_tune or (),
        weights=_parse_weights(weights or []),
        backend=backend,
        batch_size=batch_size,
        on_error="skip",
        random_state=seed,
        progress=False if quiet else None,
    )
    print_table(ACCURACY_COLUMNS, map(format_accuracy, comparison.finished))
    print_table(SIZE_COLUMNS, map(format_size, comparison.finished))
    for row in comparison.failed:
        print_warning(f"{label_of(row)}: {row.error}")
    print_skipped(comparison.skipped)
    images, classes = sum(comparison.counts.values()), len(comparison.counts)
    print_line(
        f"{images} images of {classes} classes, {cv}-fold cross-validation; the most frequent "
        f"class: {comparison.chance:.4f}"
    )
    if comparison.not_worse:
        names = ", ".join(map(label_of, comparison.not_worse))
        print_line(f"not distinguishable from the best on these images: {names}")
    for path, write in (
        (output, comparison.report),
        (json_file, comparison.to_json),
        (plot, comparison.plot),
    ):
        if path is not None:
            write(path)
            print_line(f"saved {path}")


def _parse_weights(texts: list[str]) -> str | dict[str, str | None] | None:
    """Return the weights of all networks, or a mapping from network to weights."""
    named = [text.partition("=") for text in texts]
    if all(separator for _, separator, _ in named):
        names = [name for name, _, _ in named]
        if len(set(names)) < len(names):
            raise typer.BadParameter("--weights has a network twice")
        return {name: value for name, _, value in named} or None
    if len(texts) > 1:
        raise typer.BadParameter(
            "--weights can be repeated only as NETWORK=NAME, once for each network"
        )
    return texts[0]
