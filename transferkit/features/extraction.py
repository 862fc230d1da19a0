"""Extraction of the activations of layers from images, in one pass."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.errors import (
    DatasetError,
    ImageError,
    NotFiniteError,
    ParameterError,
)
from transferkit.features.cached_layer import CachedLayer
from transferkit.features.cached_run import CachedRun
from transferkit.features.shapes import check_same_shape
from transferkit.images import (
    Batch,
    Images,
    Preprocessing,
    Skipped,
    count_images,
    list_images,
    stream_batches,
)
from transferkit.images.reading import ImageTypeError
from transferkit.images.stream import ImageReader
from transferkit.store import FeatureStore
from transferkit.store.features import Features
from transferkit.support.progress import show_progress

__all__ = [
    "ExtractionInterrupted",
    "Features",
    "NoneReadableError",
    "check_finite",
    "check_no_store",
    "compute_features",
    "find_not_finite",
    "iterate_features",
]


class ExtractionInterrupted(KeyboardInterrupt):
    """Raised on Ctrl-C during an extraction; holds the results so far.

    Attributes
    ----------
    features
        The features of the images so far; None if there are none.
    """

    def __init__(self, features: Features | None) -> None:
        super().__init__("interrupted")
        self.features = features


class NoneReadableError(DatasetError):
    """None of the images can be read.

    Attributes
    ----------
    skipped
        The images, and why.
    """

    def __init__(self, skipped: list[Skipped]) -> None:
        super().__init__(skipped)
        self.skipped = skipped

    def __str__(self) -> str:
        reasons = [str(ImageError(image.source, image.reason)) for image in self.skipped[:3]]
        number = len(self.skipped)
        which = "the image cannot" if number == 1 else f"none of {number} images can"
        return f"{which} be read: {'; '.join(reasons)}"


def find_not_finite(
    outputs: npt.NDArray[np.float32], sources: Sequence[str], layer: str
) -> str | None:
    """Describe the outputs of a layer that are NaN or infinite; None if there are none.

    Parameters
    ----------
    outputs
        (n, ...) the outputs, one row for each image.
    sources
        (n,) the source of each image.
    layer
        The name of the layer.
    """
    finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
    if finite.all():
        return None
    return (
        f"layer {layer!r} has values that are NaN or infinite for {(~finite).sum()} of "
        f"{len(outputs)} images, such as {sources[int(finite.argmin())]}; check the weights "
        "of the network"
    )


def check_finite(outputs: npt.NDArray[np.float32], sources: Sequence[str], layer: str) -> None:
    """Check that no output of a layer is NaN or infinite; see `find_not_finite`.

    Raises
    ------
    NotFiniteError
        If one is; the message names an image.
    """
    problem = find_not_finite(outputs, sources, layer)
    if problem is not None:
        raise NotFiniteError(problem)


def check_no_store(images: object) -> None:
    """Check that images are not a store of their features.

    Raises
    ------
    ImageTypeError
        If they are.
    """
    if isinstance(images, FeatureStore):
        raise ImageTypeError(
            "X",
            "a FeatureStore has features, not images, and only Classifier.fit accepts it; use its "
            "arrays, such as store['embedding'], with estimators of scikit-learn, or pass the "
            "images",
        )


def compute_features(
    program: Program,
    preprocessing: Preprocessing,
    images: Images,
    layers: Sequence[str],
    *,
    batch_size: int,
    on_error: str,
    progress: bool | None,
    read: ImageReader | None = None,
    cache: Mapping[str, CachedLayer] | None = None,
) -> Features:
    """Run a network over images and collect the outputs of layers.

    Parameters
    ----------
    program
        The network on a backend.
    preprocessing
        How images are resized and cropped.
    images
        As for `transferkit.images.stream_batches`. They are read in threads while the network
        runs.
    layers
        The layers whose outputs are collected.
    batch_size
        Number of images in a batch.
    on_error
        ``"raise"`` or ``"skip"``.
    progress
        Whether to show a progress bar; None: on a terminal or in a notebook.
    read
        How an image is read, as for `transferkit.images.stream_batches`; only without ``cache``.
    cache
        Each of ``layers`` to its part of a cache, from which outputs are taken, and to which
        others are added; None: without a cache.

    Raises
    ------
    ImageError
        If an image cannot be read and ``on_error`` is ``"raise"``.
    DatasetError
        If there are no images; `NoneReadableError` if all were skipped.
    UnknownNameError
        If a layer is unknown.
    ShapeError
        If the network cannot run on images of their size, or the images differ in size and so
        do the outputs of a layer.
    ExtractionInterrupted
        On Ctrl-C.
    """
    check_no_store(images)
    # A layer that is listed twice is collected once.
    layers = list(dict.fromkeys(layers))
    if not layers:
        raise ParameterError("layers is empty; expected at least one")
    for layer in layers:
        program.network.resolve(layer)
    if isinstance(images, (str, os.PathLike)):
        images = list_images(images)
    total = count_images(images)
    rows = {layer: _Rows(total) for layer in layers}
    sources: list[str] = []
    indices: list[int] = []
    skipped: list[Skipped] = []

    def result() -> Features:
        # After an interruption, layers may have rows whose sources are not recorded yet.
        number = min(len(sources), len(indices))
        arrays = {layer: rows[layer].array(number) for layer in layers}
        positions = np.asarray(indices[:number], np.intp)
        names = sources[:number]
        # Images of different sizes are in other batches than those before them.
        if (np.diff(positions) < 0).any():
            order = np.argsort(positions)
            arrays = {layer: array[order] for layer, array in arrays.items()}
            positions = positions[order]
            names = [names[row] for row in order]
        return Features(arrays, names, positions, skipped)

    # How many images a generator yields next, and what its code does meanwhile, is not known: no
    # other process should wait for it.
    run = None if cache is None else CachedRun(program, cache, takes_turns=total is not None)
    batches = stream_batches(
        images,
        preprocessing,
        batch_size=batch_size,
        on_error=on_error,
        skipped=skipped,
        group_sizes=True,
        read=read if run is None else run.read,
    )
    try:
        with (
            nullcontext() if run is None else run,
            closing(batches),
            show_progress("Computing features", total, shown=progress) as advance,
        ):
            for batch in _parts(batches, run):
                outputs = program.run(batch.pixels, layers) if run is None else run.outputs(batch)
                for layer in layers:
                    _check_shape(layer, rows[layer], outputs[layer], sources, batch)
                    rows[layer].append(outputs[layer])
                sources += batch.sources
                indices += batch.indices
                advance(len(batch.sources))
    except KeyboardInterrupt:
        raise ExtractionInterrupted(result() if sources else None) from None
    if not sources:
        raise NoneReadableError(skipped)
    return result()


def iterate_features(
    program: Program,
    preprocessing: Preprocessing,
    images: Images,
    layers: Sequence[str],
    *,
    batch_size: int,
    on_error: str,
    progress: bool | None,
    cache: Mapping[str, CachedLayer] | None = None,
) -> Iterator[Features]:
    """Run a network over images, and yield the outputs of layers batch by batch.

    Parameters
    ----------
    program, preprocessing, images, layers, batch_size, on_error, progress, cache
        As for `compute_features`, which raises the same errors.

    Yields
    ------
    Features
        Of a batch. Its ``skipped`` are the images that were left out since the batch before, and
        in the last batch those after it.
    """
    check_no_store(images)
    layers = list(dict.fromkeys(layers))
    if not layers:
        raise ParameterError("layers is empty; expected at least one")
    for layer in layers:
        program.network.resolve(layer)
    if isinstance(images, (str, os.PathLike)):
        images = list_images(images)
    skipped: list[Skipped] = []
    # No other process should wait for what the caller does with a batch.
    run = None if cache is None else CachedRun(program, cache, takes_turns=False)
    batches = stream_batches(
        images,
        preprocessing,
        batch_size=batch_size,
        on_error=on_error,
        skipped=skipped,
        group_sizes=True,
        read=None if run is None else run.read,
    )
    total = count_images(images)
    return _iterate(program, batches, layers, skipped, total, progress, run)


def _iterate(
    program: Program,
    batches: Generator[Batch, None, None],
    layers: Sequence[str],
    skipped: list[Skipped],
    total: int | None,
    progress: bool | None,
    run: CachedRun | None,
) -> Iterator[Features]:
    waiting: Features | None = None
    with (
        nullcontext() if run is None else run,
        closing(batches),
        show_progress("Computing features", total, shown=progress) as advance,
    ):
        for batch in _parts(batches, run):
            # The last batch waits for the images after it that are skipped.
            if waiting is not None:
                yield waiting
            outputs = program.run(batch.pixels, layers) if run is None else run.outputs(batch)
            waiting = Features(
                outputs, batch.sources, np.asarray(batch.indices, np.intp), skipped.copy()
            )
            skipped.clear()
            advance(len(batch.sources))
    if waiting is None:
        raise NoneReadableError(skipped)
    waiting.skipped.extend(skipped)
    yield waiting


def _parts(batches: Iterator[Batch], run: CachedRun | None) -> Iterator[Batch]:
    """Yield batches of images whose outputs have the same shapes."""
    for batch in batches:
        yield from [batch] if run is None else run.split(batch)


def _check_shape(
    layer: str,
    rows: _Rows,
    output: npt.NDArray[np.float32],
    sources: Sequence[str],
    batch: Batch,
) -> None:
    """Raise an error if the output of a layer differs in shape from those before."""
    if rows.shape is not None:
        check_same_shape(layer, (rows.shape, sources[0]), (output.shape[1:], batch.sources[0]))


class _Rows:
    """An array that grows by rows; allocated in full if the number of rows is known."""

    def __init__(self, expected: int | None) -> None:
        self._expected = expected
        self._buffer: npt.NDArray[np.float32] | None = None
        self._length = 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of a row; None before the first."""
        return None if self._buffer is None else self._buffer.shape[1:]

    def append(self, rows: npt.NDArray[np.float32]) -> None:
        needed = self._length + len(rows)
        if self._buffer is None:
            self._buffer = np.empty((self._expected or len(rows), *rows.shape[1:]), np.float32)
        if needed > len(self._buffer):
            larger = np.empty((max(needed, 2 * self._length), *rows.shape[1:]), np.float32)
            larger[: self._length] = self._buffer[: self._length]
            self._buffer = larger
        self._buffer[self._length : needed] = rows
        self._length = needed

    def array(self, length: int) -> npt.NDArray[np.float32]:
        """Return the first ``length`` rows."""
        if self._buffer is None:
            return np.empty((0,), np.float32)
        if length == len(self._buffer):
            return self._buffer
        # A copy, to free the memory of rows that were never filled.
        return self._buffer[:length].copy()
