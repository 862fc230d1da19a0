"""``transferkit compare``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from command_line import error_of, output_of, run, run_process, usage_error_of
from interruption import INTERRUPTED_MAIN
from samples import DEMO

TRAIN = DEMO / "train"
NO_NETWORK_RUNS = "transferkit.comparison.timing.TimedProgram.run"


def test_table_and_files(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    page, table, plot = (tmp_path / name for name in ("c.html", "c.json", "c.png"))
    text = output_of(
        "compare", TRAIN, "mobilenet_v2", "mobilenet_v1_025", "--weights",
        "mobilenet_v1_025=random", "--cv", 4, "-o", page, "--json", table, "--plot", plot,
        "--backend", "onnxruntime",
    )  # fmt: skip
    assert "mobilenet_v2" in text
    assert "BSD-3-Clause" in text
    assert (
        "24 images of 3 classes, 4-fold cross-validation; the most frequent class: 0.3333" in text
    )
    for path in (page, table, plot):
        assert f"saved {path}" in text
        assert path.stat().st_size > 0
    networks = json.loads(table.read_text(encoding="utf-8"))["networks"]
    assert {row["network"]: row["weights"] for row in networks} == {
        "mobilenet_v2": "imagenet1k_v1",
        "mobilenet_v1_025": "random",
    }


def test_a_table_is_compared_by_its_training_images(tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    paths = sorted(TRAIN.rglob("*.jpg"))
    rows = [
        f"{path},{path.parent.name},{'test' if path.stem.endswith('8') else 'train'}"
        for path in paths
    ]
    table.write_text("\n".join(["file,label,split", *rows]), encoding="utf-8")
    text = output_of("compare", table, "mobilenet_v2", "--cv", 3, "--backend", "onnxruntime", "-q")
    assert "21 images of 3 classes" in text


@pytest.mark.usefixtures("cache_folder")
def test_what_fails_and_what_is_skipped_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(TRAIN, folder)
    (folder / "brick" / "broken.jpg").write_bytes(b"")
    result = run("compare", folder, "mobilenet_v2", "vgg11", "--cv", 4)
    assert result.exit_code == 0, result.output
    assert "vgg11: " in result.stderr
    assert "broken.jpg: the file is empty" in result.stderr
    assert "1.0000" in result.stdout


def test_errors_are_reported_before_a_network_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(NO_NETWORK_RUNS, lambda *_: pytest.fail("a network ran"))
    message = error_of("compare", TRAIN, "mobilenet_v2", "resnet5")
    assert "unknown network 'resnet5'; did you mean 'resnet50'" in message
    assert "Pass cv=8" in error_of("compare", TRAIN, "mobilenet_v2", "--cv", 9)
    missing = tmp_path / "no"
    for option, name in (("-o", "c.html"), ("--json", "c.json"), ("--plot", "c.png")):
        message = error_of("compare", TRAIN, "mobilenet_v2", option, missing / name)
        assert f"the folder '{missing}' does not exist" in message
    assert ".html" in error_of("compare", TRAIN, "mobilenet_v2", "-o", tmp_path / "c.pdf")
    assert "onnxruntime" in error_of(
        "compare", TRAIN, "mobilenet_v2", "--fine-tune", "mobilenet_v2", "--backend", "onnxruntime"
    )


def test_invalid_usage_is_rejected() -> None:
    assert "NETWORK" in usage_error_of("compare", TRAIN)
    options = ("compare", TRAIN, "mobilenet_v2", "--weights")
    assert "only as NETWORK=NAME" in usage_error_of(*options, "random", "--weights", "keras")
    assert "twice" in usage_error_of(
        *options, "mobilenet_v2=random", "--weights", "mobilenet_v2=keras"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_keeps_the_finished_networks(tmp_path: Path) -> None:
    table = tmp_path / "c.json"
    networks = ("mobilenet_v1_025", "mobilenet_v1_050", "mobilenet_v1_075")
    process = run_process(
        "compare", TRAIN, *networks, "--weights", "random", "--cv", 4, "--json", table,
        "--backend", "onnxruntime", code=INTERRUPTED_MAIN,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert b"interrupted: 2 of 3 networks have results" in process.stderr
    rows = json.loads(table.read_text(encoding="utf-8"))["networks"]
    assert [row["network"] for row in rows if row["accuracy"] is None] == [networks[2]]
