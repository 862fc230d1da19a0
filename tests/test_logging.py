"""What is logged, and that nothing is printed unless the application configures logging."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import DEMO, noise, tiny_classifier

from transferkit import FeatureExtractor
from transferkit.backends import Backend, backend_of

_SCRIPT = """
import logging, sys
from transferkit import FeatureExtractor
extractor = FeatureExtractor("mobilenet_v2", backend=sys.argv[1], progress=False)
extractor.extract(sys.argv[2:], on_error="skip")
logger = logging.getLogger("transferkit")
assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
assert logger.level == logging.NOTSET and logger.propagate
assert not logging.getLogger().handlers
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=True
    )


def test_nothing_is_printed_without_a_configuration(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    process = run("-c", _SCRIPT, "onnxruntime", DEMO / "cat.jpg", broken)
    assert process.stdout == process.stderr == ""


def test_the_command_line_hides_the_messages_of_frameworks(backend: Backend) -> None:
    command = ["-m", "transferkit", "predict", "--quiet", "--backend", backend.name]
    process = run(*command, DEMO / "cat.jpg")
    assert "cat" in process.stdout
    assert process.stderr == ""


@pytest.mark.usefixtures("no_backend_variable")
def test_backend_weights_and_skipped_images_are_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    extractor = FeatureExtractor("mobilenet_v2", progress=False)
    with caplog.at_level(logging.DEBUG, logger="transferkit"):
        extractor.extract([DEMO / "cat.jpg", broken], on_error="skip")
    info = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert info[:2] == [
        "loading the weights 'imagenet1k_v1' of mobilenet_v2 from the package",
        "mobilenet_v2 runs on backend onnxruntime, device CPUExecutionProvider",
    ]
    assert len(info) == 3
    assert info[2].startswith(f"skipped {broken}: not an image")
    debug = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert debug == ["compiled mobilenet_v2 for layers embedding"]
    assert {record.name.partition(".")[0] for record in caplog.records} == {"transferkit"}


def test_the_classes_of_a_fitted_classifier_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="transferkit"):
        tiny_classifier(C=1.0, progress=False).fit(noise(6), ["a", "b"] * 3)
    assert "fitted classes 'a', 'b' with C = 1" in caplog.messages


def test_a_backend_that_could_not_be_asked_is_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_that_fails.py").write_text("1 / 0\n")
    metadata = tmp_path / "plugin_that_fails-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: failing\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[transferkit.backends]\nfailing = plugin_that_fails:Mine\n"
    )
    with caplog.at_level(logging.DEBUG, logger="transferkit"), pytest.raises(TypeError):
        backend_of(3)
    assert "ZeroDivisionError" in caplog.messages[0]
