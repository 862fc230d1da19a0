"""``transferkit inspect`` and ``restore``: find what is wrong with photos, and move them away."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import check_output, is_table, parse_path
from transferkit.cli.console import (
    format_count,
    print_line,
    print_skipped,
    print_table,
    print_warning,
    write_csv,
)
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    Backend,
    BatchSize,
    Network,
    Quiet,
    Seed,
    Weights,
)

if TYPE_CHECKING:
    from transferkit.inspection import Finding, Inspection

__all__ = ["inspect", "restore"]


def inspect(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class, or for each split and "
            "class; or with images only; or a table, such as a .csv file, with the path and label "
            "of each image.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FILE",
            help="The .html page to write, with thumbnails.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", parser=parse_path, metavar="FILE", help="Write the findings as JSON."
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", parser=parse_path, metavar="FILE", help="Write the findings as CSV."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="A kind of findings to look for. May be given several times.",
            show_default="all kinds",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=NUMBER",
            help="The threshold of a kind, such as tiny=100. May be given several times.",
        ),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="Move files with findings to this folder; 'transferkit restore' undoes it.",
        ),
    ] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="A kind whose files --quarantine moves. May be given several times.",
            show_default="unreadable and duplicate",
        ),
    ] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Find what is wrong with the images in a folder.

    Finds files that cannot be read, copies, images that are in train and test, doubtful labels, and
    images that are blurred, dark or unlike the others. Prints the number of findings of each kind.
    Nothing is changed, except that --quarantine moves files.
    """
    from transferkit.datasets import from_csv
    from transferkit.inspection import KINDS, inspect_images
    from transferkit.inspection.findings import check_kinds
    from transferkit.inspection.quarantine import DEFAULT_KINDS, check_quarantine
    from transferkit.reports import check_report

    # Everything that can be checked before the network runs is checked here.
    if output is not None:
        check_report(output)
    for file in filter(None, (json_file, csv_file)):
        check_output(file, folder)
    if move and quarantine is None:
        raise typer.BadParameter("--move needs --quarantine")
    kinds_to_move = check_kinds(move or DEFAULT_KINDS)
    if quarantine is not None:
        check_quarantine(quarantine, None if is_table(folder) else folder, kinds_to_move)
    found = inspect_images(
        from_csv(folder, on_error="skip") if is_table(folder) else folder,
        network,
        weights=weights,
        backend=backend,
        batch_size=batch_size,
        kinds=kind or None,
        thresholds=dict(map(_parse_threshold, threshold or ())),
        random_state=seed,
        progress=False if quiet else None,
    )
    if found.counts:
        rows = [(name, number, KINDS[name]) for name, number in found.counts.items()]
        print_table(("kind", "findings", "meaning"), rows)
    for line in (found.headline, *found.notes):
        print_line(line)
    print_skipped(found.skipped)
    if output is not None:
        found.report(output)
        print_line(f"saved {output}")
    if json_file is not None:
        found.to_json(json_file)
        print_line(f"saved {json_file}")
    if csv_file is not None:
        _write_findings(csv_file, found.findings)
    if quarantine is not None:
        _move_files(found, quarantine, kinds_to_move)


def _write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write the findings as CSV."""
    from transferkit.inspection import Finding
    from transferkit.support.atomic_write import write_atomically

    with write_atomically(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        write_csv(text, Finding._fields, findings)
        text.detach()
    print_line(f"saved {path}")


def _move_files(found: Inspection, folder: Path, kinds: Iterable[str]) -> None:
    """Move the files of some kinds, and print what was done."""
    result = found.quarantine(folder, kinds=kinds)
    print_line(
        f"moved {format_count(len(result.moved), 'file')} to {folder}; to undo it: "
        f"transferkit restore {folder}"
    )
    if result.left:
        print_warning(f"{len(result.left)} left:")
    for one in result.left:
        print_warning(f"  {one.source}: {one.reason}")


def _parse_threshold(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        if separator:
            return name, float(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"--threshold is {text!r}; expected KIND=NUMBER, such as tiny=100")


def restore(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="FOLDER",
            help="A folder to which 'transferkit inspect' moved files.",
        ),
    ],
) -> None:
    """Move the files of a quarantine back to where they were."""
    from transferkit.inspection.quarantine import restore as move_back

    print_line(f"moved {format_count(len(move_back(folder)), 'file')} back")
