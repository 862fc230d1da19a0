"""A process in which Ray starts and ends: ``python unchanged_process.py FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
import warnings

from samples import noise, tiny_extractor

import transferkit.ray


def state() -> tuple[object, ...]:
    """Return what Ray changes."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    return dict(os.environ), handlers, list(warnings.filters)


if __name__ == "__main__":
    before = state()
    transferkit.ray.extract(
        tiny_extractor(backend="onnxruntime", progress=False), noise(3), sys.argv[1], num_workers=1
    )
    after = state()
    if after != before:
        sys.exit(f"{after} instead of {before}")
