"""Extraction to a store of features, which survives interruptions, and continues after them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.errors import (
    DatasetError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    shorten,
    shorten_path,
)
from transferkit.features.identity import Identity
from transferkit.images import (
    Batch,
    ImageLike,
    Images,
    NamedImage,
    Preprocessing,
    Skipped,
    count_images,
    stream_batches,
)
from transferkit.images.bit_depth import BitDepth
from transferkit.images.content import digest_pixels, load_content
from transferkit.images.reading import read_image_of_call
from transferkit.images.stream import WithSource, iterate_images, source_name
from transferkit.sources import open_sources
from transferkit.store import FeatureStore, Record, ShardWriter
from transferkit.store.known import NEW, fingerprint
from transferkit.store.manifest import MANIFEST, Manifest
from transferkit.store.relocation import Relocation
from transferkit.store.shards import DTYPES
from transferkit.store.writing import Slot, StoreWriter
from transferkit.support.progress import show_progress
from transferkit.support.validation import check_integer
from transferkit.support.warning import warn

__all__ = ["extract_to_store", "new_manifest"]

_Array: TypeAlias = npt.NDArray[np.float32]

_MAX_EXAMPLES = 3


def new_manifest(
    program: Program,
    preprocessing: Preprocessing,
    layers: Sequence[str],
    identity: Identity,
    *,
    shard_size: int,
    dtype: str,
) -> Manifest:
    """Return the manifest of a store for some layers.

    Parameters
    ----------
    program, preprocessing
        The network, and how images are read.
    layers
        The names of the layers.
    identity
        What the features are computed with.
    shard_size, dtype
        As for `transferkit.FeatureExtractor.extract_to`.

    Raises
    ------
    UnknownNameError
        If a layer is unknown.
    ParameterError
        If there are no layers, or ``shard_size`` or ``dtype`` is invalid.
    ShapeError
        If the shape of a layer's output depends on the size of the images, which may differ.
    """
    # A layer that is listed twice is stored once.
    names = list(dict.fromkeys(layers))
    if not names:
        raise ParameterError("layers is empty; expected at least one")
    resolved = {layer: program.network.resolve(layer) for layer in names}
    shard_size = check_integer("shard_size", shard_size, 1)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        expected = " or ".join(map(repr, DTYPES))
        raise ParameterError(f"dtype is {shorten(dtype)}; expected {expected}")
    side = preprocessing.size or program.network.input_size
    shapes = program.shapes(side, side)
    for layer, name in resolved.items():
        if preprocessing.size is None and len(shapes[name]) > 1:
            raise ShapeError(
                f"the shape of layer {layer!r} depends on the size of the images, which "
                "Preprocessing(size=None) does not fix; resize them with Preprocessing(size=...), "
                "or extract a layer with one vector per image, such as 'embedding'"
            )
    return Manifest(
        description=identity.to_dict(),
        layers={layer: tuple(shapes[name]) for layer, name in resolved.items()},
        dtype=dtype,
        shard_size=shard_size,
    )


def extract_to_store(
    program: Program,
    preprocessing: Preprocessing,
    images: Images,
    folder: Path,
    manifest: Manifest,
    identity: Identity,
    *,
    batch_size: int,
    progress: bool | None,
    base: str | os.PathLike[str] | None = None,
) -> FeatureStore:
    """Run a network over images and add the outputs of layers to a store.

    Parameters
    ----------
    program, preprocessing
        The network, and how images are read.
    images
        As for `transferkit.images.stream_batches`; a path is that of anything that
        `transferkit.sources.open_sources` reads.
    folder
        The folder of the store, which is created if necessary.
    manifest
        As returned by `new_manifest`.
    identity
        What the features are computed with.
    batch_size
        The number of images in a batch.
    progress
        Whether to show a progress bar; None: on a terminal or in a notebook.
    base
        As for `transferkit.FeatureExtractor.extract_to`.

    Returns
    -------
    FeatureStore
        The store, opened.

    Raises
    ------
    DatasetError
        If there are no images.
    OutputError
        If a shard cannot be written.
    KeyboardInterrupt
        On Ctrl-C, after the batches that were computed have been written.
    """
    if isinstance(images, (str, os.PathLike)):
        images = open_sources(images)
    total = count_images(images)
    if total == 0:
        # Before the folder is created.
        raise DatasetError("no images were given")
    sources = iterate_images(images)

    def differences(stored: Mapping[str, Any]) -> list[str]:
        other = Identity.from_dict(stored, str(folder / MANIFEST))
        return other.differences(identity, names=(" in the store", " here"))

    run = _Run(program, preprocessing, list(manifest.layers), manifest.dtype, batch_size)
    with ExitStack() as stack:
        with show_progress("Checking shards", None, shown=progress) as checked:
            writer = stack.enter_context(
                StoreWriter(folder, manifest, differences=differences, on_check=checked)
            )
        if writer.damaged:
            warn(_describe_damage(folder, writer.damaged))
        run.relocation = _relocation(folder, base)
        bar = show_progress("Extracting features", total, shown=progress, status=run.status)
        run.advance = stack.enter_context(bar)
        run.add_images(sources, writer)
        if run.num_seen == 0:
            raise DatasetError("no images were given")
        writer.finish()
    run.warn(folder)
    return FeatureStore(folder, base=base)


def _relocation(folder: Path, base: str | os.PathLike[str] | None) -> Relocation | None:
    if base is None:
        return None
    return FeatureStore(folder, base=base).relocation


def _describe_damage(folder: Path, names: Sequence[str]) -> str:
    number = len(names)
    which = "1 shard was" if number == 1 else f"{number} shards were"
    listed = ", ".join(names[:_MAX_EXAMPLES]) + (", ..." if number > _MAX_EXAMPLES else "")
    return (
        f"{shorten_path(folder)}: {which} damaged: {listed}; the features in them are computed "
        "again, and the damaged files kept with .damaged at the end of their names"
    )


class _Run:
    """One run of an extraction to a store: what is new, and what it reports."""

    def __init__(
        self,
        program: Program,
        preprocessing: Preprocessing,
        layers: Sequence[str],
        dtype: str,
        batch_size: int,
    ) -> None:
        self.relocation: Relocation | None = None
        self.num_seen = 0
        self.advance: Any = None
        self._program = program
        self._preprocessing = preprocessing
        self._layers = layers
        self._dtype = dtype
        self._batch_size = batch_size
        self._num_new = 0
        self._num_skipped = 0
        # Until the first image shows it.
        self._may_be_moved = True
        self._num_changed = 0
        self._changed: list[str] = []
        self._not_finite: dict[str, tuple[int, str]] = {}
        self._start = time.monotonic()

    def status(self) -> str:
        """Return what the progress bar shows beside the number of images."""
        seconds = time.monotonic() - self._start
        rate = f", {self._num_new / seconds:.0f} images/s" if self._num_new else ""
        return rate + (f", {self._num_skipped:,} skipped" if self._num_skipped else "")

    def add_images(self, images: Iterable[ImageLike], writer: StoreWriter) -> None:
        """Compute and write the features of the images that the store does not have."""
        self._start = time.monotonic()
        new = self._new_images(images, writer)
        while (first := next(new, None)) is not None:
            slot = writer.next_slot()
            self._add_shard(chain([first], islice(new, slot.max_rows - 1)), slot, writer)

    def warn(self, folder: Path) -> None:
        """Warn of images that have changed, and of values that are not finite."""
        if self._num_changed:
            which = "1 image has" if self._num_changed == 1 else f"{self._num_changed} images have"
            examples = ", ".join(map(shorten_path, self._changed))
            warn(
                f"{shorten_path(folder)}: {which} changed since the features were computed, such "
                f"as {examples}; the store keeps the features of the images as they were. For "
                "those of the new ones, extract to another folder"
            )
        for layer, (number, example) in self._not_finite.items():
            warn(
                f"layer {layer!r} has values that are NaN or infinite for {number} images, such "
                f"as {example}; check the weights of the network, or store float32"
            )

    def _new_images(self, images: Iterable[ImageLike], writer: StoreWriter) -> Iterator[WithSource]:
        """Yield the images that the store does not have, each once."""
        known = writer.known
        for index, image in enumerate(images):
            self.num_seen += 1
            source = source_name(image, index)
            if self.relocation is not None:
                source = self.relocation.to_stored(source)
            found = known.find(source)
            if found is None:
                if self._may_be_moved:
                    self._warn_if_moved(writer)
                    self._may_be_moved = False
                known.add_row(source, NEW)
                yield WithSource(source_name(image, index), image)
                continue
            row, content = found
            if row != NEW and self._is_changed(image, source, row, content, writer):
                self._num_changed += 1
                if len(self._changed) < _MAX_EXAMPLES:
                    self._changed.append(source)
            self._may_be_moved = False
            self.advance(1)

    def _warn_if_moved(self, writer: StoreWriter) -> None:
        """Warn if the images of the store are elsewhere now, before all are computed again."""
        first = writer.first_source
        if first is None or self.relocation is not None or "://" in first:
            return
        if PurePath(first).is_absolute() and not os.path.exists(first):
            warn(
                f"{shorten_path(writer.folder)}: the images of this store, such as "
                f"{shorten_path(first)}, are not there any more, and the first one that is given "
                "now is new to it; if they were moved, pass base, the folder that has them now, "
                "or they are computed again"
            )

    def _is_changed(
        self, image: ImageLike, source: str, row: int, content: int, writer: StoreWriter
    ) -> bool:
        """Return whether an image that the store has differs from what it was then."""
        if isinstance(image, NamedImage):
            # Reading all that is done would take as long as computing it.
            return False
        if isinstance(image, (str, os.PathLike)):
            try:
                status = os.stat(image)
            except (OSError, ValueError):
                return False
            if fingerprint(status.st_size, status.st_mtime_ns, None) == content:
                return False
        try:
            loaded = load_content(image, source)
            digest = loaded.sha256
            if not digest and not isinstance(image, (str, os.PathLike)):
                digest = digest_pixels(read_image_of_call(image, source, BitDepth(None)))
        except ImageError:
            digest = b""
        before = writer.find_record(row).sha256
        return digest != (before or b"")

    def _add_shard(self, new: Iterator[WithSource], slot: Slot, writer: StoreWriter) -> None:
        """Compute the features of a shard's images, and write them batch by batch."""
        shard = writer.new_shard(slot)
        shard.open()
        try:
            # In a thread of its own, a batch is written whole, whenever Ctrl-C is pressed.
            with ThreadPoolExecutor(1, thread_name_prefix="transferkit-store") as executor:
                self._write_batches(new, slot, shard, executor)
        except BaseException as error:
            # What is computed is kept; but a part of a lost shard would leave no number for the
            # rest of it.
            if shard.num_rows == 0 or slot.is_gap or isinstance(error, OutputError):
                shard.discard()
            else:
                shard.finish()
            raise
        shard.finish()
        writer.use(slot, shard.num_rows)

    def _write_batches(
        self, new: Iterator[WithSource], slot: Slot, shard: ShardWriter, executor: Executor
    ) -> None:
        """Compute features; a batch is written while the next one is computed."""
        rows = _Rows(slot.first_row, self.relocation)
        skipped: list[Skipped] = []
        batches = stream_batches(
            rows.names(new),
            self._preprocessing,
            batch_size=self._batch_size,
            on_error="skip",
            skipped=skipped,
            group_sizes=True,
            read=rows,
        )
        writing: Future[None] | None = None
        with closing(batches):
            for batch in chain(batches, [None]):
                if batch is not None:
                    outputs = self._program.run(batch.pixels, self._layers)
                    self._check_finite(outputs, batch)
                    rows.add(batch, outputs)
                for image in skipped:
                    rows.skip(image)
                self._num_skipped += len(skipped)
                skipped.clear()
                records, arrays = rows.take(is_last=batch is None)
                if not records:
                    continue
                if writing is not None:
                    writing.result()
                writing = executor.submit(shard.append, records, arrays)
                self._num_new += len(records)
                self.advance(len(records))
        if writing is not None:
            writing.result()

    def _check_finite(self, outputs: Mapping[str, _Array], batch: Batch) -> None:
        for layer, array in outputs.items():
            with np.errstate(over="ignore"):
                stored = array.astype(self._dtype, copy=False)
            finite = np.isfinite(stored.reshape(len(stored), -1)).all(axis=1)
            if not finite.all():
                number, example = self._not_finite.get(layer, (0, batch.sources[finite.argmin()]))
                self._not_finite[layer] = (number + int((~finite).sum()), example)


