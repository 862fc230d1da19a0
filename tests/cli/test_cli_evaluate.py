"""``transferkit evaluate``."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest
from command_line import error_of, output_of
from samples import DEMO

from transferkit import Classifier

TEST = DEMO / "test"


def test_metrics_are_printed_and_written(tmp_path: Path, classifier_file: Path) -> None:
    file = tmp_path / "predictions.csv"
    text = output_of("evaluate", classifier_file, TEST, "--csv", file)
    evaluation = Classifier.load(classifier_file).evaluate(TEST)
    low, high = evaluation.interval
    expected = f"{evaluation.accuracy:.4f} (95% interval {low:.4f} to {high:.4f})"
    assert f"accuracy on 24 images of {TEST}: {expected}" in text
    assert "brick" in text
    assert "precision" in text
    assert f"saved {file}" in text
    with file.open(encoding="utf-8", newline="") as content:
        rows = list(csv.DictReader(content))
    assert [row["source"] for row in rows] == evaluation.sources
    assert [row["label"] for row in rows] == [Path(row["source"]).parent.name for row in rows]
    correct = sum(row["label"] == row["predicted"] for row in rows)
    assert correct / len(rows) == evaluation.accuracy
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow these names")
def test_file_names_that_are_not_text_are_written(tmp_path: Path, classifier_file: Path) -> None:
    folder, file = tmp_path / "test", tmp_path / "predictions.csv"
    shutil.copytree(TEST, folder)
    (image, *_) = sorted((folder / "brick").iterdir())
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/\xff\xfe.jpg"))
    output_of("evaluate", classifier_file, folder, "--csv", file)
    assert b"/\xff\xfe.jpg,brick," in file.read_bytes()


def test_a_report_is_written(tmp_path: Path, classifier_file: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    file = tmp_path / "report.html"
    text = output_of("evaluate", classifier_file, TEST, "--report", file)
    evaluation = Classifier.load(classifier_file).evaluate(TEST)
    assert f"saved {file}" in text
    assert f"log loss: {evaluation.log_loss:.4f}" in text
    assert f"expected calibration error: {evaluation.calibration.ece:.4f}" in text
    page = file.read_text(encoding="utf-8")
    assert "transferkit " in page
    assert f"{100 * evaluation.accuracy:.1f}% accuracy" in page
    message = error_of("evaluate", classifier_file, TEST, "--report", tmp_path / "report.pdf")
    assert "expected a file name that ends in .html" in message


def test_invalid_arguments_are_rejected(tmp_path: Path, classifier_file: Path) -> None:
    assert "no such file" in error_of("evaluate", tmp_path / "no.safetensors", TEST)
    message = error_of("evaluate", classifier_file, TEST, "--csv", tmp_path / "no" / "x.csv")
    assert f"x.csv: the folder '{tmp_path / 'no'}' does not exist" in message
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_the_table_of_the_images_is_not_overwritten(
    tmp_path: Path, classifier_file: Path, command: str
) -> None:
    table = tmp_path / "photos.csv"
    content = f"file,label\n{TEST / 'grass' / 'grass-1.jpg'},grass\n"
    table.write_text(content)
    arguments = (classifier_file, table) if command == "evaluate" else (table,)
    message = error_of(command, *arguments, "--csv", table)
    assert "photos.csv is the table of the images; choose another file to write" in message
    assert table.read_text() == content
