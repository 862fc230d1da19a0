"""The batches of an epoch: pixels, read and augmented ahead, or stored activations."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.errors import OutputError
from transferkit.images import Preprocessing, stream_batches
from transferkit.images.augmentation import Augmentation, AugmentationStage

__all__ = ["Examples", "ImageExamples", "StoredExamples", "TrainingImages", "store_activations"]

Floats: TypeAlias = npt.NDArray[np.float32]

# More than this is written to a temporary file instead of being kept in memory.
_MAX_BYTES_IN_MEMORY = 1 << 30


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Images with their classes and weights.

    Attributes
    ----------
    images
        (n,) images: paths, arrays and so on.
    sources
        (n,) their names.
    classes
        (n,) the index of the class of each.
    weights
        (n,) the weight of each, greater than 0.
    """

    images: Sequence[Any]
    sources: Sequence[str]
    classes: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float64]

    def take(self, rows: npt.NDArray[np.intp]) -> TrainingImages:
        """Return some of the images."""
        return TrainingImages(
            [self.images[row] for row in rows],
            [self.sources[row] for row in rows],
            self.classes[rows],
            self.weights[rows],
        )


class Examples(Protocol):
    """The inputs of the trained part of a network, by the position of the image."""

    def batches(
        self, order: Sequence[int], batch_size: int, epoch: int
    ) -> Iterator[tuple[Floats, list[int]]]:
        """Yield the inputs (n, ...) of the images in ``order``, and their positions."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...


@dataclass(frozen=True)
class ImageExamples:
    """Images that are read in each epoch.

    Parameters
    ----------
    images
        A sequence of images.
    preprocessing
        How they are resized and cropped.
    augmentations
        Applied to each image; empty for none.
    seed
        The seed of the augmentations.
    """

    images: Sequence[Any]
    preprocessing: Preprocessing
    augmentations: tuple[Augmentation, ...] = ()
    seed: int = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def batches(
        self, order: Sequence[int], batch_size: int, epoch: int
    ) -> Iterator[tuple[Floats, list[int]]]:
        """Yield pixels (n, h, w, 3) and positions; see `Examples`."""
        augment = None
        if self.augmentations:
            augment = AugmentationStage(self.augmentations, seed=self.seed, epoch=epoch)
        stream = stream_batches(
            self.images,
            self.preprocessing,
            batch_size=batch_size,
            augment=augment,
            order=[int(index) for index in order],
        )
        with closing(stream):
            for batch in stream:
                yield batch.pixels, batch.indices


@dataclass(frozen=True)
class StoredExamples:
    """Activations of the layer before the first trained one.

    Parameters
    ----------
    activations
        (views, n, ...) float32.
    """

    activations: Floats

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.activations.shape[1])

    def batches(
        self, order: Sequence[int], batch_size: int, epoch: int
    ) -> Iterator[tuple[Floats, list[int]]]:
        """Yield activations (n, ...) and positions; the epochs use the views in turn."""
        view = self.activations[epoch % len(self.activations)]
        for start in range(0, len(order), batch_size):
            indices = [int(index) for index in order[start : start + batch_size]]
            yield np.asarray(view[indices]), indices


def store_activations(
    program: Program,
    layer: str,
    examples: ImageExamples,
    views: int,
    batch_size: int,
    advance: Callable[[int], None],
) -> StoredExamples:
    """Run the part of a network that is not trained once for each image and view.

    Parameters
    ----------
    program
        The network.
    layer
        The layer whose activations are stored: in memory up to 1 GiB, and otherwise in a
        temporary file that is deleted when it is no longer used.
    examples
        The images.
    views
        The number of augmentations of each image.
    batch_size
        The number of images read at a time.
    advance
        Called with the number of images after each batch.

    Raises
    ------
    OutputError
        If there is not enough space for the temporary file.
    """
    store: Floats | None = None
    number = len(examples)
    for view in range(views):
        for pixels, indices in examples.batches(range(number), batch_size, view):
            output = program.run(pixels, [layer])[layer]
            if store is None:
                store = _allocate((views, number, *output.shape[1:]))
            store[view, indices] = output
            advance(len(indices))
    if store is None:
        store = np.empty((views, 0), np.float32)
    return StoredExamples(store)


def _allocate(shape: tuple[int, ...]) -> Floats:
    size = 4 * math.prod(shape)
    if size <= _MAX_BYTES_IN_MEMORY:
        return np.empty(shape, np.float32)
    folder = tempfile.gettempdir()
    free = _free_space(folder)
    if free < size:
        raise OutputError(
            f"the activations before the first trained layer need {size / 1e9:.1f} GB, but "
            f"{folder} has {free / 1e9:.1f} GB of free space; free some, set the environment "
            "variable TMPDIR to another folder, reduce views, or train all layers"
        )
    handle, path = tempfile.mkstemp(prefix="transferkit-", suffix=".activations")
    os.close(handle)
    try:
        store: Floats = np.memmap(path, np.float32, "w+", shape=shape)
    finally:
        # The mapping keeps the file until it is freed, where the system allows it.
        _remove(path)
    return store


def _free_space(folder: str) -> int:
    return shutil.disk_usage(folder).free


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        # Windows keeps a mapped file; it is in the folder of temporary files.
        return
