"""Importing the package is fast, because it imports only what is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import transferkit

SLOW_MODULES = {
    "PIL", "google.protobuf", "joblib", "keras", "matplotlib", "onnx", "onnxruntime", "rich",
    "safetensors", "scipy", "sklearn", "tensorflow", "torch", "typer",
}  # fmt: skip


def slow_modules_loaded_by(code: str) -> set[str]:
    """Return the slow modules that are loaded after code has run in a new interpreter."""
    code += "\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    return SLOW_MODULES & set(json.loads(output))


def test_import_loads_no_slow_modules() -> None:
    code = "import transferkit; dir(transferkit); transferkit.__version__"
    assert slow_modules_loaded_by(code) == set()


def test_creating_estimators_and_listing_backends_load_no_framework() -> None:
    code = (
        "from transferkit import FeatureExtractor, Classifier\n"
        "from transferkit.backends import backend_names\n"
        "backend_names(); Classifier(); FeatureExtractor(backend='torch').get_params()"
    )
    frameworks = {"torch", "tensorflow", "keras", "onnxruntime", "onnx"}
    assert not slow_modules_loaded_by(code) & frameworks


def test_reading_and_flipping_images_load_no_scipy() -> None:
    code = (
        "import numpy as np\n"
        "from transferkit.images import Preprocessing, stream_batches\n"
        "from transferkit.images.augmentation import AugmentationStage, HorizontalFlip\n"
        "stage = AugmentationStage((HorizontalFlip(),), seed=0, epoch=0)\n"
        "image = np.zeros((4, 4, 3), np.uint8)\n"
        "list(stream_batches([image], Preprocessing(2), batch_size=1, augment=stage))"
    )
    assert slow_modules_loaded_by(code) == {"PIL"}


def test_public_names_can_be_imported() -> None:
    assert set(transferkit.__all__) <= set(dir(transferkit))
    for name in transferkit.__all__:
        assert getattr(transferkit, name).__name__ == name
    assert transferkit.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        _ = transferkit.Clasifier
    namespace: dict[str, object] = {}
    exec("from transferkit import *", namespace)
    assert set(transferkit.__all__) <= set(namespace)
