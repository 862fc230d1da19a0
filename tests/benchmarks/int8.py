"""How fast and how close to float32 networks with 8-bit integers are.

``python tests/benchmarks/int8.py networks`` runs every network of the catalog, with random weights,
on the images of the demo. ``python tests/benchmarks/int8.py speed FOLDER`` reads the images of a
folder and extracts the embedding of MobileNetV2. ``python tests/benchmarks/int8.py accuracy FOLDER
...`` fits classifiers to data sets, folders with ``train`` and ``test``. float32 and int8 take
turns in one run. Time is also measured as that of all cores, which other programs change less.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferkit import Classifier, FeatureExtractor, list_images
from transferkit.demo import TEST, TRAIN
from transferkit.networks import NETWORKS


def _alternate(
    functions: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Return the median of the seconds, and of those of all cores, of each function."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            wall, cores = time.perf_counter(), time.process_time()
            function()
            times[name].append((time.perf_counter() - wall, time.process_time() - cores))
    return {name: tuple(np.median(values, axis=0)) for name, values in times.items()}


def _cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cosine of each row of ``a`` with that of ``b``."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def _networks(names: list[str], number: int) -> None:
    print("| network | weights | cosine | ratio of speeds |\n|---|---|---|---|")
    for name in names:
        weights = None if name == "mobilenet_v2" else "random"
        pair = {
            precision: FeatureExtractor(
                name, weights=weights, precision=precision, backend="onnxruntime", progress=False
            )
            for precision in ("float32", "int8")
        }
        # Every third image: some of each class.
        pair["int8"].calibrate(list_images(TRAIN)[:: 24 // number])
        images = list_images(TEST)[:: 24 // number]
        features = {precision: fx.transform(images) for precision, fx in pair.items()}
        model = pair["float32"].model()
        size = model.image_size
        pixels = np.random.default_rng(0).random((4, size, size, 3), np.float32)
        programs = {precision: fx._load()[0] for precision, fx in pair.items()}
        times = _alternate(
            {
                precision: partial(program.run, pixels, ["embedding"])
                for precision, program in programs.items()
            },
            5,
        )
        cosine = np.median(_cosines(features["float32"], features["int8"]))
        ratio = times["float32"][1] / times["int8"][1]
        print(f"| {name} | {weights or 'published'} | {cosine:.4f} | {ratio:.2f} |", flush=True)


def _speed(folder: Path, rounds: int) -> None:
    images = list_images(folder)
    pair = {
        precision: FeatureExtractor(precision=precision, backend="onnxruntime", progress=False)
        for precision in ("float32", "int8")
    }
    pair["int8"].calibrate(images)
    pixels = np.random.default_rng(0).random((32, 224, 224, 3), np.float32)
    programs = {precision: fx._load()[0] for precision, fx in pair.items()}
    for program in programs.values():
        program.run(pixels[:4], ["embedding"])
    forward = {
        key: partial(program.run, pixels, ["embedding"]) for key, program in programs.items()
    }
    whole = {key: partial(fx.transform, images) for key, fx in pair.items()}
    cases: tuple[tuple[str, int, dict[str, Callable[[], object]]], ...] = (
        ("forward", len(pixels), {**forward}),
        ("from files", len(images), {**whole}),
    )
    for what, number, functions in cases:
        times = _alternate(functions, rounds)
        for precision, (wall, cores) in times.items():
            print(
                f"{what}, {precision}: {number / wall:.1f} images/s; "
                f"{number / cores:.1f} images per second of one core"
            )
        ratios = [a / b for a, b in zip(times["float32"], times["int8"], strict=True)]
        print(f"{what}: {ratios[0]:.2f} times as fast, {ratios[1]:.2f} by the time of all cores")


def _accuracy(folders: list[Path]) -> None:
    print("| data set | float32 | int8 | calibrated on |\n|---|---|---|---|")
    for folder in folders:
        pair = {
            precision: Classifier(precision=precision, backend="onnxruntime", progress=False)
            for precision in ("float32", "int8")
        }
        scores = {
            precision: classifier.fit(folder / "train", on_error="skip").score(folder / "test")
            for precision, classifier in pair.items()
        }
        number = pair["int8"].calibration_.num_images
        print(
            f"| {folder.name} | {scores['float32']:.4f} | {scores['int8']:.4f} | {number} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    networks = commands.add_parser("networks")
    networks.add_argument("names", nargs="*", default=list(NETWORKS))
    networks.add_argument("--number", type=int, default=12, help="number of images")
    speed = commands.add_parser("speed")
    speed.add_argument("folder", type=Path)
    speed.add_argument("--rounds", type=int, default=5)
    accuracy = commands.add_parser("accuracy")
    accuracy.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.command == "networks":
        _networks(arguments.names, arguments.number)
    elif arguments.command == "speed":
        _speed(arguments.folder, arguments.rounds)
    else:
        _accuracy(arguments.folders)


if __name__ == "__main__":
    main()
