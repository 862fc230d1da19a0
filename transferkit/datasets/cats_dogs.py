"""The Cats vs. Dogs data set: photos of Petfinder's cats and dogs (Elson et al. 2007)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transferkit.datasets.archives import unpack_archive
from transferkit.datasets.folders import from_folder
from transferkit.datasets.labelled_images import LabelledImages
from transferkit.datasets.published import (
    ArchiveFiles,
    PublishedArchive,
    find_undecodable,
    provide,
)
from transferkit.errors import DatasetError, FileFormatError
from transferkit.images import Skipped
from transferkit.support.validation import check_integer

__all__ = ["ARCHIVES", "cats_vs_dogs"]

ARCHIVES = (
    PublishedArchive(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
        "kagglecatsanddogs_5340.zip",
        "kagglecatsanddogs_5340.zip",
        824887076,
        "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
        max_bytes=2_000_000_000,
    ),
)

_TEST = 0.2
# Not Thumbs.db, nor the documents beside the folder.
_IMAGE = re.compile(r"PetImages/(?:Cat|Dog)/\d+\.jpg")


def cats_vs_dogs(
    folder: str | os.PathLike[str],
    *,
    random_state: int = 0,
    archive: ArchiveFiles = None,
    progress: bool | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Return the Cats vs. Dogs data set: 25,000 photos of cats and dogs.

    The first call downloads an archive of 825 MB into the cache folder, verifies it, and unpacks it
    to ``folder``. Later calls only read the names in it.

    The data set has no official split. Here, a fifth of the images of each class is for testing:
    that which ``split(test=0.2, random_state=random_state)`` of `LabelledImages` chooses from all
    files in the archive, sorted by ``Cat/0.jpg``, ``Cat/1.jpg``, ``Cat/10.jpg``, and so on. The
    files that do not decode are left out after that.

    Parameters
    ----------
    folder
        A new or empty folder, or one that an earlier call filled. It gets ``train/cat/0.jpg``,
        ``train/dog``, ``test/cat`` and ``test/dog``.
    random_state
        The seed of the split, an int of at least 0.
    archive
        The path of ``kagglecatsanddogs_5340.zip``, if it has been downloaded already.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Returns
    -------
    train, test : LabelledImages
        Labels ``"cat"`` and ``"dog"``. Images that do not decode are left out; ``train.skipped``
        lists them.

    Raises
    ------
    DatasetError
        If the folder has other content.
    DownloadError
        If the archive cannot be downloaded.
    FileFormatError
        If the archive is not the published one.
    OutputError
        If the folder cannot be written, which is checked before the download.
    ParameterError
        If ``random_state`` is invalid.

    References
    ----------
    Elson, Douceur, Howell, Saul: Asirra: A CAPTCHA that Exploits Interest-Aligned Manual Image
    Categorization. CCS 2007. https://www.microsoft.com/en-us/download/details.aspx?id=54765

    Examples
    --------
    >>> from transferkit.datasets import cats_vs_dogs
    >>> train, test = cats_vs_dogs("cats-vs-dogs/")  # doctest: +SKIP
    >>> train.classes.tolist()  # doctest: +SKIP
    ['cat', 'dog']
    """
    seed = check_integer("random_state", random_state, 0)

    def arrange(paths: Sequence[Path], work: Path) -> list[Skipped]:
        return _arrange(paths[0], work, seed, progress)

    settings: dict[str, str | int] = {"data set": "cats-vs-dogs", "random_state": seed}
    return provide(folder, settings, ARCHIVES, arrange, archive=archive, progress=progress)


def _arrange(archive: Path, work: Path, seed: int, progress: bool | None) -> list[Skipped]:
    unpacked = work / "unpacked"
    unpack_archive(
        archive,
        unpacked,
        max_bytes=ARCHIVES[0].max_bytes,
        wanted=lambda name: _IMAGE.fullmatch(name) is not None,
        progress=progress,
    )
    try:
        data = from_folder(unpacked / "PetImages")
    except DatasetError as error:
        raise FileFormatError(f"{archive}: not the expected files: {error}") from error
    # Before files are left out, so that the split does not depend on what a decoder accepts.
    parts = dict(zip(("train", "test"), data.split(_TEST, random_state=seed), strict=True))
    paths = [Path(source) for source in data.sources]
    problems = find_undecodable(paths, progress)
    for split, part in parts.items():
        for label in np.unique(part.labels):
            (work / split / label.lower()).mkdir(parents=True)
        for source, label in zip(part.sources, part.labels, strict=True):
            image = Path(source)
            if image not in problems:
                image.replace(work / split / label.lower() / image.name)
    return [
        Skipped(image.relative_to(unpacked).as_posix(), reason)
        for image, reason in problems.items()
    ]
