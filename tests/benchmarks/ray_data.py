"""Measure extraction with Ray, and what it costs on more machines.

``python tests/benchmarks/ray_data.py rate FOLDER`` prints images per second of MobileNetV2 on two
CPUs, from files to embeddings on disk, run in turn on the same images: `transferkit.ray.extract`
with two workers, `FeatureExtractor.extract_to`, Ray Data with torchvision's model in two ways, and
clip-retrieval's pipeline with torchvision's model in place of CLIP, if clip-retrieval is installed.
Each runs on a few and on many images; the difference gives the rate, the rest is the time to start.
``cost FOLDER`` prints the CPU time of an image with one thread for the network, as a worker has.
``overhead`` prints what Ray adds to each shard, and what the process that starts a run does for
each image. ``model`` prints the duration of a run on more machines from these numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import logging
import math
import os
import resource
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import ray.data
from PIL import Image

import transferkit.ray
from transferkit import FeatureExtractor, Preprocessing, list_images
from transferkit.networks import INPUT, NetworkBuilder
from transferkit.ray import extraction
from transferkit.ray.worker import unpack_report
from transferkit.testing.strategies import random_weights_and_statistics

BATCH_SIZE = 32
SHARDS = 8
CORES_OF_MACHINE = 16


class TorchModel:
    """Torchvision's MobileNetV2 without its classifier, as the documentation of Ray Data has it."""

    def __init__(self) -> None:
        import torch
        import torchvision

        self.torch = torch
        self.model = torchvision.models.mobilenet_v2().eval()

    def embed(self, pixels: Any) -> np.ndarray:
        """Return the embeddings of a batch of tensors."""
        with self.torch.inference_mode():
            return self.model.features(pixels).mean((2, 3)).numpy()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Add the embeddings to a batch of preprocessed images."""
        return {
            "path": batch["path"],
            "embedding": self.embed(self.torch.from_numpy(batch["image"])),
        }


class TorchModelOfPaths(TorchModel):
    """The same, which also reads the images, so that these are not sent between processes."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the embeddings of a batch of paths."""
        pixels = [preprocess()(Image.open(path).convert("RGB")) for path in batch["path"]]
        return {"path": batch["path"], "embedding": self.embed(self.torch.stack(pixels))}


