"""An extraction that `test_killed_extractions.py` kills: ``killed_extraction.py PHOTOS STORE``."""

from __future__ import annotations

import sys

from samples import tiny_extractor

LAYERS = ["embedding", "relu1"]


def main() -> None:
    """Extract two layers of the photos in a folder to a store."""
    photos, store = sys.argv[1:]
    extractor = tiny_extractor(backend="onnxruntime", progress=False)
    extractor.extract_to(store, photos, LAYERS, shard_size=20)


if __name__ == "__main__":
    main()
