"""Data sets in folders: one folder for each class, or for each split and class."""

from __future__ import annotations

import os
from pathlib import Path

from transferkit.datasets.labelled_images import LabelledImages
from transferkit.errors import DatasetError
from transferkit.images import Skipped, list_labeled_images
from transferkit.images.folders import split_folders

__all__ = ["from_folder"]


def from_folder(folder: str | os.PathLike[str], *, on_error: str = "raise") -> LabelledImages:
    """Return the images in a folder with one subfolder for each class, or split and class.

    Parameters
    ----------
    folder
        With ``class/file`` or ``split/class/file``, where the splits have names such as train,
        val and test.
    on_error
        ``"raise"``, or ``"skip"`` to skip class folders without images, and images that are in
        no class folder; ``skipped`` of the result lists them.

    Returns
    -------
    LabelledImages
        In alphabetical order, the splits as well; ``splits`` is None if there are none.

    Raises
    ------
    DatasetError
        As for `transferkit.list_labeled_images`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit.datasets import from_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
    ...         Path(folder, part).mkdir(parents=True)
    ...         Image.new("RGB", (8, 8)).save(Path(folder, part, "1.png"))
    ...     data = from_folder(folder)
    >>> data
    <LabelledImages: 4 images of 2 classes, splits test, train>
    """
    skipped: list[Skipped] = []
    parts = split_folders(folder)
    if not parts:
        paths, labels = list_labeled_images(folder, on_error=on_error, skipped=skipped)
        return LabelledImages(paths, labels, skipped=skipped)
    all_paths: list[Path] = []
    all_labels: list[str] = []
    splits: list[str] = []
    for part in parts:
        try:
            paths, labels = list_labeled_images(part, on_error=on_error, skipped=skipped)
        except DatasetError as error:
            raise DatasetError(f"in the split {part.name}: {error}") from error
        all_paths += paths
        all_labels += labels
        splits += [part.name] * len(paths)
    return LabelledImages(all_paths, all_labels, splits=splits, skipped=skipped)
