"""How long VGG-19 takes to be ready, and how much memory, against torchvision's own.

``python tests/benchmarks/start.py`` writes 549 MB of random weights to a ``.pth`` file, and starts
each backend with it in a process of its own, and torchvision's ``vgg19()`` with
``load_state_dict``, in turn; and ONNX Runtime by itself with the same network in an ONNX file. All
read their file, and transferkit takes its SHA-256 as well. Imports are not counted. Printed are
the medians of: the seconds until the logits of a first picture are there, and the same less what
a second picture takes; and the most memory that the process came to hold beyond what it held
before, in copies of the weights, of which a framework needs one or more for itself. Linux only.
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
    """What starts one of transferkit's backends, and gives what runs it."""
    backend = get_backend(name)
    pixels: npt.NDArray[np.float32] = np.zeros((1, 224, 224, 3), np.float32)
    entry = find_weights("vgg19")
    # A framework sets itself up at its first use.
    tiny = NetworkBuilder("tiny", input_size=8)
    tiny.conv2d("conv", INPUT, 3, 3, size=3)
    network = tiny.build()
    Program(backend, network, random_weights(network, random_state=0)).run(pixels, ["conv"])

    def start() -> Callable[[], object]:
        # As for a published file that lies in the cache, whose digest is looked at each time.
        entry.checksum.of(path)
        network = entry.build()
        program = Program(backend, network, read_weights(path, network))
        return lambda: program.run(pixels, ["logits"])

    return start


def start_torchvision(path: Path) -> Callable[[], Callable[[], object]]:
    """What starts torchvision's model, and gives what runs it."""
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
    """What starts ONNX Runtime as its documentation has it, and gives what runs it."""
    import onnxruntime

    pixels = {"pixels": np.zeros((1, 224, 224, 3), np.float32)}

    def start() -> Callable[[], object]:
        session = onnxruntime.InferenceSession(path.with_suffix(".onnx"))
        return lambda: session.run(None, pixels)

    return start


def memory(entry: str) -> int:
    """A number of bytes from Linux's account of this process: held now, or at most so far."""
    # Not getrusage, whose maximum a process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


def measure(contender: str, path: Path) -> dict[str, float]:
    """Start a contender in this process."""
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
    """Write random weights to a .pth file, and the network with them; their size in bytes."""
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
