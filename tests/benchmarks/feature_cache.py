"""Time `Classifier.fit` without and with its cache of features, in turn.

    python tests/benchmarks/feature_cache.py FOLDER [--images 1200] [--repetitions 3]

FOLDER has a subfolder of images for each class, or folders of such. Each repetition fits with an
empty cache, then again; with another C, so that only the features are found; and once more in a
new process, which also loads the network and imports the libraries.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from transferkit import Classifier
from transferkit.datasets import LabelledImages, from_folder


def sample(folder: Path, number: int) -> LabelledImages:
    """Return some of the images of a folder, in a random but fixed order."""
    data = from_folder(folder)
    rows = np.random.default_rng(0).permutation(len(data.images))[:number]
    return LabelledImages([data.images[row] for row in rows], [data.labels[row] for row in rows])


def seconds_to_fit(classifier: Classifier, data: LabelledImages) -> float:
    start = time.perf_counter()
    classifier.fit(data)
    return time.perf_counter() - start


def fit_once(folder: Path, number: int, cache: str) -> None:
    """Fit in this process, and print the seconds of `fit` alone and of everything since import."""
    start = time.perf_counter()
    data = sample(folder, number)
    classifier = Classifier(backend="onnxruntime", progress=False, cache=cache)
    fit = seconds_to_fit(classifier, data)
    print(f"{fit} {time.perf_counter() - start}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cache:
        fit_once(arguments.folder, arguments.images, arguments.cache)
        return
    data = sample(arguments.folder, arguments.images)
    plain = Classifier(backend="onnxruntime", progress=False)
    # The first run compiles the network, and reads the files from the disk.
    plain.fit(data)
    print("seconds: without, first, second, ratio first / second, other C, new process (fit alone)")
    ratios = []
    for _ in range(arguments.repetitions):
        with TemporaryDirectory() as cache:
            cached = Classifier(backend="onnxruntime", progress=False, cache=cache)
            other = Classifier(backend="onnxruntime", progress=False, cache=cache, C=7.0)
            without = seconds_to_fit(plain, data)
            first = seconds_to_fit(cached, data)
            second = seconds_to_fit(cached, data)
            other_c = seconds_to_fit(other, data)
            command = [sys.executable, __file__, str(arguments.folder), "--cache", cache]
            command += ["--images", str(arguments.images)]
            start = time.perf_counter()
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            process = time.perf_counter() - start
            ratios.append(first / second)
            print(
                f"{without:.2f} {first:.2f} {second:.3f} {ratios[-1]:.1f} {other_c:.2f} "
                f"{process:.2f} ({float(output.split()[0]):.3f})",
                flush=True,
            )
    print(f"median ratio: {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
