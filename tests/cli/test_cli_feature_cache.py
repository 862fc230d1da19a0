"""``--cache`` of the commands that compute features, and ``transferkit cache --features``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import output_of, run, usage_error_of
from samples import DEMO

from transferkit import FeatureCache
from transferkit.backends import Program


def test_commands_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, classifier = tmp_path / "cache", tmp_path / "textures.safetensors"
    fit = ("fit", DEMO / "train", "-o", classifier, "--C", 10, "--cache", cache)
    evaluate = ("evaluate", classifier, DEMO / "train", "--cache", cache)
    extract = ("extract", DEMO / "train", "-o", tmp_path / "features.npz", "--cache", cache)
    output_of(*fit)
    expected = output_of("evaluate", classifier, DEMO / "train")

    def fail(
        _self: Program, _pixels: npt.NDArray[np.float32], _layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        raise AssertionError("a network runs")

    monkeypatch.setattr(Program, "run", fail)
    output_of(*fit)
    assert output_of(*evaluate) == expected
    assert "embedding (24, 1280)" in output_of(*extract)


def test_features_are_listed_and_removed_after_confirmation(
    tmp_path: Path, cache_folder: Path
) -> None:
    cache_folder.mkdir()
    (cache_folder / "vgg16-397923af.pth").write_bytes(b"x")
    cache = tmp_path / "features"
    cache.mkdir()
    assert output_of("cache", "list", "--features", cache) == f"{cache}: 0.0 MB\n"
    output_of("extract", DEMO / "cat.jpg", "-o", tmp_path / "cat.npz", "--cache", cache)
    size = f"{FeatureCache(cache).size() / 1e6:.1f} MB"
    text = output_of("cache", "list", "--features", cache)
    for value in ("mobilenet_v2", "embedding", "onnxruntime", size):
        assert value in text
    result = run("cache", "clear", "--features", cache, input="n\n")
    assert result.exit_code == 1
    assert f"Remove {size} of features from {cache}?" in result.stdout
    assert FeatureCache(cache).features() != []
    text = output_of("cache", "clear", "--features", cache, "--yes")
    assert text == f"{cache}: {size} removed\n"
    assert os.listdir(cache) == []
    assert os.listdir(cache_folder) == ["vgg16-397923af.pth"]


def test_a_store_has_no_cache(tmp_path: Path) -> None:
    message = usage_error_of(
        "extract", DEMO / "cat.jpg", "-o", tmp_path / "store", "--cache", tmp_path / "cache"
    )
    assert "--cache is for a .npz file" in message


@pytest.mark.parametrize("command", ["list", "clear"])
def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path, command: str) -> None:
    result = run("cache", command, "--features", tmp_path / "missing")
    assert result.exit_code == 1
    assert "missing: no such folder" in result.stderr


def test_results_of_fits_are_listed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "fits").mkdir(parents=True)
    (cache / "fits" / f"{'b' * 64}.safetensors").write_bytes(b"x" * 1_500_000)
    text = output_of("cache", "list", "--features", cache)
    assert "results of fits" in text
    assert text.count("1.5 MB") == 2