def preprocess() -> Callable[[Image.Image], Any]:
    """Return torchvision's preprocessing."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    """Preprocess an image that Ray Data has read."""
    return {"path": row["path"], "image": preprocess()(Image.fromarray(row["image"])).numpy()}


def ours_with_ray(photos: Path, output: Path) -> None:
    """Extract with two workers."""
    number = len(os.listdir(photos))
    extractor = FeatureExtractor(backend="onnxruntime", batch_size=BATCH_SIZE, progress=False)
    size = math.ceil(number / SHARDS)
    transferkit.ray.extract(extractor, photos, output, num_workers=2, shard_size=size)


def ours_alone(photos: Path, output: Path) -> None:
    """Extract in this process."""
    extractor = FeatureExtractor(backend="onnxruntime", batch_size=BATCH_SIZE, progress=False)
    extractor.extract_to(output, photos)


def ray_data_recipe(photos: Path, output: Path) -> None:
    """Read with tasks of Ray Data, and compute with an actor."""
    images = ray.data.read_images(str(photos), mode="RGB", include_paths=True)
    embeddings = images.map(prepare).map_batches(
        TorchModel, batch_size=BATCH_SIZE, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
    )
    embeddings.write_parquet(str(output))


def ray_data_by_hand(photos: Path, output: Path) -> None:
    """Read and compute in two actors."""
    rows = [{"path": str(path)} for path in list_images(photos)]
    paths = ray.data.from_items(rows, override_num_blocks=SHARDS)
    embeddings = paths.map_batches(
        TorchModelOfPaths,
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    embeddings.write_parquet(str(output))


def load_clip_retrieval() -> tuple[Any, Any, Any] | None:
    """Return its reader, runner and writer, without what its other commands need."""
    found = importlib.util.find_spec("clip_retrieval")
    if found is None:
        return None
    for name in ("clip_retrieval", "clip_retrieval.clip_inference"):
        package = types.ModuleType(name)
        [folder] = found.submodule_search_locations or [""]
        package.__path__ = [os.path.join(folder, *name.split(".")[1:])]
        sys.modules[name] = package
    from clip_retrieval.clip_inference import reader, runner, writer

    return reader.FilesReader, runner.Runner, writer.NumpyWriter


class NoLogger:
    """In place of the logger of clip-retrieval, which writes files."""

    def start(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def __call__(self, stats: object) -> None:
        """Do nothing."""


def clip_retrieval(photos: Path, output: Path, modules: tuple[Any, Any, Any]) -> None:
    """Run clip-retrieval's reader, loop and writer with torchvision's model."""
    reader, runner, writer = modules
    flags = {"enable_text": False, "enable_image": True, "enable_metadata": False}

    def mapper() -> Callable[[dict[str, Any]], dict[str, Any]]:
        model = TorchModel()

        def embed(item: dict[str, Any]) -> dict[str, Any]:
            embeddings = model.embed(item["image_tensor"]).astype(np.float16)
            return {"image_embs": embeddings, "image_filename": item["image_filename"]}

        return embed

    run = runner(
        lambda sampler: reader(sampler, preprocess(), None, photos, BATCH_SIZE, 2, **flags),
        mapper,
        lambda index: writer(index, str(output), output_partition_count=1, **flags),
        lambda _: NoLogger(),
        1,
    )
    run(0)


@contextlib.contextmanager
def some_photos(folder: Path, number: int) -> Iterator[Path]:
    """Yield a folder with a number of photos, each several times if necessary."""
    paths = [path for path in list_images(folder) if path.suffix == ".jpg"]
    with tempfile.TemporaryDirectory() as photos:
        for index, path in enumerate(itertools.islice(itertools.cycle(paths), number)):
            os.symlink(path.resolve(), f"{photos}/{index:06}.jpg")
        yield Path(photos)


def seconds(function: Callable[[], object]) -> float:
    """Return the duration of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_rate(folder: Path, few: int, many: int, rounds: int) -> None:
    """Print the rate and the time to start of each way, run in turn."""
    ways: dict[str, Callable[[Path, Path], None]] = {
        "transferkit.ray": ours_with_ray,
        "extract_to": ours_alone,
        "Ray Data, recipe": ray_data_recipe,
        "Ray Data, by hand": ray_data_by_hand,
    }
    modules = load_clip_retrieval()
    if modules is None:
        print("clip-retrieval is not installed")
    else:
        ways["clip-retrieval's pipeline"] = partial(clip_retrieval, modules=modules)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    starts: dict[str, list[float]] = {name: [] for name in ways}
    with some_photos(folder, few) as small, some_photos(folder, many) as large:
        for _ in range(rounds):
            for name, way in ways.items():
                times = []
                for photos in (small, large):
                    with tempfile.TemporaryDirectory() as output:
                        times.append(seconds(partial(way, photos, Path(output, "out"))))
                rates[name].append((many - few) / (times[1] - times[0]))
                starts[name].append(times[0] - few / rates[name][-1])
                print(
                    f"{name}: {few} images in {times[0]:.1f} s, {many} in {times[1]:.1f} s: "
                    f"{rates[name][-1]:.1f} images/s after {starts[name][-1]:.1f} s",
                    flush=True,
                )
    ours = rates["transferkit.ray"]
    for name in ways:
        ratio = statistics.median(a / b for a, b in zip(ours, rates[name], strict=True))
        print(
            f"{name}: median {statistics.median(rates[name]):.1f} images/s after "
            f"{statistics.median(starts[name]):.1f} s; transferkit.ray is {ratio:.2f} times as fast"
        )


def measure_cost(folder: Path, number: int) -> None:
    """Print the CPU time of an image, which does not depend on what else the machine does."""
    os.environ["OMP_NUM_THREADS"] = "1"
    extractor = FeatureExtractor(backend="onnxruntime", batch_size=BATCH_SIZE, progress=False)
    with some_photos(folder, number) as photos, tempfile.TemporaryDirectory() as output:
        extractor.transform(list_images(photos)[:BATCH_SIZE])
        start = time.process_time()
        extractor.extract_to(Path(output, "out"), photos)
        each = (time.process_time() - start) / number
    print(f"{each * 1000:.1f} ms of CPU time for each of {number} images: {1 / each:.1f} a second")


class DrainedError(Exception):
    """Ends a run whose orders have been counted."""


