"""Importing the package is quick, since nothing comes along that is not needed yet."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import transferkit

HEAVY = {
    "PIL", "google.protobuf", "joblib", "keras", "matplotlib", "onnx", "onnxruntime", "rich",
    "safetensors", "scipy", "sklearn", "tensorflow", "torch", "typer",
}  # fmt: skip


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def loaded(code: str) -> set[str]:
    """The heavy modules that ``code`` loads."""
    found = json.loads(run(f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"))
    return HEAVY & set(found)


def test_importing_loads_nothing_heavy() -> None:
    assert loaded("import transferkit; dir(transferkit); transferkit.__version__") == set()


def test_listing_and_making_load_no_framework() -> None:
    code = (
        "from transferkit import FeatureExtractor, Classifier\n"
        "from transferkit.backends import backend_names\n"
        "backend_names(); Classifier(); FeatureExtractor(backend='torch').get_params()"
    )
    assert not loaded(code) & {"torch", "tensorflow", "keras", "onnxruntime", "onnx"}


def test_the_time_it_takes() -> None:
    """Printed, not judged: machines differ, and so does what else they do."""
    code = (
        "import time\nimport numpy\nstart = time.perf_counter()\nimport transferkit\n"
        "print(time.perf_counter() - start)"
    )
    seconds = min(float(run(code)) for _ in range(3))
    print(f"\nimport transferkit: {seconds:.3f} s beyond import numpy")  # noqa: T201


def test_public_names() -> None:
    assert set(transferkit.__all__) <= set(dir(transferkit))
    for name in transferkit.__all__:
        assert getattr(transferkit, name).__name__ == name
    assert transferkit.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        _ = transferkit.Clasifier
    namespace: dict[str, object] = {}
    exec("from transferkit import *", namespace)
    assert set(transferkit.__all__) <= set(namespace)
