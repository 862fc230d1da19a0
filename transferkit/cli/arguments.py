"""Conversion of arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from transferkit.cli.options import CLASSIFIER_SUFFIX
from transferkit.errors import DatasetError, OutputError, UnknownNameError, shorten
from transferkit.support.remote import is_url

if TYPE_CHECKING:
    from transferkit.datasets import LabelledImages
    from transferkit.optimization import ImageOptimizer

__all__ = [
    "check_output",
    "is_table",
    "list_files",
    "load_optimizer",
    "parse_class",
    "parse_path",
    "parse_source",
    "parse_store",
    "read_data_set",
]


def check_output(output: Path, given: Path) -> None:
    """Check that a file can be written, and is not the one that is read.

    Raises
    ------
    OutputError
        If not.
    """
    from transferkit.support.atomic_write import check_writable

    check_writable(output)
    if output.exists() and given.exists() and output.samefile(given):
        raise OutputError(f"{output} is the table of the images; choose another file to write")


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, and the images in the given folders."""
    from transferkit.images import list_images

    if not paths:
        raise DatasetError("no images were given")
    files: list[Path] = []
    for path in paths:
        files += list_images(path) if path.is_dir() else [path]
    return files


def is_table(path: Path) -> bool:
    """Return whether a path is that of a table of images, and not of a folder."""
    from transferkit.datasets.tables import TABLE_SUFFIXES

    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()


def read_data_set(path: Path, split: str) -> LabelledImages:
    """Return the images in a folder of class folders, or those that a table lists.

    Missing files and empty class folders are skipped, and listed in ``skipped`` of the result.

    Parameters
    ----------
    path
        The folder or table.
    split
        Of a table with a column for the split, the rows to use: ``"train"`` or ``"test"``.
    """
    from transferkit.datasets import LabelledImages, from_csv
    from transferkit.images import Skipped, list_labeled_images

    if is_table(path):
        data = from_csv(path, on_error="skip")
        return data if data.splits is None else _of_split(data, split, path)
    skipped: list[Skipped] = []
    paths, labels = list_labeled_images(path, on_error="skip", skipped=skipped)
    return LabelledImages(paths, labels, skipped=skipped)


def _of_split(data: LabelledImages, split: str, path: Path) -> LabelledImages:
    if split not in data.split_names:
        names = ", ".join(map(shorten, data.split_names[:5]))
        raise DatasetError(f"{path}: no rows of the split {split!r}; the table has {names}")
    part = data.of_split(split)
    part.skipped = data.skipped
    return part


def parse_class(text: str, optimizer: ImageOptimizer) -> str | int:
    """Return the name of a class, or its index if the text is a number that is no name."""
    if text.isdecimal():
        try:
            optimizer.resolve_class(text)
        except UnknownNameError:
            return int(text)
    return text


def parse_path(text: str) -> Path:
    """Return a path; an empty one, often an unset variable, would be the current directory."""
    if not text:
        raise typer.BadParameter("the path is empty; for the current directory, write .")
    return Path(text)


def parse_store(text: str) -> Path | str:
    """Return the path of a store or a file, or the URL of a store; see `parse_path`."""
    return text if is_url(text) else parse_path(text)


def parse_source(text: str) -> str:
    """Return the path, pattern or URL of images; see `parse_path`."""
    parse_path(text)
    return text


def load_optimizer(
    network: str, weights: str | None, backend: str | None, seed: int, quiet: bool
) -> ImageOptimizer:
    """Return an optimizer for a network, or for the classifier in a file."""
    from transferkit.optimization.image_optimizer import ImageOptimizer

    if weights is not None and network.endswith(CLASSIFIER_SUFFIX):
        raise typer.BadParameter(
            f"{network} contains its own weights; --weights cannot be used with it"
        )
    progress = False if quiet else None
    return ImageOptimizer(
        network, weights=weights, backend=backend, random_state=seed, progress=progress
    )
