"""A backend that is installed as a distribution of its own, with no change to transferkit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "plugin"

_USE = """
import json
import numpy
from transferkit.backends import backend_names, describe_backend, get_backend
from transferkit.backends import Program
from transferkit.networks import build_network, random_weights

info = describe_backend("numpy")
backend = get_backend("numpy")
network = build_network("mobilenet_v2")
weights = random_weights(network, random_state=0)
pixels = numpy.random.default_rng(0).random((2, 32, 32, 3), numpy.float32)
found, expected = (
    Program(get_backend(name), network, weights).run(pixels, ["embedding", "logits"])
    for name in ("numpy", "onnxruntime")
)
print(json.dumps({
    "names": backend_names(),
    "distribution": info.distribution,
    "version": info.version,
    "numpy": numpy.__version__,
    "capabilities": info.capabilities,
    "devices": info.devices,
    "problem": info.problem,
    "module": type(backend).__module__,
    "difference": max(
        float(abs(found[layer] - expected[layer]).max() / abs(expected[layer]).max())
        for layer in expected
    ),
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a process in which the plugin is installed beside transferkit."""
    # Built from a copy, so that nothing is left in the repository.
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def test_plugin_is_found_described_and_used(environment: Mapping[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", _USE]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # After the built-in ones, which are preferred.
    assert found["names"] == ["onnxruntime", "torch", "tensorflow", "numpy"]
    assert found["distribution"] == "transferkit-numpy"
    assert found["version"] == found["numpy"]
    assert found["capabilities"] == ["inference"]
    assert found["devices"] == ["cpu"]
    assert found["problem"] is None
    assert found["module"] == "transferkit_numpy"
    assert found["difference"] <= 1e-4


def test_plugin_passes_the_conformance_suite(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    shutil.copy(PLUGIN / "conformance_of_plugin.py", tmp_path)
    # No cache, no settings and no fixtures of this repository: what a plugin's author has.
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *options, tmp_path / "conformance_of_plugin.py"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
