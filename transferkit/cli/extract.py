"""``transferkit extract``: write the activations of layers to a file or to a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import list_files, parse_path, parse_source, parse_store
from transferkit.cli.console import format_count, print_line, print_skipped
from transferkit.cli.features import print_some_skipped
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    DEFAULT_PRECISION,
    Backend,
    BatchSize,
    Cache,
    Network,
    Precision,
    Quiet,
    Weights,
)
from transferkit.errors import DatasetError, FileFormatError, OutputError

if TYPE_CHECKING:
    from transferkit.features import FeatureExtractor
    from transferkit.images import Images

__all__ = ["extract"]

_FILE = ".npz"
# Of files that the command does not write; a folder may have any other suffix.
_OTHER_FILES = (".csv", ".h5", ".hdf5", ".json", ".npy", ".parquet", ".pt", ".safetensors")


def extract(
    images: Annotated[
        list[str],
        typer.Argument(
            parser=parse_source,
            metavar="IMAGE",
            help="Images, or folders of images. For a folder as output also .txt files with a path "
            "on each line, .parquet files, .tar files, patterns such as 'photos/**/*.jpg', and "
            "URLs.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=parse_store,
            metavar="PATH",
            help="The .npz file to write, or the folder of a store or its URL, such as "
            "s3://bucket/features/; a store can hold any number of images.",
        ),
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A layer; 'transferkit layers' lists them. May be given several times.",
            show_default="embedding",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of images in each file of a store.",
            show_default="that of the store, or 10000",
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store float16, in files of half the size.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column of the images in .parquet files.",
            show_default="the only one that can be meant",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="The folder that has the images of the store now, if they were moved.",
        ),
    ] = None,
    retry_skipped: Annotated[
        bool,
        typer.Option(
            "--retry-skipped", help="Try the images again that were skipped before, of a store."
        ),
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Let workers of Ray write the store: on the machines of the cluster that "
            "RAY_ADDRESS names, or in processes on this one.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of workers, with --ray.",
            show_default="one for each CPU",
        ),
    ] = None,
    network: Network = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    precision: Precision = DEFAULT_PRECISION,
    batch_size: BatchSize = 32,
    cache: Cache = None,
    quiet: Quiet = False,
) -> None:
    """Write the activations of layers to a NumPy file or to a store.

    The file contains one array for each layer, and the array 'sources' with the paths of the
    images. A store is a folder of Parquet files, which are written one after another. If
    interrupted, either keeps its results, and resumes when called again with the same output; a
    store does so even after the process was killed. New images are added to a store.
    """
    from transferkit.features.extractor import FeatureExtractor
    from transferkit.sources.opening import is_single

    extractor = FeatureExtractor(
        network,
        weights=weights,
        backend=backend,
        batch_size=batch_size,
        progress=False if quiet else None,
        precision=precision,
        cache=cache,
    )
    layers = layer or ["embedding"]
    if workers is not None and not ray:
        raise typer.BadParameter("--workers is for --ray")
    suffix = PurePath(output).suffix.lower()
    is_folder = Path(output).is_dir()
    if isinstance(output, Path) and suffix == _FILE and not is_folder:
        for name, value in (
            ("--shard-size", shard_size),
            ("--half", half or None),
            ("--column", column),
            ("--base", base),
            ("--retry-skipped", retry_skipped or None),
            ("--ray", ray or None),
        ):
            if value is not None:
                raise typer.BadParameter(f"{name} is for a store; {output} is a file")
        for image in images:
            if not is_single(image) and not Path(image).is_dir():
                raise typer.BadParameter(
                    f"{image}: images from here are written to a store; give a folder as --output, "
                    f"such as {output.with_suffix('')}"
                )
        _to_file(extractor, images, layers, output)
    elif suffix in (_FILE, *_OTHER_FILES) and not is_folder:
        raise OutputError(
            f"{output}: expected a file name that ends in .npz, a folder, or the URL of a folder"
        )
    else:
        if cache is not None:
            raise typer.BadParameter(
                f"--cache is for a .npz file; {output} is a store, which keeps its features itself"
            )
        _to_store(
            extractor,
            images,
            layers,
            output,
            shard_size=shard_size,
            dtype="float16" if half else "float32",
            column=column,
            base=base,
            retry_skipped=retry_skipped,
            ray=ray,
            workers=workers,
        )


def _to_file(
    extractor: FeatureExtractor, images: Sequence[str], layers: list[str], output: Path
) -> None:
    from transferkit.features.output_file import extract_to_file

    files = list_files([*map(Path, images)])
    _calibrate(extractor, files)
    features = extract_to_file(extractor, files, layers, output)
    shapes = ", ".join(f"{name} {features[name].shape}" for name in layers)
    print_line(f"saved {output}: {shapes}")
    print_skipped(features.skipped)


def _calibrate(extractor: FeatureExtractor, images: Images) -> None:
    """Calibrate the extractor on the images, unless it computes in float32."""
    if extractor.precision != DEFAULT_PRECISION:
        extractor.calibrate(images, on_error="skip")
        number = format_count(extractor.calibration_.num_images, "image")
        print_line(f"{extractor.precision}, calibrated on {number}")


def _to_store(
    extractor: FeatureExtractor,
    images: Sequence[str],
    layers: list[str],
    output: Path | str,
    *,
    shard_size: int | None,
    dtype: str,
    column: str | None,
    base: Path | None,
    retry_skipped: bool,
    ray: bool,
    workers: int | None,
) -> None:
    from transferkit.sources import open_sources
    from transferkit.store.manifest import has_manifest

    sources = open_sources(images, column=column)
    # New images are added with the ranges that the others were computed with.
    if not has_manifest(output):
        _calibrate(extractor, sources)
    before = _count_rows(output)
    start = time.monotonic()
    if ray:
        from transferkit.ray import extract as extract_with_ray

        store = extract_with_ray(
            extractor,
            sources,
            output,
            layers,
            num_workers=workers,
            shard_size=shard_size,
            dtype=dtype,
            base=base,
            retry_skipped=retry_skipped,
        )
    else:
        store = extractor.extract_to(
            output,
            sources,
            layers,
            shard_size=shard_size,
            dtype=dtype,
            base=base,
            retry_skipped=retry_skipped,
        )
    seconds = time.monotonic() - start
    number = _count_rows(output) - before
    rows = len(store.indices)
    shapes = ", ".join(f"{name} {(rows, *store.info.layers[name])}" for name in store)
    skipped = len(store.skipped)
    if not rows:
        print_some_skipped(store.skipped, store.folder)
        raise DatasetError(
            f"none of the images could be read; {output} has no features. --retry-skipped tries "
            "them again"
        )
    rate = f"{number} new in {seconds:.1f} s, {number / seconds:.0f} images/s"
    hint = f"; {skipped} skipped; --retry-skipped tries them again" if skipped else ""
    print_line(f"saved {output}: {shapes}; {rate if number else 'none new'}{hint}")
    print_some_skipped(store.skipped, store.folder)


def _count_rows(output: Path | str) -> int:
    """Return the number of images that a store has, skipped ones included."""
    from transferkit.store.manifest import has_manifest
    from transferkit.store.places import find_place
    from transferkit.store.shards import distinct_shards

    if not has_manifest(output):
        return 0
    total = 0
    for shard in distinct_shards(find_place(output)):
        # A damaged one is reported, and computed again.
        with suppress(FileFormatError):
            total += shard.read_metadata()[1]
    return total
