"""``transferkit features``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import error_of, output_of, run
from samples import noise, tiny_extractor, write_images


@pytest.fixture
def store(tmp_path: Path) -> Path:
    paths = write_images(tmp_path / "photos", noise(30))
    for path in paths[5:]:
        path.write_bytes(b"")
    extractor = tiny_extractor(backend="onnxruntime")
    extractor.extract_to(tmp_path / "store", paths, ["embedding", "relu1"], shard_size=10)
    return tmp_path / "store"


def test_the_content_is_printed(store: Path) -> None:
    result = run("features", store)
    assert result.exit_code == 0
    assert f"{store}: 5 rows in 3 files" in result.stdout
    for text in ("embedding", "8 x 8 x 4", "float32", "tiny", "size 16", "onnxruntime", "numpy"):
        assert text in result.stdout
    lines = result.stderr.splitlines()
    assert lines[0] == "25 skipped:"
    assert lines[1].endswith("005.png: the file is empty")
    assert lines[-1] == "  and 5 more; --json lists them"


def test_json_has_everything(store: Path) -> None:
    content = json.loads(output_of("features", store, "--json", "--verify"))
    assert content["rows"] == 5
    assert content["layers"] == {"embedding": [6], "relu1": [8, 8, 4]}
    assert content["network"] == "tiny"
    assert content["preprocessing"]["size"] == 16
    assert len(content["skipped"]) == 25


def test_damage_is_found(store: Path) -> None:
    assert "verified: 3 files, none damaged or missing" in run("features", store, "--verify").stdout
    path = max(store.glob("shard-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = run("features", store, "--verify")
    assert result.exit_code == 1
    assert "error: 1 damaged or missing file:" in result.stderr
    assert f"  {path.name}: the content is not what was written" in result.stderr


def test_missing_and_damaged_files_are_listed_together(store: Path) -> None:
    first, second, _ = sorted(store.glob("shard-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-10])
    result = run("features", store, "--verify")
    assert result.exit_code == 1
    assert "  shard 0: missing\n" in result.stderr
    assert f"  {second.name}: the content is not what was written" in result.stderr


def test_moved_images_are_mapped(store: Path) -> None:
    moved = store.parent / "moved"
    (store.parent / "photos").rename(moved)
    assert f"{moved}/005.png" in run("features", store, "--base", moved).stderr


def test_a_folder_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    assert "no store of features in this folder" in error_of("features", tmp_path)
    assert "no such folder" in error_of("features", tmp_path / "missing")
