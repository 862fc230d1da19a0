"""Time `import transferkit`, each time in a new process.

``python tests/benchmarks/import_time.py`` prints the median and the range of the time, without that
of `import numpy`, which the package needs and most programs import anyway.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CODE = """
import time
import numpy
start = time.perf_counter()
import transferkit
print(time.perf_counter() - start)
"""


def time_import() -> float:
    """Return the time of the import in seconds."""
    output = subprocess.run([sys.executable, "-c", CODE], stdout=subprocess.PIPE, check=True).stdout
    return float(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    # The first import may have to read files from disk, or to compile them.
    time_import()
    times = [1000 * time_import() for _ in range(arguments.rounds)]
    print(
        f"import transferkit: {statistics.median(times):.0f} ms without import numpy "
        f"({min(times):.0f} to {max(times):.0f}), {arguments.rounds} rounds"
    )


if __name__ == "__main__":
    main()
