"""``transferkit predict``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from command_line import error_of, output_of, run, usage_error_of
from samples import DEMO

from transferkit import Classifier

CAT = DEMO / "cat.jpg"


def test_table_json_and_csv_contain_the_same_predictions(classifier_file: Path) -> None:
    paths = [DEMO / "test" / "grass" / "grass-1.jpg", CAT]
    expected = Classifier.load(classifier_file).predict_top(paths, k=2)
    table = output_of("predict", classifier_file, *paths)
    for path, best in zip(paths, expected, strict=True):
        (row,) = [line for line in table.splitlines() if str(path) in line]
        assert str(best[0].label) in row
        assert f"{best[0].probability:.3f}" in row
    content = json.loads(output_of("predict", classifier_file, *paths, "--json", "--top", 2))
    assert content["skipped"] == []
    assert [image["source"] for image in content["images"]] == [str(path) for path in paths]
    text = output_of("predict", classifier_file, *paths, "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 4
    for index, best in enumerate(expected):
        for rank, prediction in enumerate(best):
            item = content["images"][index]["predictions"][rank]
            assert item["label"] == prediction.label
            assert item["probability"] == pytest.approx(prediction.probability, abs=1e-5)
            row = rows[2 * index + rank]
            assert (row["source"], row["rank"]) == (str(paths[index]), str(rank + 1))
            assert row["label"] == prediction.label
            assert float(row["probability"]) == pytest.approx(prediction.probability, abs=1e-5)


def test_images_of_other_kinds_are_none_of_the_classes(classifier_file: Path) -> None:
    paths = [DEMO / "test" / "grass" / "grass-1.jpg", CAT]
    classifier = Classifier.load(classifier_file)
    table = output_of("predict", classifier_file, *paths, "--unknown")
    rows = [line for line in table.splitlines() if ".jpg" in line]
    assert ["none of these" in row for row in rows] == [False, True]
    text = output_of("predict", classifier_file, *paths, "--unknown", "--csv")
    entries = list(csv.DictReader(io.StringIO(text)))
    assert [entry["unknown"] for entry in entries] == ["0", "1"]
    scores = classifier.unknown_score(paths)
    assert [float(entry["unknown_score"]) for entry in entries] == pytest.approx(scores, rel=1e-4)
    text = output_of("predict", classifier_file, *paths, "--unknown", "--json", "--known-share", 1)
    images = json.loads(text)["images"]
    limit = classifier.unknown_threshold(1)
    assert [image["unknown"] for image in images] == (scores > limit).tolist()
    message = usage_error_of("predict", classifier_file, CAT, "--known-share", 0.9)
    assert "--known-share needs --unknown" in message
    assert "fit it again" in error_of("predict", CAT, "--unknown")


def test_without_a_classifier_imagenet_classes_are_predicted() -> None:
    (image,) = json.loads(output_of("predict", CAT, "--json", "--top", 3))["images"]
    assert image["predictions"][0]["label"] == "Egyptian cat"
    assert len(image["predictions"]) == 3


@pytest.mark.parametrize("option", [("--weights", "keras"), ("--network", "vgg16")])
def test_classifier_with_another_network_is_rejected(
    classifier_file: Path, option: tuple[str, str]
) -> None:
    message = usage_error_of("predict", classifier_file, CAT, *option)
    assert f"contains its own network and weights; {option[0]} cannot be used" in message


def test_unreadable_images_are_skipped_and_listed(tmp_path: Path, classifier_file: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    result = run("predict", classifier_file, CAT, broken)
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first == "1 skipped:"
    assert str(broken) in second
    result = run("predict", classifier_file, CAT, broken, "--json")
    assert json.loads(result.stdout)["skipped"][0]["source"] == str(broken)


def test_invalid_files_are_rejected(tmp_path: Path, classifier_file: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(classifier_file.read_bytes()[:-1])
    missing = tmp_path / "missing"
    for arguments, message in (
        ((missing,), "no such file"),
        ((text,), f"{text}: "),
        ((empty,), f"{empty}: "),
        ((classifier_file,), "no images were given"),
        ((damaged, CAT), "damaged or truncated"),
        ((missing.with_suffix(".safetensors"), CAT), "no such file"),
    ):
        assert message in error_of("predict", *arguments), arguments


def test_invalid_usage_is_rejected() -> None:
    assert "cannot be used together" in usage_error_of("predict", CAT, "--json", "--csv")
    assert "must be the first" in usage_error_of("predict", CAT, "model.safetensors")
    assert "--top" in usage_error_of("predict", CAT, "--top", 0)
    assert "PATH" in usage_error_of("predict")
