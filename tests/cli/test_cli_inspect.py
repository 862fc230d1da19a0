"""``transferkit inspect`` and ``restore``, and the warning of ``fit`` about copies."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from command_line import error_of, output_of, run, usage_error_of

from transferkit.demo import TEST, TRAIN


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve training images, one of them twice, and a broken file."""
    root = tmp_path / "photos"
    for label in ("brick", "grass", "gravel"):
        (root / label).mkdir(parents=True)
        for number in range(1, 5):
            shutil.copy(TRAIN / label / f"{label}-{number}.jpg", root / label)
    shutil.copy(root / "grass" / "grass-1.jpg", root / "grass" / "grass-9.jpg")
    (root / "grass" / "broken.jpg").write_bytes(b"broken")
    return root


def test_findings_are_printed_and_written(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    page, json_file, csv_file = (tmp_path / name for name in ("a.html", "a.json", "a.csv"))
    output = output_of(
        "inspect", photos, "-o", page, "--json", json_file, "--csv", csv_file, "--quiet"
    )
    assert "14 images, 2 findings about 2 of them" in output
    assert "duplicate" in output
    assert "saved " in output
    assert json.loads(json_file.read_text())["counts"] == {"unreadable": 1, "duplicate": 1}
    with csv_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["file"]).name, row["kind"]) for row in rows] == [
        ("broken.jpg", "unreadable"),
        ("grass-9.jpg", "duplicate"),
    ]
    text = page.read_text()
    assert "grass/grass-9.jpg" in text
    assert "http" not in text.replace("http-equiv", "")


def test_files_are_moved_and_come_back(photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    output = output_of(
        "inspect", photos, "--quarantine", bad, "--move", "duplicate", "--kind", "duplicate", "-q"
    )
    assert f"transferkit restore {bad}" in output
    assert not (photos / "grass" / "grass-9.jpg").exists()
    assert (photos / "grass" / "broken.jpg").exists()
    assert output_of("restore", bad) == "moved 1 file back\n"
    assert (photos / "grass" / "grass-9.jpg").exists()


def test_mistakes_are_reported_before_the_work(photos: Path, tmp_path: Path) -> None:
    assert "ends in .html" in error_of("inspect", photos, "-o", tmp_path / "a.pdf")
    assert "does not exist" in error_of("inspect", photos, "--json", tmp_path / "x" / "a.json")
    assert "unknown kind of finding 'blury'" in error_of("inspect", photos, "--kind", "blury")
    assert "inside the inspected" in error_of("inspect", photos, "--quarantine", photos / "bad")
    assert "--move needs --quarantine" in usage_error_of("inspect", photos, "--move", "leak")
    assert "KIND=NUMBER" in usage_error_of("inspect", photos, "--threshold", "tiny")
    assert "manifest.json" in error_of("restore", photos)


def test_fit_warns_of_test_images_that_are_copies(photos: Path, tmp_path: Path) -> None:
    (photos / "grass" / "broken.jpg").unlink()
    test = Path(shutil.copytree(TEST, tmp_path / "test"))
    shutil.copy(photos / "grass" / "grass-2.jpg", test / "grass" / "seen.jpg")
    command = ("fit", photos, "--test", test, "-o", tmp_path / "a.safetensors", "--C", "1", "-q")
    result = run(*command)
    assert result.exit_code == 0
    assert "1 test image is a copy of training images" in result.stderr
    assert "seen.jpg" in result.stderr
    (test / "grass" / "seen.jpg").unlink()
    assert "copy" not in run(*command).stderr


def test_a_table_is_inspected(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    rows = [
        f"{path.relative_to(tmp_path)};{path.parent.name};{split}"
        for split, path in zip(
            ["train"] * 8 + ["test"] * 6, sorted(photos.rglob("*.jpg")), strict=True
        )
    ]
    table.write_text("\n".join(["\ufefffile;label;split", "none.jpg;grass;train", *rows]))
    result = run("inspect", table, "-q", "--kind", "leak", "--kind", "unreadable")
    assert "14 images, 2 findings about 2 of them" in result.stdout
    result = run(
        "inspect", table, "-q", "--kind", "leak", "--quarantine", tmp_path / "bad", "--move", "leak"
    )
    assert "none.jpg: no such file" in result.stderr
    assert table.exists()
    assert "14 images, 1 finding about 1 of them" in result.stdout
    assert [path.name for path in (tmp_path / "bad").rglob("*.jpg")] == ["grass-9.jpg"]
