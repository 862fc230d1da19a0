"""A backend that is installed as a separate distribution, without changes to transferkit."""

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

_SCRIPT = """
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
outputs, expected = (
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
        float(abs(outputs[layer] - expected[layer]).max() / abs(expected[layer]).max())
        for layer in expected
    ),
}))
"""


_OWN_MODEL_SCRIPT = """
import sys
import numpy
from transferkit import Classifier, FeatureExtractor
from transferkit.backends import backend_of
from transferkit_numpy import ColorModel

model = ColorModel(numpy.eye(3, 2, dtype=numpy.float32))
assert backend_of(model) == "numpy"
images = numpy.random.default_rng(0).random((6, 32, 32, 3), numpy.float32)
extractor = FeatureExtractor(model, layer="logits", progress=False)
numpy.testing.assert_allclose(extractor.transform(images), model(images), rtol=1e-5)
assert extractor.to_native() is model
classifier = Classifier(model, C=1.0, progress=False)
classifier.fit(images, [0, 1] * 3)
assert classifier.predict(images).shape == (6,)
assert not {"torch", "tensorflow", "keras"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return the environment variables of a process in which the plugin is installed."""
    # Build from a copy, so that no build output is left in the repository.
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(PLUGIN, source)
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def test_plugin_is_listed_described_and_runs_a_network(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _SCRIPT]
    process = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    # The built-in backends are preferred, so they come first.
    assert result["names"] == ["onnxruntime", "torch", "tensorflow", "numpy"]
    assert result["distribution"] == "transferkit-numpy"
    assert result["version"] == result["numpy"]
    assert result["capabilities"] == ["inference"]
    assert result["devices"] == ["cpu"]
    assert result["problem"] is None
    assert result["module"] == "transferkit_numpy"
    assert result["difference"] <= 1e-4


def test_models_of_the_plugin_are_accepted_as_networks(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _OWN_MODEL_SCRIPT]
    process = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_plugin_passes_the_conformance_suite(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    shutil.copy(PLUGIN / "conformance_of_plugin.py", tmp_path)
    # As for the author of a plugin: without the configuration and fixtures of this repository.
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", os.devnull]
    command = [sys.executable, "-m", "pytest", *options, tmp_path / "conformance_of_plugin.py"]
    process = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout
    assert " passed" in process.stdout
