"""Read thousands of damaged files of each format: they must load or raise `FileFormatError`.

Run by hand; prints a row per format::

    python tests/benchmarks/damaged_files.py --files 10000

Files are read in a child process, which is ended when one file takes longer than 20 seconds. In
use, a Keras file has a child process of its own. So every Keras file that does not end here is
read once more in that way, and only then counts as a failure.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))

from damage import FORMATS, HDF5_FORMATS, damaged

from transferkit.errors import FileFormatError
from transferkit.weights.isolated import read_keras_isolated

_SECONDS = 20


def _read_all(kind: str, start: int, stop: int) -> None:
    """Read the files of these seeds, and print each seed and its outcome."""
    warnings.simplefilter("ignore")
    write, read = FORMATS[kind]
    content = write()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(start, stop):
            path = Path(folder) / "file"
            path.write_bytes(damaged(content, seed))
            print(seed, end=" ", flush=True)
            signal.alarm(_SECONDS)  # without a handler, it ends the process
            try:
                read(path)
                outcome = "loaded"
            except FileFormatError:
                outcome = "rejected"
            except Exception as error:
                outcome = f"failed:{type(error).__name__}"
            signal.alarm(0)
            print(outcome, flush=True)
            path.unlink()


def _again(kind: str, seed: int) -> str:
    """Read a file whose reader did not end, in the way that users' files are read."""
    if kind not in HDF5_FORMATS:
        return "failed:no-end"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(damaged(FORMATS[kind][0](), seed))
        try:
            read_keras_isolated(path)
        except FileFormatError:
            return "rejected-by-limits"
        return "failed:not-reproduced"


def _count(kind: str, number: int) -> dict[str, int]:
    """Return how often each outcome occurred."""
    counts: dict[str, int] = {}
    seed = 0
    while seed < number:
        command = [sys.executable, __file__, "--child", kind, str(seed), str(number)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        for line in result.stdout.splitlines():
            seed, outcome = int(line.split()[0]), line.split()[1:]
            name = outcome[0] if outcome else _again(kind, seed)
            counts[name] = counts.get(name, 0) + 1
            if name.startswith("failed"):
                print(f"{kind}, seed {seed}: {name}", flush=True)
        if not result.stdout:
            raise SystemExit(f"{kind}: the child process printed nothing")
        seed += 1
    return counts


def main() -> int:
    """Read damaged files of all formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="the number per format")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, start, stop = options.child
        _read_all(kind, int(start), int(stop))
        return 0
    has_failed = False
    for kind in options.formats:
        begin = time.perf_counter()
        counts = _count(kind, options.files)
        has_failed |= any(name.startswith("failed") for name in counts)
        shown = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        print(f"{kind}: {shown}; {time.perf_counter() - begin:.0f} s", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
