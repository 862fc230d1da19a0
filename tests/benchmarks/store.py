"""Measure the store of features: memory, images per second, and reading.

``python tests/benchmarks/store.py rate FOLDER`` prints the images per second of
`FeatureExtractor.extract_to` relative to `FeatureExtractor.transform`, run in turn on the images in
a folder. ``memory`` prints the peak memory of processes that extract 5,000 and 100,000 small JPEG
files, or other numbers. ``reading`` prints the time to read a layer of 50,000 rows: from the shards
with pyarrow, with `FeatureStore` for the first time, and again.
"""

from __future__ import annotations

import argparse
import io
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from transferkit import FeatureExtractor, FeatureStore, Preprocessing, list_images
from transferkit.store import Record, ShardWriter
from transferkit.store.manifest import Manifest, write_manifest

SIDE = 64
IMAGES_OF_FOLDER = 1000
LENGTH = 1280


def wall_and_cpu(function: Callable[[], object]) -> tuple[float, float]:
    """Return the duration of a call, and the CPU time of all threads, in seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


def seconds(function: Callable[[], object]) -> float:
    """Return the duration of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_rate(folder: Path, layers: list[str], rounds: int) -> None:
    """Print the rate of `extract_to` relative to that of `transform`.

    Where other processes use the CPU, the ratio of the CPU times varies less.
    """
    paths = list_images(folder)
    for layer in layers:
        extractor = FeatureExtractor(backend="onnxruntime", layer=layer, progress=False)
        extractor.transform(paths[:32])
        ratios, cpu_ratios = [], []
        for _ in range(rounds):
            plain, plain_cpu = wall_and_cpu(partial(extractor.transform, paths))
            with tempfile.TemporaryDirectory() as store:
                stored, stored_cpu = wall_and_cpu(partial(extractor.extract_to, store, paths))
            ratios.append(plain / stored)
            cpu_ratios.append(plain_cpu / stored_cpu)
            print(
                f"{layer}: transform {len(paths) / plain:.1f}, extract_to "
                f"{len(paths) / stored:.1f} images/s, ratio {ratios[-1]:.3f}; of the CPU times "
                f"{cpu_ratios[-1]:.3f}"
            )
        print(
            f"{layer}: median ratio {statistics.median(ratios):.3f}, of the CPU times "
            f"{statistics.median(cpu_ratios):.3f}"
        )


def write_photos(folder: Path, number: int) -> None:
    """Write small JPEG files, of 50 different contents, 1000 to a folder."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(50):
        file = io.BytesIO()
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(file, "JPEG")
        contents.append(file.getvalue())
    content = itertools.cycle(contents)
    for index in range(number):
        path = folder / f"{index // IMAGES_OF_FOLDER:05}" / f"{index:08}.jpg"
        if index % IMAGES_OF_FOLDER == 0:
            path.parent.mkdir()
        path.write_bytes(next(content))


def extract_small(photos: Path, store: Path) -> None:
    """Extract small photos, and print the peak memory of this process in MB."""
    extractor = FeatureExtractor(
        backend="onnxruntime", weights="random", preprocessing=Preprocessing(32), progress=False
    )
    start = time.perf_counter()
    rows = len(extractor.extract_to(store, photos).indices)
    rate = rows / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows} images: peak {peak:.0f} MB, {rate:.0f} images/s")


def measure_memory(numbers: list[int]) -> None:
    """Print the peak memory of extractions of several numbers of images."""
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            photos = Path(folder, "photos")
            photos.mkdir()
            write_photos(photos, number)
            command = [sys.executable, __file__, "extract-small", str(photos), f"{folder}/store"]
            subprocess.run(command, check=True)


def measure_reading(rows: int) -> None:
    """Print how long reading a layer takes."""
    with tempfile.TemporaryDirectory() as folder:
        layers = {"embedding": (LENGTH,)}
        write_manifest(Path(folder), Manifest({}, layers, "float32", 10_000))
        array = np.random.default_rng(0).random((10_000, LENGTH), np.float32)
        for number, start in enumerate(range(0, rows, 10_000)):
            with ShardWriter(folder, number, layers, metadata={"first_row": start}) as writer:
                writer.append(
                    [Record(start + row, f"{start + row}.jpg") for row in range(10_000)],
                    {"embedding": array},
                )

        def read_with_arrow() -> None:
            for path in FeatureStore(folder).shards:
                pq.read_table(path, columns=["embedding"])

        def read() -> None:
            FeatureStore(folder)["embedding"].sum()

        for _ in range(3):
            for path in Path(folder).glob("_arrays/*"):
                path.unlink()
            arrow, first, again = map(seconds, (read_with_arrow, read, read))
            print(
                f"{rows} rows of {LENGTH}: pyarrow {arrow:.2f} s, the store for the first time "
                f"{first:.2f} s, again {again:.2f} s"
            )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rate = commands.add_parser("rate")
    rate.add_argument("folder", type=Path)
    rate.add_argument("--layer", action="append")
    rate.add_argument("--rounds", type=int, default=5)
    memory = commands.add_parser("memory")
    memory.add_argument("numbers", type=int, nargs="*", default=[5_000, 100_000])
    small = commands.add_parser("extract-small")
    small.add_argument("photos", type=Path)
    small.add_argument("store", type=Path)
    reading = commands.add_parser("reading")
    reading.add_argument("--rows", type=int, default=50_000)
    arguments = parser.parse_args()
    if arguments.command == "rate":
        layers = arguments.layer or ["embedding", "features.14"]
        measure_rate(arguments.folder, layers, arguments.rounds)
    elif arguments.command == "memory":
        measure_memory(arguments.numbers)
    elif arguments.command == "extract-small":
        extract_small(arguments.photos, arguments.store)
    else:
        measure_reading(arguments.rows)


if __name__ == "__main__":
    main()
