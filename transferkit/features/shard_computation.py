"""The features of the images of one shard, computed batch by batch and written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.errors import OutputError, ShapeError
from transferkit.images import Batch, ImageLike, Preprocessing, Skipped, stream_batches
from transferkit.images.bit_depth import BitDepth
from transferkit.images.content import load_with_digest
from transferkit.images.reading import read_image_of_call
from transferkit.images.stream import WithSource
from transferkit.store import Record, ShardWriter
from transferkit.store.manifest import Manifest
from transferkit.store.relocation import Relocation

__all__ = ["ShardComputer", "ShardReport"]

_Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(slots=True)
class ShardReport:
    """What happened when a shard was computed.

    Attributes
    ----------
    num_rows
        The number of images.
    num_skipped
        The number of those that could not be read.
    not_finite
        The name of each layer with values that are NaN or infinite to the number of their images,
        and the source of one.
    """

    num_rows: int = 0
    num_skipped: int = 0
    not_finite: dict[str, tuple[int, str]] = field(default_factory=dict)


class ShardComputer:
    """Computes the features of images, and writes them to a shard.

    Parameters
    ----------
    program, preprocessing
        The network, and how images are read.
    manifest
        That of the store.
    batch_size
        The number of images in a batch. A batch has images of one shard only, so that the numbers
        do not depend on which process computes which shards.
    relocation
        Where the images were when they were stored first; None: where they are.
    threads
        The number of threads that read images; None: one for each CPU core.
    on_batch
        Called with the number of rows, and of those that were skipped, when a batch is computed.
    """

    def __init__(
        self,
        program: Program,
        preprocessing: Preprocessing,
        manifest: Manifest,
        batch_size: int,
        *,
        relocation: Relocation | None = None,
        threads: int | None = None,
        on_batch: Callable[[int, int], None] = lambda _rows, _skipped: None,
    ) -> None:
        self._program = program
        self._preprocessing = preprocessing
        self._layers = list(manifest.layers)
        self._dtype = manifest.dtype
        self._batch_size = batch_size
        self._relocation = relocation
        self._threads = threads
        self._on_batch = on_batch

    def compute(
        self,
        images: Iterator[WithSource],
        shard: ShardWriter,
        first_row: int,
        *,
        keep_part: bool = False,
    ) -> ShardReport:
        """Compute the features of a shard's images, and write them batch by batch.

        Parameters
        ----------
        images
            The images.
        shard
            The writer of the shard, which is opened, and completed or discarded.
        first_row
            The number of the first image in the store.
        keep_part
            Whether the batches that are computed become a smaller shard after an error.

        Raises
        ------
        OutputError
            If the shard cannot be written.
        """
        report = ShardReport()
        shard.open()
        try:
            # In a thread of its own, a batch is written whole, whenever Ctrl-C is pressed.
            with ThreadPoolExecutor(1, thread_name_prefix="transferkit-store") as executor:
                self._write_batches(images, shard, first_row, report, executor)
        except BaseException as error:
            if shard.num_rows == 0 or not keep_part or isinstance(error, OutputError):
                shard.discard()
            else:
                shard.finish()
            raise
        shard.finish()
        return report

    def _write_batches(
        self,
        images: Iterator[WithSource],
        shard: ShardWriter,
        first_row: int,
        report: ShardReport,
        executor: Executor,
    ) -> None:
        """Compute features; a batch is written while the next one is computed."""
        rows = _Rows(first_row, self._relocation)
        skipped: list[Skipped] = []
        batches = stream_batches(
            rows.names(images),
            self._preprocessing,
            batch_size=self._batch_size,
            on_error="skip",
            skipped=skipped,
            group_sizes=True,
            read=rows,
            threads=self._threads,
        )
        writing: Future[None] | None = None
        with closing(batches):
            for batch in chain(batches, [None]):
                if batch is not None:
                    try:
                        outputs = self._program.run(batch.pixels, self._layers)
                    except ShapeError as error:
                        # Images that are not resized, all of one size, are too small.
                        if self._preprocessing.size is not None:
                            raise
                        skipped += [Skipped(source, str(error)) for source in batch.sources]
                        rows.pass_over(batch)
                    else:
                        self._find_not_finite(outputs, batch, report)
                        rows.add(batch, outputs)
                for image in skipped:
                    rows.skip(image)
                number_skipped = len(skipped)
                skipped.clear()
                records, arrays = rows.take(is_last=batch is None)
                if writing is not None and records:
                    writing.result()
                if records:
                    writing = executor.submit(shard.append, records, arrays)
                report.num_rows += len(records)
                report.num_skipped += number_skipped
                self._on_batch(len(records), number_skipped)
        if writing is not None:
            writing.result()

    def _find_not_finite(
        self, outputs: Mapping[str, _Array], batch: Batch, report: ShardReport
    ) -> None:
        for layer, array in outputs.items():
            with np.errstate(over="ignore"):
                stored = array.astype(self._dtype, copy=False)
            finite = np.isfinite(stored.reshape(len(stored), -1)).all(axis=1)
            if not finite.all():
                example = batch.sources[int(finite.argmin())]
                number, first = report.not_finite.get(layer, (0, example))
                report.not_finite[layer] = (number + int((~finite).sum()), first)


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
        content, read = load_with_digest(image, source, depth)
        self._contents[index] = (content.size, content.modified, content.sha256)
        return read_image_of_call(content.image, source, depth) if read is None else read

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

    def pass_over(self, batch: Batch) -> None:
        """Note that a batch has no features; its images are skipped next."""
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
