"""Extraction to a store by workers of Ray, one shard at a time each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from transferkit.errors import (
    ArgumentTypeError,
    ImageError,
    ParameterError,
    TransferkitError,
    UnsupportedError,
    WorkerError,
    shorten,
    shorten_path,
)
from transferkit.features import FeatureExtractor
from transferkit.features.identity import Identity
from transferkit.features.shard_computation import ShardReport
from transferkit.features.to_store import StoreRun, add_to_store, choose_shard_size
from transferkit.images import Images
from transferkit.images.reading import is_encoded, read_content
from transferkit.images.stream import WithSource
from transferkit.networks import Network
from transferkit.ray.cluster import connected
from transferkit.ray.progress import counted
from transferkit.ray.worker import Setup, ShardWorker, pack_order, unpack_report
from transferkit.sources.items import UnreadableImage
from transferkit.store import FeatureStore
from transferkit.store.manifest import Manifest, read_manifest
from transferkit.store.places import find_place
from transferkit.support.arrow import import_arrow
from transferkit.support.validation import check_integer, check_non_negative

__all__ = ["extract"]


def extract(
    fx: FeatureExtractor,
    images: Images,
    folder: str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    *,
    num_workers: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    shard_size: int | None = None,
    dtype: str = "float32",
    base: str | os.PathLike[str] | None = None,
    retry_skipped: bool = False,
) -> FeatureStore:
    """Write the outputs of several layers to a store, with workers of Ray.

    The store is that of `transferkit.FeatureExtractor.extract_to`: the same rows in the same
    order, with the same numbers, and a run that was interrupted or killed is resumed by either.
    With PyTorch and TensorFlow, sums are rounded differently with another number of threads.
    This process lists the images, holds the lock of the store, and divides the images into shards;
    each worker loads the network once, and computes and writes a shard at a time. A shard whose
    worker is lost is computed again by another.

    If Ray is not initialized, it connects to the cluster of the environment (``RAY_ADDRESS``), or
    starts on this machine, until the call ends.

    Parameters
    ----------
    fx
        The extractor, of which each worker gets a copy. Its ``device`` is that of the workers,
        such as ``"cuda:0"`` for one GPU each.
    images
        As for `transferkit.FeatureExtractor.extract_to`. Every worker must be able to read them:
        paths on a file system that all machines share, or URLs. Other images are sent to the
        workers. All of them are listed before the first is computed.
    folder
        The folder of the store, on a file system that all machines share, or its URL, such as
        ``"s3://bucket/features/"``. The workers need the same credentials in their environment.
    layers
        Names from ``fx.layers()``; None: only ``fx.layer``.
    num_workers
        The number of workers; None: as many as the CPUs and GPUs of the cluster are enough for.
    num_cpus
        The number of CPUs of a worker, and of its threads.
    num_gpus
        The number of GPUs of a worker; a fraction if several share one.
    shard_size, dtype, base, retry_skipped
        As for `transferkit.FeatureExtractor.extract_to`. A worker that is lost loses a shard at
        most.

    Returns
    -------
    FeatureStore
        The store, opened.

    Raises
    ------
    UnsupportedError
        If Ray or pyarrow, or what fsspec needs for a URL, is not installed, or the network is a
        model object of a framework.
    WorkerError
        If a machine does not see the store or the current directory, or a shard ended its worker
        several times.
    ArgumentTypeError
        If ``fx`` is no `FeatureExtractor` or cannot be sent to another process, or an image cannot.
    ParameterError
        If a number is invalid, the cluster is too small for one worker, or as for ``extract_to``.

    Notes
    -----
    It also raises the errors of `transferkit.FeatureExtractor.extract_to`, and warns as that does.

    Examples
    --------
    >>> from transferkit import FeatureExtractor
    >>> import transferkit.ray
    >>> fx = FeatureExtractor("mobilenet_v2")
    >>> store = transferkit.ray.extract(fx, "photos/", "features/", num_workers=2)  # doctest: +SKIP
    """
    _check_extractor(fx)
    place = find_place(folder).absolute()
    if num_workers is not None:
        num_workers = check_integer("num_workers", num_workers, 1)
    num_cpus = check_integer("num_cpus", num_cpus, 1)
    check_non_negative("num_gpus", num_gpus)
    import_arrow()
    fx._take_stored_calibration(folder)
    shard_size = choose_shard_size(place, shard_size)
    resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
    with connected(num_workers and max(num_workers * num_cpus, os.cpu_count() or 1)) as ray:
        size = _pool_size(ray, num_workers, num_cpus, num_gpus)
        manifest, identity = _describe(ray, fx, layers, shard_size, dtype, resources)

        def add_images(run: StoreRun) -> None:
            _add_images(ray, run, fx, size, resources)

        return add_to_store(
            images,
            place,
            manifest,
            identity,
            add_images,
            progress=fx.progress,
            base=base,
            retry_skipped=retry_skipped,
        )


def _check_extractor(fx: object) -> None:
    if not isinstance(fx, FeatureExtractor):
        raise ArgumentTypeError(f"fx is a {type(fx).__name__}; expected a FeatureExtractor")
    model = fx.network if isinstance(fx.network, (str, Network)) else fx.model()
    if not isinstance(model, (str, Network)) and model.wrapped is not None:
        raise UnsupportedError(
            f"network is a {type(fx.network).__name__}, which is not sent to workers; expected a "
            "network of this library. Use FeatureExtractor.iter_extract in this process"
        )


def _pool_size(ray: Any, num_workers: int | None, num_cpus: int, num_gpus: float) -> int:
    """Return the number of workers."""
    total = ray.cluster_resources()
    fits = int(total.get("CPU", 0) // num_cpus)
    if num_gpus:
        fits = min(fits, int(total.get("GPU", 0) / num_gpus))
    if fits < 1:
        raise ParameterError(
            f"a worker has num_cpus={num_cpus} and num_gpus={num_gpus}, but Ray has "
            f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; use fewer"
        )
    return fits if num_workers is None else num_workers


def _describe(
    ray: Any,
    fx: FeatureExtractor,
    layers: Sequence[str] | None,
    shard_size: int,
    dtype: str,
    resources: dict[str, float],
) -> tuple[Manifest, Identity]:
    """Return what `FeatureExtractor` says about the store where the workers run.

    This process may have no GPU, and should not have the network in memory.
    """
    task = ray.remote(FeatureExtractor._describe_store).options(**resources)
    try:
        reference = task.remote(fx, layers, shard_size, dtype)
    except (TypeError, ValueError, AttributeError) as error:
        raise ArgumentTypeError(
            f"fx cannot be sent to another process ({shorten(str(error))}); give the network, the "
            "weights and the backend by their names"
        ) from error
    try:
        result: tuple[Manifest, Identity] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TransferkitError):
            raise error.cause from None
        raise
    return result


def _add_images(
    ray: Any, run: StoreRun, fx: FeatureExtractor, size: int, resources: dict[str, float]
) -> None:
    """Have workers write the shards of the new images of a run."""
    # Kept by Ray, which writes them to disk if they are many.
    orders = [ray.put(order) for order in _orders(run)]
    if not orders:
        return
    with counted(ray, run) as (counter, done):
        place = run.writer.place
        setup = Setup(
            fx,
            place,
            read_manifest(place),
            run.relocation,
            os.getcwd(),
            threads=int(resources["num_cpus"]),
            counter=counter,
        )
        for report in _compute(ray, orders, setup, min(size, len(orders)), resources):
            run.add_report(report)
            done.append((report.num_rows, report.num_skipped))


def _compute(
    ray: Any, orders: list[Any], setup: Setup, size: int, resources: dict[str, float]
) -> Iterator[ShardReport]:
    """Have workers write shards, and yield their reports in the order of arrival."""
    dataset = ray.data.from_arrow_refs(orders).map_batches(
        ShardWorker,
        fn_constructor_args=(setup,),
        batch_size=1,
        batch_format="pyarrow",
        # The next order must not wait for a worker that is busy while another is idle.
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        **resources,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    rows = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        with closing(rows):
            yield from map(unpack_report, rows)
    except ray.exceptions.RayTaskError:
        # A mistake in this library or in a plugin, with its traceback.
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"{shorten_path(setup.folder)}: Ray ended the run: {shorten(str(error))}; what is "
            "complete is kept, and the next call continues"
        ) from error


def _orders(run: StoreRun) -> Iterator[Any]:
    """Yield the order for each shard of the new images."""
    for slot, new_images in run.shards():
        images = list(map(_kept, new_images))
        run.writer.use(slot, len(images))
        yield pack_order(slot, images)


def _kept(item: WithSource) -> WithSource:
    """Return an image that stays as it is, whatever happens to memory or files of the caller."""
    image = item.image
    if isinstance(image, np.ndarray):
        # A video reader, for example, may write every frame to the same memory.
        return WithSource(item.source, image.copy())
    if not is_encoded(image):
        return item
    try:
        return WithSource(item.source, read_content(image, item.source))
    except ImageError as error:
        return WithSource(item.source, UnreadableImage(item.source, error.reason))