def tiny_extractor() -> FeatureExtractor:
    """Return an extractor whose network costs next to nothing."""
    builder = NetworkBuilder("tiny", input_size=8)
    builder.alias("embedding", builder.add_node("pooled", "mean", INPUT, axes=(1, 2)))
    builder.linear("logits", "pooled", 3, 2)
    network = builder.build()
    return FeatureExtractor(
        network,
        weights=random_weights_and_statistics(network, seed=0),
        preprocessing=Preprocessing(8),
        backend="onnxruntime",
        progress=False,
    )


def measure_overhead(shards: int, paths: int) -> None:
    """Print what Ray costs for each shard, and the driver for each image."""
    extractor = tiny_extractor()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        Image.new("RGB", (8, 8)).save(photos / "0.png")
        for index in range(1, shards):
            os.link(photos / "0.png", photos / f"{index}.png")
        arrivals: list[float] = []

        def record(row: Any) -> Any:
            arrivals.append(time.perf_counter())
            return unpack_report(row)

        start = time.perf_counter()
        with patch.object(extraction, "unpack_report", record):
            store = Path(folder, "many")
            transferkit.ray.extract(extractor, photos, store, num_workers=2, shard_size=1)
        alone = seconds(lambda: extractor.extract_to(Path(folder, "one"), photos, shard_size=1))
        each = (arrivals[-1] - arrivals[0]) / (shards - 1)
        print(
            f"{shards} shards of one image: the first after {arrivals[0] - start:.1f} s, then "
            f"{each * 1000:.0f} ms for each; in one process {alone / shards * 1000:.0f} ms"
        )
        names = (f"{photos}/class{index % 1000:03}/{index:08}.jpg" for index in range(paths))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        # The orders are made, and forgotten instead of being computed.
        def drain(ray: Any, run: Any, *_: object) -> None:
            start = time.perf_counter()
            orders = [ray.put(order) for order in extraction._orders(run)]
            duration = time.perf_counter() - start
            print(f"{duration / paths * 1e6:.0f} microseconds for each of {paths} paths")
            sizes = sum(ray.get(order).nbytes for order in orders)
            print(f"{len(orders)} orders, {sizes / paths:.1f} bytes per image")
            raise DrainedError

        with patch.object(extraction, "_add_images", drain), contextlib.suppress(DrainedError):
            transferkit.ray.extract(extractor, names, Path(folder, "listed"))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"the peak memory of the process that starts the run grew by {grown:.0f} MB")


def print_model(rate: float, start: float, order: float, listing: float, images: int) -> None:
    """Print the duration of a run on 1, 10 and 100 machines.

    Parameters
    ----------
    rate
        Images per second of a worker with one CPU.
    start
        The seconds until the first worker computes.
    order
        The seconds that Ray adds to a shard, one after the other.
    listing
        The seconds that the driver needs for each image before the workers start.
    images
        The number of images.
    """
    for machines in (1, 10, 100):
        workers = machines * CORES_OF_MACHINE
        for size in (10_000, 1_000, 100):
            shards = math.ceil(images / size)
            rounds = math.ceil(shards / workers)
            computing = max(rounds * size / rate, shards * order)
            duration = start + listing * images + computing
            print(
                f"{machines} machines, shards of {size}: {duration / 60:.1f} min, "
                f"{machines * duration / 3600:.2f} machine-hours, {images / duration:.0f} images/s"
            )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rate = commands.add_parser("rate")
    rate.add_argument("folder", type=Path)
    rate.add_argument("--few", type=int, default=64)
    rate.add_argument("--many", type=int, default=640)
    rate.add_argument("--rounds", type=int, default=1)
    cost = commands.add_parser("cost")
    cost.add_argument("folder", type=Path)
    cost.add_argument("--number", type=int, default=400)
    overhead = commands.add_parser("overhead")
    overhead.add_argument("--shards", type=int, default=100)
    overhead.add_argument("--paths", type=int, default=100_000)
    model = commands.add_parser("model")
    for name in ("rate", "start", "order", "listing"):
        model.add_argument(f"--{name}", type=float, required=True)
    model.add_argument("--images", type=int, default=1_000_000)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    if command in ("model", "cost"):
        {"model": print_model, "cost": measure_cost}[command](**arguments)
        return
    # One start for all, so that it does not count.
    ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if command == "rate":
        measure_rate(**arguments)
    else:
        measure_overhead(**arguments)


if __name__ == "__main__":
    main()