class _Rows:
    """The rows of a shard that are not written yet, in the order of the images.

    Called in place of `read_image`, it reads an image and records its digest.
    """

    def __init__(self, first_row: int, relocation: Relocation | None) -> None:
        self._first_row = first_row
        self._relocation = relocation
        # By the position of the image in the shard.
        self._contents: dict[int, tuple[int | None, int | None, bytes]] = {}
        self._sources: dict[int, str] = {}
        self._positions: dict[str, int] = {}
        self._records: dict[int, Record] = {}
        self._outputs: dict[int, dict[str, _Array]] = {}
        self._written = 0
        self._last = -1

    def __call__(
        self, image: ImageLike, source: str, depth: BitDepth, index: int, /
    ) -> Image.Image | _Array:
        """Read an image; see `transferkit.images.ImageReader`."""
        content = load_content(image, source)
        if content.sha256:
            self._contents[index] = (content.size, content.modified, content.sha256)
        read = read_image_of_call(content.image, source, depth)
        if not content.sha256:
            self._contents[index] = (None, None, digest_pixels(read))
        return read

    def names(self, images: Iterable[WithSource]) -> Iterator[ImageLike]:
        """Yield images, and record their sources."""
        for position, image in enumerate(images):
            self._sources[position] = image.source
            self._positions[image.source] = position
            yield cast("ImageLike", image)

    def add(self, batch: Batch, outputs: Mapping[str, _Array]) -> None:
        """Add the features of a batch."""
        for index, position in enumerate(batch.indices):
            self._records[position] = self._record(position, None)
            self._outputs[position] = {layer: array[index] for layer, array in outputs.items()}
        self._last = max(self._last, *batch.indices)

    def skip(self, image: Skipped) -> None:
        """Add an image that could not be read."""
        position = self._positions[image.source]
        self._records[position] = self._record(position, image.reason)

    def take(self, *, is_last: bool) -> tuple[list[Record], dict[str, list[_Array]]]:
        """Return the rows that are complete: all of them, or none.

        Images of another size may wait for others of their size. Until these are there too, the
        rows after them are not complete, so that no batch is ever written in part.
        """
        if not is_last and self._written + len(self._records) != self._last + 1:
            return [], {}
        positions = sorted(self._records)
        records = [self._records[position] for position in positions]
        arrays: dict[str, list[_Array]] = {}
        for position in sorted(self._outputs):
            for layer, array in self._outputs[position].items():
                arrays.setdefault(layer, []).append(array)
        self._written += len(records)
        self._records.clear()
        self._outputs.clear()
        return records, arrays

    def _record(self, position: int, error: str | None) -> Record:
        size, modified, digest = self._contents.pop(position, (None, None, None))
        source = self._sources.pop(position)
        del self._positions[source]
        if self._relocation is not None:
            source = self._relocation.to_stored(source)
        return Record(self._first_row + position, source, size, modified, digest, error)
