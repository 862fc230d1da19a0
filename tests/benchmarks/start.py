"""How long VGG-19 takes to be ready, and how much memory, against torchvision's own.

``python tests/benchmarks/start.py`` writes 549 MB of random weights to a file, and starts each
backend with them in a process of its own, and torchvision's ``vgg19()`` with
``load_state_dict``, in turn. Imports are not counted. Printed are the medians of: the seconds
until the logits of a first picture are there, and the same less what a second picture takes;
and the most memory that the process came to hold beyond what it held before, in copies of the
weights. A framework needs one of these for itself. Linux only.
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

from transferkit.backends import Program, get_backend
from transferkit.networks import INPUT, Network, NetworkBuilder, random_weights
from transferkit.weights.files import read_safetensors, write_safetensors

WIDTHS = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0)
TORCHVISION = "torchvision"


def vgg19() -> Network:
    """The network of Simonyan and Zisserman (2014), column E, in torchvision's names."""
    builder = NetworkBuilder("vgg19", input_size=224)
    x, channels, index = INPUT, 3, 0
    for width in WIDTHS:
        if width:
            x = builder.conv2d(f"features.{index}", x, channels, width, size=3, padding=1)
            x = builder.add_node(f"features.{index + 1}", "relu", x)
            channels, index = width, index + 2
        else:
            x = builder.add_node(
                f"features.{index}", "max_pool2d", x,
                size=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)),
            )  # fmt: skip
            index += 1
    x = builder.add_node("flatten", "flatten", x)
    x = builder.linear("classifier.0", x, 7 * 7 * 512, 4096)
    x = builder.add_node("classifier.1", "relu", x)
    x = builder.linear("classifier.3", x, 4096, 4096)
    x = builder.add_node("embedding", "relu", x)
    builder.alias("logits", builder.linear("classifier.6", x, 4096, 1000))
    return builder.build()


def start_backend(name: str, path: Path) -> Callable[[], Callable[[], object]]:
    """What starts one of transferkit's backends, and gives what runs it."""
    backend = get_backend(name)
    pixels: npt.NDArray[np.float32] = np.zeros((1, 224, 224, 3), np.float32)
    # A framework sets itself up at its first use.
    tiny = NetworkBuilder("tiny", input_size=8)
    tiny.conv2d("conv", INPUT, 3, 3, size=3)
    network = tiny.build()
    Program(backend, network, random_weights(network, seed=0)).run(pixels, ["conv"])

    def start() -> Callable[[], object]:
        weights, _ = read_safetensors(path)
        program = Program(backend, vgg19(), weights)
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
        model.load_state_dict(torch.load(path.with_suffix(".pth"), weights_only=True))
        model.eval()

        def run() -> object:
            with torch.no_grad():
                return model(pixels)

        return run

    return start


def memory(entry: str) -> int:
    """A number of bytes from Linux's account of this process: held now, or at most so far."""
    # Not getrusage, whose maximum a process takes over from the one that starts it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024


def measure(contender: str, path: Path) -> dict[str, float]:
    """Start a contender in this process."""
    prepared = (
        start_torchvision(path) if contender == TORCHVISION else start_backend(contender, path)
    )
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
    """Write random weights for transferkit and for torchvision; their size in bytes."""
    import torch

    weights = random_weights(vgg19(), seed=0)
    write_safetensors(path, weights, {})
    torch.save(
        {name: torch.tensor(array) for name, array in weights.items()}, path.with_suffix(".pth")
    )
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
    contenders = [TORCHVISION, *arguments.backends.split(",")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with TemporaryDirectory() as folder:
        path = Path(folder, "vgg19.safetensors")
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
            f"{name:12} first logits after {ready:5.2f} s, {start:5.2f} s of it to start, "
            f"{statistics.median(ratios):4.2f} times torchvision's "
            f"({min(ratios):.2f} to {max(ratios):.2f}); "
            f"at most {most / size:4.2f} copies of the weights"
        )


if __name__ == "__main__":
    main()
