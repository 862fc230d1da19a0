"""Extraction to a store of features, which survives interruptions, and continues after them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import PurePath
from typing import Any

from transferkit.backends import Program
from transferkit.errors import (
    DatasetError,
    DownloadError,
    FileFormatError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    shorten,
    shorten_path,
)
from transferkit.features.calibration import CALIBRATION
from transferkit.features.identity import Identity
from transferkit.features.shard_computation import ShardComputer, ShardReport
from transferkit.images import ImageLike, Images, NamedImage, Preprocessing, count_images
from transferkit.images.bit_depth import BitDepth
from transferkit.images.content import load_content, load_with_digest
from transferkit.images.reading import read_image_of_call
from transferkit.images.stream import WithSource, iterate_images, source_name
from transferkit.sources import open_sources
from transferkit.sources.opening import is_single
from transferkit.store import FeatureStore
from transferkit.store.known import NEW, find_content, find_readable, fingerprint
from transferkit.store.manifest import MANIFEST, Manifest, has_manifest, read_manifest
from transferkit.store.places import Place, find_place
from transferkit.store.relocation import (
    Relocation,
    check_base,
    find_relocation,
    sample_records,
)
from transferkit.store.shards import DTYPES, distinct_shards, encode_source, list_shards
from transferkit.store.writing import Slot, StoreWriter
from transferkit.support.progress import show_progress
from transferkit.support.validation import check_integer
from transferkit.support.warning import warn

__all__ = ["StoreRun", "add_to_store", "choose_shard_size", "extract_to_store", "new_manifest"]

_MAX_EXAMPLES = 3
# The number of new images whose content is compared with that of the store.
_MAX_COMPARED = 10
# Images that were skipped may be on a server.
_RETRY_THREADS = 32
_SHARD_SIZE = 10_000


def choose_shard_size(folder: str | os.PathLike[str], shard_size: int | None) -> int:
    """Return the number of images in a file: as given, that of the store, or 10,000."""
    if shard_size is not None:
        return shard_size
    try:
        return read_manifest(folder).shard_size if has_manifest(folder) else _SHARD_SIZE
    except (OSError, DownloadError, FileFormatError):
        # Reported when the store is opened for writing.
        return _SHARD_SIZE


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
    description = identity.to_dict()
    if program.calibration is not None:
        # The identity has only its digest, by which a run with new images could not repeat it.
        description[CALIBRATION] = program.calibration.to_dict()
    return Manifest(
        description=description,
        layers={layer: tuple(shapes[name]) for layer, name in resolved.items()},
        dtype=dtype,
        shard_size=shard_size,
    )


def extract_to_store(
    program: Program,
    preprocessing: Preprocessing,
    images: Images,
    folder: str | os.PathLike[str],
    manifest: Manifest,
    identity: Identity,
    *,
    batch_size: int,
    progress: bool | None,
    base: str | os.PathLike[str] | None = None,
    retry_skipped: bool = False,
) -> FeatureStore:
    """Run a network over images and add the outputs of layers to a store.

    Parameters
    ----------
    program, preprocessing
        The network, and how images are read.
    batch_size
        The number of images in a batch.
    images, folder, manifest, identity, progress, base, retry_skipped
        As for `add_to_store`, which raises the same errors.

    Returns
    -------
    FeatureStore
        The store, opened.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, after the batches that were computed have been written.
    """

    def add_images(run: StoreRun) -> None:
        computer = ShardComputer(
            program,
            preprocessing,
            run.writer.manifest,
            batch_size,
            relocation=run.relocation,
            on_batch=run.count,
        )
        for slot, new_images in run.shards():
            shard = run.writer.new_shard(slot)
            # A part of a lost shard would leave no number for the rest of it.
            report = computer.compute(new_images, shard, slot.first_row, keep_part=not slot.is_gap)
            run.writer.use(slot, shard.num_rows)
            run.add_report(report)

    return add_to_store(
        images,
        folder,
        manifest,
        identity,
        add_images,
        progress=progress,
        base=base,
        retry_skipped=retry_skipped,
    )


def add_to_store(
    images: Images,
    folder: str | os.PathLike[str],
    manifest: Manifest,
    identity: Identity,
    add_images: Callable[[StoreRun], None],
    *,
    progress: bool | None,
    base: str | os.PathLike[str] | None = None,
    retry_skipped: bool = False,
) -> FeatureStore:
    """Add the features of images to a store, however they are computed.

    Parameters
    ----------
    images
        As for `transferkit.images.stream_batches`; a path is that of anything that
        `transferkit.sources.open_sources` reads.
    folder
        The folder of the store, or its URL, which is created if necessary.
    manifest
        As returned by `new_manifest`.
    identity
        What the features are computed with.
    add_images
        Writes the ``shards`` of a run.
    progress
        Whether to show a progress bar; None: on a terminal or in a notebook.
    base, retry_skipped
        As for `transferkit.FeatureExtractor.extract_to`.

    Returns
    -------
    FeatureStore
        The store, opened.

    Raises
    ------
    DatasetError
        If there are no images, one of several is a folder, a tar file or the like, or none is in
        ``base``.
    OutputError
        If a shard cannot be written, or the folder has other files and is no store.
    """
    place = find_place(folder)
    if isinstance(images, (str, os.PathLike)):
        images = open_sources(images)
    elif isinstance(images, (list, tuple)):
        for image in images:
            _check_single(image)
    total = count_images(images)
    if total == 0:
        # Before the folder is created.
        raise DatasetError("no images were given")
    sources = iterate_images(images)
    if base is not None:
        _check_in_base(sources, base)
    _check_folder(place)

    def differences(stored: Mapping[str, Any]) -> list[str]:
        other = Identity.from_dict(stored, str(place.locate(MANIFEST)))
        return other.differences(identity, names=(" in the store", " here"))

    with ExitStack() as stack:
        with show_progress("Checking shards", None, shown=progress) as checked:
            writer = stack.enter_context(
                StoreWriter(place, manifest, differences=differences, on_check=checked)
            )
        if writer.damaged:
            warn(_describe_damage(place, writer.damaged))
        run = StoreRun(sources, writer, _relocation(place, base), retry_skipped=bool(retry_skipped))
        bar = show_progress("Extracting features", total, shown=progress, status=run.status)
        run.advance = stack.enter_context(bar)
        add_images(run)
        if run.num_seen == 0:
            raise DatasetError("no images were given")
        writer.finish()
    store = FeatureStore(place, base=base)
    run.warn(store)
    return store


def _check_single(image: ImageLike) -> None:
    """Check that an image of several is not a folder, whose images would not be found."""
    if isinstance(image, (str, os.PathLike)) and not is_single(os.fsdecode(image)):
        raise DatasetError(
            f"{shorten_path(os.fsdecode(image))}: one of several images, but a folder, list, "
            "Parquet or tar file, pattern or URL; pass transferkit.sources.open_sources(images) "
            "instead of images"
        )


def _check_in_base(images: Iterable[ImageLike], base: str | os.PathLike[str]) -> None:
    """Check that the images are in a folder, of which the store would have none otherwise."""
    check_base(base)
    if isinstance(images, Iterator):
        # It can be iterated once only.
        return
    here = Relocation("", os.path.join(os.path.abspath(base), ""))
    for index, image in enumerate(images):
        if here.is_local(source_name(image, index)):
            return
    raise DatasetError(
        f"base is {shorten_path(base)}, but none of the images that are given is in this folder; "
        "give them with the paths that they have now"
    )


def _check_folder(place: Place) -> None:
    """Check that a folder that is no store is empty, or has hidden files only."""
    try:
        names = place.names()
    except (OSError, DownloadError):
        # Reported when it is created.
        return
    others = [name for name in names if not name.startswith(".")]
    if others and MANIFEST not in names and not list_shards(place):
        raise OutputError(
            f"{shorten_path(place)}: the folder has other files, such as {shorten(others[0])}, and "
            "is no store of features; choose another folder for the store, which is created"
        )


def _relocation(place: Place, base: str | os.PathLike[str] | None) -> Relocation | None:
    if base is None:
        return None
    records = sample_records(distinct_shards(place))
    return find_relocation(records, base) if records else None


def _describe_damage(place: Place, names: Sequence[str]) -> str:
    number = len(names)
    which = "1 shard was" if number == 1 else f"{number} shards were"
    listed = ", ".join(names[:_MAX_EXAMPLES]) + (", ..." if number > _MAX_EXAMPLES else "")
    return (
        f"{shorten_path(place)}: {which} damaged: {listed}; the features in them are computed "
        "again, and the damaged files kept with .damaged at the end of their names"
    )


class StoreRun:
    """One run of an extraction to a store: what is new, and what it reports.

    Attributes
    ----------
    writer
        The writer of the store.
    relocation
        Where the images were when they were stored first; None: where they are.
    num_seen : int
        The number of images so far, new or not.
    advance : callable
        Advances the progress bar by a number of images.
    """

    def __init__(
        self,
        images: Iterable[ImageLike],
        writer: StoreWriter,
        relocation: Relocation | None,
        *,
        retry_skipped: bool = False,
    ) -> None:
        self.writer = writer
        self.relocation = relocation
        self._waiting: WithSource | None = None
        self._images = self._new_images(images)
        self.num_seen = 0
        self.advance: Callable[[int], None] = lambda _steps: None
        self._num_new = 0
        self._num_skipped = 0
        self._num_changed = 0
        self._changed: list[str] = []
        self._not_finite: dict[str, tuple[int, str]] = {}
        # Until the first image shows it.
        self._may_be_moved = True
        self._stored = distinct_shards(writer.place)
        self._to_retry = set(find_readable(self._stored)[1]) if retry_skipped else set()
        # Digest to source of the first new images; None if they are not compared any more.
        self._first_new: dict[bytes, str] | None = {} if self._stored else None
        bits = writer.manifest.description["preprocessing"]["bit_depth"]
        self._bit_depth: int | None = bits
        self._start = time.monotonic()

    def shards(self) -> Iterator[tuple[Slot, Iterator[WithSource]]]:
        """Yield where each new shard belongs, and its images, which the store does not have.

        The caller takes all images of a shard and calls ``writer.use`` before the next one.
        """
        while self._peek() is not None:
            slot = self.writer.next_slot()
            yield slot, self._images_of(slot)

    def _images_of(self, slot: Slot) -> Iterator[WithSource]:
        for _ in range(slot.max_rows):
            image = self._peek()
            # The image may belong in a lost shard, or not any more.
            if image is None or self.writer.next_slot() != slot:
                return
            self._waiting = None
            yield image

    def _peek(self) -> WithSource | None:
        """Return the next new image, which remains the next one; None at the end."""
        if self._waiting is None:
            self._waiting = next(self._images, None)
        return self._waiting

    def status(self) -> str:
        """Return what the progress bar shows beside the number of images."""
        seconds = time.monotonic() - self._start
        rate = f", {self._num_new / seconds:.0f} images/s" if self._num_new else ""
        return rate + (f", {self._num_skipped:,} skipped" if self._num_skipped else "")

    def count(self, num_rows: int, num_skipped: int) -> None:
        """Count images that were computed or skipped."""
        self._num_new += num_rows
        self._num_skipped += num_skipped
        self.advance(num_rows)

    def add_report(self, report: ShardReport) -> None:
        """Add what is to be reported of a shard that was written.

        Raises
        ------
        OutputError
            If another process has taken the lock of the store since.
        """
        self.writer.check_lock()
        for layer, (number, example) in report.not_finite.items():
            before, first = self._not_finite.get(layer, (0, example))
            self._not_finite[layer] = (before + number, first)

    def warn(self, store: FeatureStore) -> None:
        """Warn of images that have changed, that none was read, and of values that are not finite.

        Parameters
        ----------
        store
            The store after the run.
        """
        if self._num_new and self._num_new == self._num_skipped and not store.indices.size:
            warn(
                f"{shorten_path(self.writer.place)}: none of the images could be read, such as "
                f"{shorten_path(store.skipped[0].source)}: {store.skipped[0].reason}"
            )
        if self._num_changed:
            which = "1 image has" if self._num_changed == 1 else f"{self._num_changed} images have"
            examples = ", ".join(map(shorten_path, self._changed))
            warn(
                f"{shorten_path(self.writer.place)}: {which} changed since the features were "
                f"computed, such as {examples}; the store keeps the features of the images as they "
                "were. For those of the new ones, extract to another folder"
            )
        for layer, (number, example) in self._not_finite.items():
            warn(
                f"layer {layer!r} has values that are NaN or infinite for {number} images, such "
                f"as {example}; check the weights of the network, or store float32"
            )

    def _new_images(self, images: Iterable[ImageLike]) -> Iterator[WithSource]:
        known = self.writer.known
        again: list[tuple[str, WithSource]] = []
        for index, image in enumerate(images):
            self.num_seen += 1
            source = source_name(image, index)
            if self.relocation is not None:
                source = self.relocation.to_stored(source)
            found = known.find(source)
            if found is not None and encode_source(source) in self._to_retry:
                self._to_retry.discard(encode_source(source))
                self._may_be_moved = False
                again.append((source, WithSource(source_name(image, index), image)))
                continue
            if found is None:
                _check_single(image)
                if self._may_be_moved:
                    self._warn_if_moved()
                    self._may_be_moved = False
                known.add_row(source, NEW)
                self._compare_with_stored(image, source)
                yield WithSource(source_name(image, index), image)
                continue
            row, content = found
            if row != NEW:
                self.writer.pass_row(row)
            if row != NEW and self._is_changed(image, source, row, content):
                self._num_changed += 1
                if len(self._changed) < _MAX_EXAMPLES:
                    self._changed.append(source)
            self._may_be_moved = False
            self.advance(1)
        self._warn_of_copies()
        yield from self._readable_now(again)

    def _readable_now(self, images: list[tuple[str, WithSource]]) -> Iterator[WithSource]:
        """Yield those of the images that were skipped which can be read now.

        Of the others the store has the reason already.
        """
        if not images:
            return
        with ThreadPoolExecutor(_RETRY_THREADS, thread_name_prefix="transferkit-retry") as executor:
            for start in range(0, len(images), 2 * _RETRY_THREADS):
                part = images[start : start + 2 * _RETRY_THREADS]
                named = [image for _, image in part]
                for (source, image), can in zip(
                    part, executor.map(self._can_be_read, named), strict=True
                ):
                    if can:
                        self.writer.known.add_row(source, NEW)
                        yield image
                    else:
                        self.advance(1)

    def _can_be_read(self, item: WithSource) -> bool:
        try:
            content = load_content(item.image, item.source)
            read_image_of_call(content.image, item.source, BitDepth(self._bit_depth))
        except (ImageError, MemoryError):
            return False
        return True

    def _compare_with_stored(self, image: ImageLike, source: str) -> None:
        """Note the digest of one of the first new images, and compare these with the store."""
        if self._first_new is None or not isinstance(image, (str, os.PathLike)):
            return
        try:
            content = load_content(image, source)
        except ImageError:
            return
        if content.size:
            self._first_new.setdefault(content.sha256, source_name(image, 0))
        if len(self._first_new) == _MAX_COMPARED:
            self._warn_of_copies()

    def _warn_of_copies(self) -> None:
        """Warn if the first new images are in the store under another path."""
        new, self._first_new = self._first_new, None
        found = find_content(self._stored, new) if new else {}
        if new and found:
            digest, stored = next(iter(found.items()))
            warn(
                f"{shorten_path(self.writer.place)}: {len(found)} of the first {len(new)} new "
                "images have the content of images that the store has in another folder, such as "
                f"{shorten_path(new[digest])} and {shorten_path(stored)}; if they are the same, "
                "give their paths as before, or pass base, the folder that has them"
            )

    def _warn_if_moved(self) -> None:
        """Warn if the images of the store are elsewhere now, before all are computed again."""
        first = self.writer.first_source
        if first is None or self.relocation is not None or "://" in first:
            return
        if PurePath(first).is_absolute() and not os.path.exists(first):
            warn(
                f"{shorten_path(self.writer.place)}: the images of this store, such as "
                f"{shorten_path(first)}, are not there any more, and the first one that is given "
                "now is new to it; if they were moved, pass base, the folder that has them now, "
                "or they are computed again"
            )
            self._first_new = None

    def _is_changed(self, image: ImageLike, source: str, row: int, content: int) -> bool:
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
            digest = load_with_digest(image, source, BitDepth(self._bit_depth))[0].sha256
        except ImageError:
            digest = b""
        before = self.writer.find_record(row).sha256
        return digest != (before or b"")
