"""``transferkit extract``."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, output_of, run, run_process, usage_error_of
from interruption import INTERRUPTED_MAIN, TERMINATED_MAIN
from samples import DEMO

from transferkit import FeatureExtractor, FeatureStore

CAT = DEMO / "cat.jpg"
GRASS = DEMO / "test" / "grass"


def test_file_contains_the_activations_and_the_sources(tmp_path: Path) -> None:
    output = tmp_path / "features.npz"
    text = output_of(
        "extract", GRASS, CAT, "-o", output, "--layer", "features.18", "--layer", "embedding",
        "--batch-size", 4,
    )  # fmt: skip
    assert "features.18 (9, 7, 7, 1280), embedding (9, 1280)" in text
    expected = FeatureExtractor(backend="onnxruntime").extract(
        [*sorted(GRASS.iterdir()), CAT], ["features.18", "embedding"]
    )
    with np.load(output) as archive:
        assert archive["sources"].tolist() == expected.sources
        for layer in expected:
            scale = np.abs(expected[layer]).max()
            np.testing.assert_allclose(archive[layer], expected[layer], atol=1e-4 * scale)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("code", [INTERRUPTED_MAIN, TERMINATED_MAIN], ids=["SIGINT", "SIGTERM"])
def test_interrupted_extraction_is_resumed(tmp_path: Path, code: str) -> None:
    output = tmp_path / "features.npz"
    arguments = ("extract", DEMO / "test", "-o", output, "--batch-size", 4)
    result = run_process(*arguments, code=code)
    assert result.returncode == 130
    assert result.stdout == b""
    assert result.stderr == b"interrupted; run the same command again to resume\n"
    assert os.listdir(tmp_path) == ["features.npz.partial"]
    with np.load(tmp_path / "features.npz.partial") as archive:
        assert archive["embedding"].shape == (8, 1280)
    assert "embedding (24, 1280)" in output_of(*arguments)
    assert os.listdir(tmp_path) == ["features.npz"]
    output_of("extract", DEMO / "test", "-o", tmp_path / "whole.npz", "--batch-size", 4)
    with np.load(output) as resumed, np.load(tmp_path / "whole.npz") as whole:
        assert resumed["sources"].tolist() == whole["sources"].tolist()
        np.testing.assert_allclose(resumed["embedding"], whole["embedding"], rtol=1e-5, atol=1e-5)


def test_unreadable_images_are_skipped_and_listed(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    result = run("extract", "-o", tmp_path / "features.npz", CAT, broken)
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first == "1 skipped:"
    assert str(broken) in second


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    output = tmp_path / "out.npz"
    for arguments, message in (
        ((CAT, "-o", tmp_path / "out.csv"), "ends in .npz"),
        ((CAT, "-o", tmp_path / "missing" / "out.npz"), "does not exist"),
        ((CAT, "-o", output, "--layer", "embeding"), "'embedding'"),
        ((text, "-o", output), f"{text}: "),
    ):
        assert message in error_of("extract", *arguments), arguments
    assert not output.exists()
    assert "--batch-size" in usage_error_of("extract", CAT, "-o", output, "--batch-size", 0)


def test_a_folder_is_a_store(tmp_path: Path) -> None:
    output = tmp_path / "features"
    arguments = ("extract", GRASS, CAT, "-o", output, "--layer", "features.18", "--half")
    text = output_of(*arguments, "--shard-size", 4)
    assert f"saved {output}: features.18 (9, 7, 7, 1280)" in text
    store = FeatureStore(output)
    assert store.sources == [*map(str, sorted(GRASS.iterdir())), str(CAT)]
    assert store["features.18"].dtype == np.float16
    assert len(store.shards) == 3
    more = DEMO / "test" / "brick"
    (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(more.iterdir()))))
    # The shard size is that of the store.
    text = output_of(
        "extract", tmp_path / "list.txt", "-o", output, "--layer", "features.18", "--half"
    )
    assert re.search(r"features\.18 \(17, 7, 7, 1280\); 8 new in [0-9.]+ s, \d+ images/s\n", text)
    assert output_of(*arguments).endswith("(17, 7, 7, 1280); none new\n")
    message = error_of(*arguments, "--shard-size", 10)
    assert "shard_size is 4 in the store, 10 here; use the same settings" in message


def test_skipped_images_are_tried_again_with_an_option(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    broken = photos / "broken.jpg"
    broken.touch()
    output = tmp_path / "features"
    arguments = ("extract", photos, "-o", output)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "none of the images could be read" in result.stderr.splitlines()[-1]
    shutil.copy(CAT, photos)
    result = run(*arguments)
    assert result.exit_code == 0
    assert "; 1 skipped; --retry-skipped tries them again\n" in result.stdout
    shutil.copy(CAT, broken)
    text = output_of(*arguments, "--retry-skipped")
    assert "embedding (2, 1280); 1 new in " in text
    assert "; 1 skipped" not in text


def test_where_images_and_stores_cannot_be_is_an_error(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(CAT, photos)
    for name in ("a.tar", "list.txt", "photos/*.jpg"):
        message = usage_error_of("extract", tmp_path / name, "-o", tmp_path / "x.npz")
        assert "give a folder as --output" in message
    assert "choose another folder" in error_of("extract", photos, "-o", photos)
    base = tmp_path / "nope"
    message = error_of("extract", photos, "-o", tmp_path / "features", "--base", base)
    assert "expected a folder that exists" in message
    assert os.listdir(photos) == ["cat.jpg"]
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("code", [INTERRUPTED_MAIN, TERMINATED_MAIN], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_store_is_resumed(tmp_path: Path, code: str) -> None:
    output = tmp_path / "features"
    arguments = ("extract", DEMO / "test", "-o", output, "--batch-size", 4)
    result = run_process(*arguments, code=code)
    assert result.returncode == 130
    assert result.stderr == b"interrupted; run the same command again to resume\n"
    assert FeatureStore(output)["embedding"].shape == (8, 1280)
    assert "embedding (24, 1280)" in output_of(*arguments)
    assert len(FeatureStore(output).shards) == 2


def test_options_of_stores_are_rejected_for_files(tmp_path: Path) -> None:
    for option in (
        ("--shard-size", 4), ("--half",), ("--base", tmp_path), ("--column", "a"), ("--ray",),
    ):  # fmt: skip
        message = usage_error_of("extract", CAT, "-o", tmp_path / "a.npz", *option)
        assert f"{option[0]} is for a store" in message
    message = usage_error_of("extract", CAT, "-o", tmp_path / "features", "--workers", 2)
    assert "--workers is for --ray" in message


def test_int8_is_calibrated_on_the_images(tmp_path: Path) -> None:
    output = tmp_path / "features.npz"
    text = output_of("extract", DEMO / "test", "-o", output, "--precision", "int8")
    assert "int8, calibrated on 24 images" in text
    expected = FeatureExtractor(precision="int8").calibrate(DEMO / "test").transform(DEMO / "test")
    with np.load(output) as archive:
        np.testing.assert_array_equal(archive["embedding"], expected)
    assert "did you mean 'int8'" in error_of("extract", CAT, "-o", output, "--precision", "int9")
