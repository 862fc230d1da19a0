"""Conversion of arguments that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from transferkit.cli.options import MODEL_SUFFIX
from transferkit.errors import DatasetError

if TYPE_CHECKING:
    from transferkit.optimization import ImageOptimizer

__all__ = ["list_files", "load_optimizer", "parse_class"]


def load_optimizer(
    network: str, weights: str | None, backend: str | None, seed: int, quiet: bool
) -> ImageOptimizer:
    """What changes pictures by the gradient of a network, or of a classifier in a file."""
    from transferkit.classification.classifier import Classifier
    from transferkit.optimization.image_optimizer import ImageOptimizer

    progress = False if quiet else None
    if not network.endswith(MODEL_SUFFIX):
        return ImageOptimizer(
            network, weights=weights, backend=backend, random_state=seed, progress=progress
        )
    if weights is not None:
        raise typer.BadParameter(f"{network}: has its own weights; leave out --weights")
    classifier = Classifier.load(network, backend=backend)
    return ImageOptimizer(classifier, backend=backend, random_state=seed, progress=progress)


def parse_class(given: str) -> str | int:
    """A class's index, where it is one, or else its name."""
    return int(given) if given.isdecimal() else given


def list_files(paths: Sequence[Path]) -> list[Path]:
    """The files that the arguments name, with folders replaced by the images in them."""
    from transferkit.images import list_images

    if not paths:
        raise DatasetError("no images were given")
    files: list[Path] = []
    for path in paths:
        files += list_images(path) if path.is_dir() else [path]
    return files
