"""An extraction that `test_extraction.py` kills: ``killed_driver.py FOLDER PATH...``."""

from __future__ import annotations

import sys

from deadly_images import SlowImage
from samples import tiny_extractor

import transferkit.ray


def main() -> None:
    """Extract slowly."""
    folder, *paths = sys.argv[1:]
    images = [SlowImage(path) for path in paths]
    extractor = tiny_extractor(backend="onnxruntime")
    transferkit.ray.extract(extractor, images, folder, num_workers=2, shard_size=5)


if __name__ == "__main__":
    main()
