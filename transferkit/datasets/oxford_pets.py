"""The Oxford-IIIT Pet data set (Parkhi et al. 2012): cats and dogs of 37 breeds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from transferkit.datasets.archives import unpack_archive
from transferkit.datasets.labelled_images import LabelledImages
from transferkit.datasets.published import (
    ArchiveFiles,
    PublishedArchive,
    find_undecodable,
    provide,
)
from transferkit.errors import FileFormatError, ParameterError, shorten
from transferkit.images import Skipped

__all__ = ["ARCHIVES", "TARGETS", "oxford_iiit_pet"]

_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
ARCHIVES = (
    PublishedArchive(
        f"{_URL}/images.tar.gz",
        "oxford-iiit-pet-images.tar.gz",
        791918971,
        "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
        max_bytes=2_000_000_000,
    ),
    PublishedArchive(
        f"{_URL}/annotations.tar.gz",
        "oxford-iiit-pet-annotations.tar.gz",
        19173078,
        "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        max_bytes=500_000_000,
    ),
)
TARGETS = ("breed", "species")

_LISTS = {"train": "trainval.txt", "test": "test.txt"}
_SPECIES = {"1": "cat", "2": "dog"}
# The name of an image, its class from 1 to 37, the species, and the number of the breed in it.
_LINE = re.compile(r"(?P<name>(?P<breed>[A-Za-z_]+)_\d+) \d+ (?P<species>[12]) \d+")


def oxford_iiit_pet(
    folder: str | os.PathLike[str],
    *,
    target: str = "breed",
    archive: ArchiveFiles = None,
    progress: bool | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Return the Oxford-IIIT Pet data set: photos of cats and dogs of 37 breeds.

    The first call downloads two archives of 811 MB together into the cache folder, verifies them,
    and unpacks them to ``folder``. Later calls only read the names in it.

    Parameters
    ----------
    folder
        A new or empty folder, or one that an earlier call filled. It gets ``train/class/file`` and
        ``test/class/file``.
    target
        ``"breed"``: 37 classes, named as in torchvision: ``"American Bulldog"`` for
        ``american_bulldog_1.jpg``. ``"species"``: ``"cat"`` and ``"dog"``.
    archive
        The paths of ``images.tar.gz`` and ``annotations.tar.gz``, or of one of them, if they have
        been downloaded already.
    progress
        Whether to show the progress; None: on a terminal or in a notebook.

    Returns
    -------
    train, test : LabelledImages
        The official lists: 3,680 images for training and validation (``trainval.txt``) and 3,669
        for testing (``test.txt``). 41 images are in neither. Images that do not decode are left
        out; ``train.skipped`` lists them.

    Raises
    ------
    DatasetError
        If the folder has other content.
    DownloadError
        If an archive cannot be downloaded.
    FileFormatError
        If an archive is not the published one.
    OutputError
        If the folder cannot be written, which is checked before the download.
    ParameterError
        If ``target`` is unknown.

    References
    ----------
    Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs. CVPR 2012.
    https://www.robots.ox.ac.uk/~vgg/data/pets

    Examples
    --------
    >>> from transferkit.datasets import oxford_iiit_pet
    >>> train, test = oxford_iiit_pet("pets/")  # doctest: +SKIP
    >>> len(train), len(test), len(train.classes)  # doctest: +SKIP
    (3680, 3669, 37)
    """
    if not isinstance(target, str) or target not in TARGETS:
        raise ParameterError(f"target is {shorten(target)}; expected 'breed' or 'species'")

    def arrange(paths: Sequence[Path], work: Path) -> list[Skipped]:
        return _arrange(paths[0], paths[1], work, target, progress)

    settings: dict[str, str | int] = {"data set": "oxford-iiit-pet", "target": target}
    return provide(folder, settings, ARCHIVES, arrange, archive=archive, progress=progress)


def _arrange(
    images: Path, annotations: Path, work: Path, target: str, progress: bool | None
) -> list[Skipped]:
    lists, unpacked = work / "annotations", work / "images"
    unpack_archive(
        annotations,
        lists,
        max_bytes=ARCHIVES[1].max_bytes,
        wanted=lambda name: (
            name.removeprefix("./") in {f"annotations/{file}" for file in _LISTS.values()}
        ),
        progress=progress,
    )
    # Not the three .mat files among the images. Some .jpg files are PNG or GIF files; they are
    # recognized by their content when they are read.
    unpack_archive(
        images,
        unpacked,
        max_bytes=ARCHIVES[0].max_bytes,
        wanted=lambda name: name.endswith(".jpg"),
        progress=progress,
    )
    targets: dict[Path, Path] = {}
    for split, file in _LISTS.items():
        for name, label in _read_list(lists / "annotations" / file, annotations, target):
            image = unpacked / "images" / f"{name}.jpg"
            if not image.is_file():
                raise FileFormatError(
                    f"{images}: has no {name}.jpg, which {file} lists; download it again"
                )
            targets[image] = work / split / label / image.name
    problems = find_undecodable([*targets], progress)
    for image, place in targets.items():
        if image not in problems:
            place.parent.mkdir(parents=True, exist_ok=True)
            image.replace(place)
    return [Skipped(f"images/{image.name}", reason) for image, reason in problems.items()]


def _read_list(path: Path, archive: Path, target: str) -> list[tuple[str, str]]:
    """Return the names of the images in an official list, each with its label."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, UnicodeError) as error:
        raise FileFormatError(
            f"{archive}: annotations/{path.name} is missing or not text; download it again"
        ) from error
    images = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise FileFormatError(
                f"{archive}: annotations/{path.name} has the line {shorten(line)}; expected such "
                "as 'Abyssinian_100 1 1 1'"
            )
        # As in torchvision.
        breed = " ".join(part.title() for part in match["breed"].split("_"))
        label = breed if target == "breed" else _SPECIES[match["species"]]
        images.append((match["name"], label))
    return images
