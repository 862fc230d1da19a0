"""Measure images per second from files to embeddings, against the usual recipe.

``python tests/benchmarks/throughput.py FOLDER`` prints the speed of each backend relative to
torchvision's eager MobileNetV2 over a DataLoader with two workers, and how well reading and
computing overlap. All are run in turn on the same images, so that changes of the machine's speed
affect all of them; the medians of the ratios are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from transferkit import FeatureExtractor, list_images
from transferkit.backends import Program, get_backend
from transferkit.images import read_image, stream_batches
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.weights import find_weights, load_weights

BATCH_SIZE = 32


class Images(Dataset[torch.Tensor]):
    """The data set of the recipe."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = torchvision.datasets.folder.pil_loader(str(self.paths[index]))
        tensor: torch.Tensor = self.transform(image)
        return tensor


def recipe() -> Callable[[list[Path]], object]:
    """Return a function that runs torchvision's eager model over a DataLoader with two workers."""
    _, weights = load_weights(find_weights("mobilenet_v2"))
    model = torchvision.models.mobilenet_v2()
    tensors = {name: torch.tensor(array) for name, array in weights.items()}
    model.load_state_dict(tensors, strict=False)
    model.eval()

    def run(paths: list[Path]) -> object:
        loader = DataLoader(Images(paths), batch_size=BATCH_SIZE, num_workers=2)
        with torch.no_grad():
            return [model.features(batch).mean((2, 3)).numpy() for batch in loader]

    return run


def ours(backend: str) -> Callable[[list[Path]], object]:
    """Return a function that computes the same with a `FeatureExtractor`."""
    extractor = FeatureExtractor(backend=backend, batch_size=BATCH_SIZE, progress=False)
    return extractor.transform


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the duration of the block in seconds."""
    start = time.perf_counter()
    end = start
    yield lambda: end - start
    end = time.perf_counter()


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall-clock time of ``work`` in seconds."""
    with stopwatch() as elapsed:
        work()
    return elapsed()


def overlap(backend: str, paths: list[Path], rounds: int) -> float:
    """Return the speed from end to end as a fraction of that with perfect overlap.

    The latter is 1 / (CPU seconds to read an image / cores + seconds to compute one).
    """
    entry = find_weights("mobilenet_v2")
    program = Program(get_backend(backend), *load_weights(entry))
    batches = list(stream_batches(paths, entry.preprocessing, batch_size=BATCH_SIZE))
    run = ours(backend)

    def read_all() -> None:
        for path in paths:
            entry.preprocessing.apply(read_image(path, str(path)))

    def compute_all() -> None:
        for batch in batches:
            program.run(batch.pixels, ["embedding"])

    run(paths[:BATCH_SIZE])
    compute_all()
    cores = len(os.sched_getaffinity(0))
    shares = []
    for _ in range(rounds):
        start = time.process_time()
        read_all()
        reading = time.process_time() - start
        computing = seconds_of(compute_all)
        shares.append((reading / cores + computing) / seconds_of(lambda: run(paths)))
    return statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder of images")
    parser.add_argument("--backends", default="onnxruntime,tensorflow,torch")
    parser.add_argument("--images", type=int, default=256, help="the number of images to use")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    names = arguments.backends.split(",")
    paths = list_images(arguments.folder)
    paths = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    contenders = {"recipe": recipe(), **{name: ours(name) for name in names}}
    for run in contenders.values():
        run(paths[:BATCH_SIZE])
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            speeds[name].append(len(paths) / seconds_of(lambda run=run: run(paths)))  # type: ignore[misc]
    print(f"{len(paths)} images, batches of {BATCH_SIZE}, {arguments.rounds} rounds in turn")
    for name, found in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(found, speeds["recipe"], strict=True)]
        print(
            f"{name:12} {statistics.median(found):6.1f} images/s, "
            f"{statistics.median(ratios):5.2f} times the recipe "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    for name in names:
        share = overlap(name, paths, arguments.rounds)
        print(f"{name:12} reaches {share:.2f} of perfect overlap of reading and computing")


if __name__ == "__main__":
    main()
