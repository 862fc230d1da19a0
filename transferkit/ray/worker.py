"""What runs in a worker: the network is loaded once, and each call computes and writes a shard."""

from __future__ import annotations

import os
import pickle
import socket
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from transferkit.errors import (
    ArgumentTypeError,
    FileFormatError,
    ParameterError,
    TransferkitError,
    WorkerError,
    shorten_path,
)
from transferkit.features import FeatureExtractor
from transferkit.features.identity import Identity
from transferkit.features.shard_computation import ShardComputer, ShardReport
from transferkit.images.stream import WithSource
from transferkit.ray.cluster import import_ray
from transferkit.ray.progress import ShardProgress
from transferkit.store.manifest import Manifest, read_manifest
from transferkit.store.places import find_place
from transferkit.store.relocation import Relocation
from transferkit.store.shards import list_parts, part_name
from transferkit.store.writing import Slot, new_shard
from transferkit.support.arrow import import_arrow

__all__ = ["Setup", "ShardWorker", "pack_order", "unpack_report"]

# How often a shard is computed whose worker ended each time.
_MAX_ATTEMPTS = 4
_ATTEMPT = ".attempt"


@dataclass(frozen=True, slots=True)
class Setup:
    """What every worker of a run has in common.

    Attributes
    ----------
    extractor
        The extractor, with the network that each worker loads.
    folder
        The folder of the store, which is the same in every process.
    manifest
        The manifest of the store.
    relocation
        Where the images were when they were stored first; None: where they are.
    working_directory
        The directory that relative paths refer to.
    threads
        The number of threads for the network, and of those that read images.
    counter
        The actor that counts images; None: they are not counted.
    """

    extractor: FeatureExtractor
    folder: str | os.PathLike[str]
    manifest: Manifest
    relocation: Relocation | None
    working_directory: str
    threads: int
    counter: Any = None


def pack_order(slot: Slot, images: Sequence[WithSource]) -> Any:
    """Return the order to compute a shard, a ``pyarrow.Table`` of one row for `ShardWorker`.

    Parameters
    ----------
    slot
        Where the shard belongs.
    images
        Its images.

    Raises
    ------
    ArgumentTypeError
        If an image cannot be sent to another process.
    """
    # Ray's own sends classes of a script or a notebook too.
    dump = import_ray().cloudpickle.dumps
    try:
        content = dump((slot, images))
    except Exception:
        for image in images:
            _check_can_be_sent(image, dump)
        raise
    # Paths of one folder become a tenth as long.
    return _row(zlib.compress(content, 1))


def unpack_report(row: Any) -> ShardReport:
    """Return what a worker reported about a shard.

    Raises
    ------
    TransferkitError
        That of the worker, if there was one.
    """
    report: ShardReport | TransferkitError = pickle.loads(row["content"][0].as_py())
    if isinstance(report, TransferkitError):
        raise report
    return report


class ShardWorker:
    """A callable for ``map_batches``: an order in, a report out.

    Parameters
    ----------
    setup
        What every worker of the run has in common.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._progress = ShardProgress(setup.counter)
        self._computer: ShardComputer | None = None

    def __call__(self, order: Any) -> Any:
        """Compute a shard, and return a table with the report, or with the error."""
        result: ShardReport | TransferkitError
        try:
            slot, images = _unpack_order(order)
            result = self._compute(slot, images)
        except TransferkitError as error:
            result = error
        return _row(pickle.dumps(result))

    def _load(self) -> ShardComputer:
        setup = self._setup
        _set_threads(setup.threads)
        manifest = setup.manifest
        _, identity = setup.extractor._describe_store(
            list(manifest.layers), manifest.shard_size, manifest.dtype
        )
        stored = Identity.from_dict(manifest.description)
        differences = stored.differences(
            identity, names=(" in the store", f" on {socket.gethostname()}")
        )
        if differences:
            raise ParameterError(
                f"a worker would compute other features than the store has: "
                f"{'; '.join(differences)}; give the backend and the device, and the same weights "
                "on every machine"
            )
        program, model = setup.extractor._load()
        return ShardComputer(
            program,
            model.preprocessing,
            manifest,
            setup.extractor.batch_size,
            relocation=setup.relocation,
            threads=setup.threads,
            on_batch=self._progress.add,
        )

    def _compute(self, slot: Slot, images: Sequence[WithSource]) -> ShardReport:
        setup = self._setup
        # Not when the worker is created: Ray would start workers again whose creation fails.
        if self._computer is None:
            _change_directory(setup.working_directory)
            _check_store(setup.folder, setup.manifest)
        _begin_attempt(setup.folder, slot, len(images))
        if self._computer is None:
            self._computer = self._load()
        self._progress.begin(slot.number)
        shard = new_shard(setup.folder, setup.manifest, slot)
        report = self._computer.compute(iter(images), shard, slot.first_row)
        for part in list_parts(setup.folder, slot.number):
            # The next run removes what is left.
            with suppress(OSError):
                find_place(setup.folder).remove(part)
        return report


def _begin_attempt(folder: str | os.PathLike[str], slot: Slot, number: int) -> None:
    """Leave a file, which stays if this process is killed; Ray would try for ever.

    Raises
    ------
    WorkerError
        If too many have been killed.
    """
    parts = list_parts(folder, slot.number)
    attempts = sum(part.endswith(f"{_ATTEMPT}.part") for part in parts)
    if attempts >= _MAX_ATTEMPTS:
        raise WorkerError(
            f"{shorten_path(folder)}: shard {slot.number} (images {slot.first_row} to "
            f"{slot.first_row + number - 1} of the store) ended its worker {attempts} times, "
            "perhaps because its machine has not enough memory; use fewer workers, a smaller "
            "batch_size, or find the image"
        )
    find_place(folder).write(part_name(slot.number, _ATTEMPT), b"")


def _row(content: bytes) -> Any:
    pa, _ = import_arrow()
    return pa.table({"content": pa.array([content], pa.large_binary())})


def _unpack_order(order: Any) -> tuple[Slot, Sequence[WithSource]]:
    try:
        unpacked: tuple[Slot, Sequence[WithSource]] = pickle.loads(
            zlib.decompress(order["content"][0].as_py())
        )
    except Exception as error:
        raise WorkerError(
            f"the images cannot be received on {socket.gethostname()}: {error}; the modules of "
            "their classes must be installed on every machine"
        ) from error
    return unpacked


def _check_can_be_sent(image: WithSource, dump: Callable[[object], bytes]) -> None:
    try:
        dump(image)
    except Exception as error:
        raise ArgumentTypeError(
            f"{shorten_path(image.source)}: a {type(image.image).__name__} cannot be sent to "
            f"another process ({error}); expected paths, URLs, or other images that can be pickled"
        ) from error


def _change_directory(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise WorkerError(
            f"{shorten_path(folder)}: the folder in which the run was started cannot be used on "
            f"{socket.gethostname()}: {error.strerror}; start it in a folder that every machine "
            "has, such as one of a shared file system, or /"
        ) from error


def _check_store(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Check that the folder is the same as in the process that started the run."""
    try:
        is_same = read_manifest(folder) == manifest
    except FileFormatError:
        is_same = False
    if not is_same:
        raise WorkerError(
            f"{shorten_path(folder)}: {socket.gethostname()} does not see the store in this "
            "folder; use a folder of a file system that every machine shares"
        )


def _set_threads(number: int) -> None:
    """Set the number of threads of this process, before a framework is imported."""
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[variable] = str(number)
