"""An extraction with a cache: ``cached_extraction.py CACHE FIRST LAST SECONDS OUTPUT``.

Writes the features of the images of noise from FIRST to LAST, and the number of those that the
network ran on. Each batch takes at least SECONDS.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from samples import noise, tiny_extractor

from transferkit.backends import Program
from transferkit.features import cached_run

NUMBER = 64


def main() -> None:
    """Extract, and write the result."""
    cache, first, last, seconds, output = sys.argv[1:]
    counted = 0
    run = Program.run

    def counting(
        self: Program, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        nonlocal counted
        counted += len(pixels)
        time.sleep(float(seconds))
        return run(self, pixels, layers)

    Program.run = counting  # type: ignore[method-assign]
    cached_run._MAX_IMAGES = 8
    extractor = tiny_extractor(backend="onnxruntime", cache=cache)
    features = extractor.transform(noise(NUMBER)[int(first) : int(last)])
    np.savez(output, features=features, counted=counted)


if __name__ == "__main__":
    main()
