"""Measure how long VGG-19 takes to load and how much memory it needs, against torchvision.

``python tests/benchmarks/start.py`` writes 549 MB of random weights to a ``.pth`` file. It then
loads them, in turn and each time in a new process, with each backend, with torchvision's
``vgg19()`` and ``load_state_dict``, and with ONNX Runtime alone from an ONNX file. transferkit
also computes the SHA-256 of the file. Imports are not counted. It prints medians of the time to
the first logits, of that time without the computation (the time of a second image is subtracted),
and of the peak memory in multiples of the size of the weights. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from transferkit import Preprocessing
from transferkit.backends import Program, get_backend
from transferkit.models import Model
from transferkit.models.export import export_onnx
from transferkit.networks import INPUT, NetworkBuilder, build_network, random_weights
from transferkit.weights import find_weights
from transferkit.weights.reading import read_weights

TORCHVISION = "torchvision"
ENGINE_ALONE = "onnxruntime alone"


def start_backend(name: str, path: Path) -> Callable[[], Callable[[], object]]:
    """Return a function that loads the network on a backend and returns a function to run it."""
    backend = get_backend(name)
    pixels: npt.NDArray[np.float32] = np.zeros((1, 224, 224, 3), np.float32)
    entry = find_weights("vgg19")
    # Frameworks initialize themselves on first use.
    tiny = NetworkBuilder("tiny", input_size=8)
    tiny.conv2d("conv", INPUT, 3, 3, size=3)
    network = tiny.build()
    Program(backend, network, random_weights(network, random_state=0)).run(pixels, ["conv"])

    def start() -> Callable[[], object]:
        # As for a published file in the cache, whose digest is checked each time.
        entry.checksum.of(path)
        network = entry.build()
        program = Program(backend, network, read_weights(path, network))
        return lambda: program.run(pixels, ["logits"])

    return start


def start_torchvision(path: Path) -> Callable[[], Callable[[], object]]:
    """Return a function that loads torchvision's model and returns a function to run it."""
    import torch
    import torchvision

    pixels = torch.zeros((1, 3, 224, 224))
    with torch.no_grad():
        torch.nn.functional.conv2d(pixels, torch.zeros((3, 3, 3, 3)))

    def start() -> Callable[[], object]:
        model = torchvision.models.vgg19()
        model.load_state_dict(torch.load(path, weights_only=True))
        model.eval()

        def run() -> object:
            with torch.no_grad():
                return model(pixels)

        return run

    return start


def start_engine_alone(path: Path) -> Callable[[], Callable[[], object]]:
    """Return a function that creates an ONNX Runtime session and returns a function to run it."""
    import onnxruntime

    pixels = {"pixels": np.zeros((1, 224, 224, 3), np.float32)}

    def start() -> Callable[[], object]:
        session = onnxruntime.InferenceSession(path.with_suffix(".onnx"))
        return lambda: session.run(None, pixels)

    return start


def memory(entry: str) -> int:
    """Return an entry of this process's memory statistics in bytes."""
    # Not getrusage: a process inherits its maximum from its parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


def measure(contender: str, path: Path) -> dict[str, float]:
    """Load a contender in this process and return its times and memory."""
    others = {TORCHVISION: start_torchvision, ENGINE_ALONE: start_engine_alone}
    prepared = others[contender](path) if contender in others else start_backend(contender, path)
    before = memory("VmRSS")
    begin = time.perf_counter()
    run = prepared()
    run()
    ready = time.perf_counter()
    peak = memory("VmHWM")
    run()
    again = time.perf_counter()
    return {
        "start": 2 * ready - begin - again,
        "ready": ready - begin,
        "bytes": peak - before,
    }


def write_weights(path: Path) -> int:
    """Write random weights to a .pth file and an ONNX file, and return their size in bytes."""
    import torch

    network = build_network("vgg19")
    weights = random_weights(network, random_state=0)
    torch.save({name: torch.tensor(array) for name, array in weights.items()}, path)
    model = Model(network, weights, Preprocessing(224))
    export_onnx(model, ["logits"], path.with_suffix(".onnx"))
    return sum(array.nbytes for array in weights.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default="onnxruntime,tensorflow,torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("CONTENDER", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        contender, file = arguments.measure
        print(json.dumps(measure(contender, Path(file))))
        return
    contenders = [TORCHVISION, ENGINE_ALONE, *arguments.backends.split(",")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with TemporaryDirectory() as folder:
        path = Path(folder, "vgg19.pth")
        size = write_weights(path)
        for _ in range(arguments.rounds):
            for name in contenders:
                command = [sys.executable, __file__, "--measure", name, str(path)]
                output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
                found[name].append(json.loads(output))
    print(f"VGG-19, {size / 2**20:.0f} MiB of weights, {arguments.rounds} rounds in turn")
    for name, rounds in found.items():
        start, ready, most = (
            statistics.median(one[key] for one in rounds) for key in ("start", "ready", "bytes")
        )
        ratios = [
            one["ready"] / theirs["ready"]
            for one, theirs in zip(rounds, found[TORCHVISION], strict=True)
        ]
        print(
            f"{name:17} first logits after {ready:5.2f} s, {start:5.2f} s of it to start, "
            f"{statistics.median(ratios):4.2f} times torchvision's "
            f"({min(ratios):.2f} to {max(ratios):.2f}); "
            f"at most {most / size:4.2f} copies of the weights"
        )


if __name__ == "__main__":
    main()
