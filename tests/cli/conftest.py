"""Fixtures of the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import DEMO

from transferkit import Classifier


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a classifier of the demo's textures and return the path."""
    path = tmp_path_factory.mktemp("classifier") / "textures.safetensors"
    Classifier(backend="onnxruntime", C=10.0).fit(DEMO / "train").save(path)
    return path


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the only cache folder that is used; it does not exist yet."""
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "cache"
