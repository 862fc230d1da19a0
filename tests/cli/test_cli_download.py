"""``transferkit download``."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import error_of, output_of, run

from transferkit.errors import DownloadError
from transferkit.weights import WeightsEntry


def test_weights_are_fetched_into_the_cache(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(entry: WeightsEntry, *, progress: bool | None) -> Path:
        fetched.append((entry.network, entry.name, progress))
        return cache_folder / entry.file

    monkeypatch.setattr("transferkit.weights.fetch", fetch)
    text = output_of("download", "vgg16", "resnet50", "--weights", "keras", "-q")
    assert fetched == [("vgg16", "keras", False), ("resnet50", "keras", False)]
    path = cache_folder / "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    assert f"vgg16, keras: {path}\n" in text


def test_included_weights_are_not_fetched(cache_folder: Path) -> None:
    text = output_of("download", "mobilenet_v2")
    assert text == "mobilenet_v2, imagenet1k_v1: included in the package\n"
    assert not cache_folder.exists()


def test_names_are_checked_before_the_first_download(cache_folder: Path) -> None:
    assert "unknown network 'vgg99'" in error_of("download", "vgg16", "vgg99")
    assert "available: imagenet1k_v1" in error_of("download", "vgg11", "--weights", "keras")
    assert not cache_folder.exists()


def test_offline_error_names_the_path_of_the_file(cache_folder: Path) -> None:
    message = error_of("download", "vgg16")
    assert "TRANSFERKIT_OFFLINE is set" in message
    assert str(cache_folder / "vgg16-397923af.pth") in message
    assert not cache_folder.exists()


def test_other_weights_are_fetched_after_a_failure(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(entry: WeightsEntry, *, progress: bool | None) -> Path:  # noqa: ARG001
        if entry.network == "vgg16":
            raise DownloadError("not found")
        return cache_folder / entry.file

    monkeypatch.setattr("transferkit.weights.fetch", fetch)
    result = run("download", "vgg16", "resnet50")
    assert result.exit_code == 1
    assert result.stderr == "error: not found\n"
    assert "resnet50-0676ba61.pth" in result.stdout
