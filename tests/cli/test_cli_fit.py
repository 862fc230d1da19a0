"""``transferkit fit``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, output_of, run, usage_error_of
from samples import DEMO

from transferkit import Classifier, list_labeled_images
from transferkit.backends import Backend

CAT = DEMO / "cat.jpg"
TRAIN = DEMO / "train"
TEST = DEMO / "test"


def test_fitted_classifier_is_saved_and_tested(tmp_path: Path, classifier_file: Path) -> None:
    output = tmp_path / "textures.safetensors"
    text = output_of("fit", TRAIN, "-o", output, "--test", TEST, "--C", 10)
    assert f"saved {output}: 3 classes (brick, grass, gravel), C = 10" in text
    assert f"accuracy on 24 images of {TEST}" in text
    expected = Classifier.load(classifier_file).evaluate(TEST)
    assert f"{expected.accuracy:.4f}" in text
    assert os.listdir(tmp_path) == ["textures.safetensors"]
    images = json.loads(output_of("predict", output, TEST, "--json"))["images"]
    assert len(images) == 24
    for image in images:
        assert image["predictions"][0]["label"] == Path(image["source"]).parent.name


def test_cross_validated_accuracy_is_printed_without_test_images(tmp_path: Path) -> None:
    text = output_of("fit", TRAIN, "-o", tmp_path / "c.safetensors")
    assert "cross-validated accuracy on 24 images: 1.0000 (95% interval 0.8620 to 1.0000)" in text


def test_held_out_images_are_tested_on_and_not_trained_on(tmp_path: Path) -> None:
    output = tmp_path / "c.safetensors"
    text = output_of("fit", TRAIN, "-o", output, "--holdout", 0.25, "--C", 10)
    assert "accuracy on 6 images held out: " in text
    everything = Classifier(C=10.0).fit(TRAIN).model_.weights["head.weight"]
    assert not np.allclose(Classifier.load(output).model_.weights["head.weight"], everything)
    assert "cannot be used together" in usage_error_of(
        "fit", TRAIN, "-o", output, "--holdout", 0.25, "--test", TEST
    )
    assert "expected a fraction" in usage_error_of("fit", TRAIN, "-o", output, "--holdout", 1.5)
    # One of each class at least.
    text = output_of("fit", TRAIN, "-o", output, "--holdout", 0.01, "--C", 10)
    assert "accuracy on 3 images held out: " in text


def test_copies_are_not_held_out_from_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for name in ("brick", "grass"):
        (folder / name).mkdir(parents=True)
        for copy in ("a.jpg", "b.jpg"):
            shutil.copy(TRAIN / name / f"{name}-1.jpg", folder / name / copy)
    message = error_of("fit", folder, "-o", tmp_path / "c.safetensors", "--holdout", 0.5)
    assert "all images of 2 classes: 'brick', 'grass' are copies of each other" in message


def test_a_table_with_splits_is_trained_and_tested_on(tmp_path: Path) -> None:
    lines = ["path;kind of ground;split"]
    for split, root in (("train", TRAIN), ("test", TEST)):
        paths, labels = list_labeled_images(root)
        lines += [f"{path};{label};{split}" for path, label in zip(paths, labels, strict=True)]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join([*lines, "missing.jpg;grass;train"]))
    output = tmp_path / "c.safetensors"
    assert "'path', 'kind of ground', 'split'" in error_of("fit", table, "-o", output)
    table.write_text(table.read_text().replace("kind of ground", "label"))
    result = run("fit", table, "-o", output, "--C", 10)
    assert result.exit_code == 0
    assert "1 skipped:\n" in result.stderr
    table.write_text(table.read_text().replace("missing.jpg;grass;train", ""))
    result = run("fit", table, "-o", output, "--test", table, "--C", 10)
    assert result.stderr == ""
    assert f"accuracy on 24 images of {table}: 1.0000" in result.stdout
    text = output_of("evaluate", output, table)
    assert f"accuracy on 24 images of {table}: 1.0000" in text
    table.write_text(table.read_text().replace(";test", ";validation"))
    assert "no rows of the split 'test'; the table has 'train', 'validation'" in error_of(
        "evaluate", output, table
    )


def test_a_table_without_splits_is_tested_on(tmp_path: Path, classifier_file: Path) -> None:
    paths, labels = list_labeled_images(TEST)
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["file,label", *rows, "missing.jpg,grass"]))
    result = run("evaluate", classifier_file, table)
    assert f"accuracy on 24 images of {table}: 1.0000" in result.stdout
    assert "missing.jpg: no such file (photos.csv, line 26)" in result.stderr


def test_labels_of_a_table_may_be_numbers(tmp_path: Path) -> None:
    paths, labels = list_labeled_images(TRAIN)
    numbers = [["brick", "grass", "gravel"].index(label) for label in labels]
    rows = [
        json.dumps({"file_name": str(path), "label": number})
        for path, number in zip(paths, numbers, strict=True)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    (tmp_path / "other.jsonl").write_text(rows[0].replace(": 0}", ": 7}"))
    output = tmp_path / "c.safetensors"
    text = output_of("fit", tmp_path / "metadata.jsonl", "-o", output, "--C", 10)
    assert "3 classes (0, 1, 2)" in text
    options = ("-o", output, "--test", tmp_path / "other.jsonl")
    assert "1 of its classes are not in" in error_of("fit", tmp_path / "metadata.jsonl", *options)


def test_long_list_of_classes_is_shortened(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for number in range(9):
        (folder / f"class{number}").mkdir(parents=True)
        for copy in ("a.jpg", "b.jpg"):
            shutil.copy(TRAIN / "grass" / "grass-1.jpg", folder / f"class{number}" / copy)
    text = output_of("fit", folder, "-o", tmp_path / "c.safetensors", "--C", 1)
    assert "9 classes (class0, class1, " in text
    assert "class7, ...)" in text


def test_testing_on_the_training_folder_warns(tmp_path: Path) -> None:
    result = run("fit", TRAIN, "-o", tmp_path / "c.safetensors", "--test", TRAIN, "--C", 10)
    assert result.exit_code == 0
    assert f"{TRAIN} is also the training folder" in result.stderr


def test_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    for name, content in {"brick": "grass", "grass": "brick", "gravel": "gravel"}.items():
        shutil.copytree(TEST / content, folder / name)
    output = tmp_path / "c.safetensors"
    text = output_of("fit", TRAIN, "-o", output, "--test", folder, "--C", 10)
    assert f"accuracy on 24 images of {folder}: 0.3333 (95% interval 0.1797 to 0.5329)\n" in text
    assert "\nmost frequent confusions:" in text
    rows = [
        tuple(cell.strip() for cell in line.strip("┃│").split("┃" if "┃" in line else "│"))
        for line in text.splitlines()
        if line.startswith(("┃", "│"))
    ]
    assert rows[0] == ("true class", "predicted class", "images")
    assert set(rows[1:]) == {("brick", "grass", "8"), ("grass", "brick", "8")}


def test_unreadable_images_are_skipped_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(TRAIN, folder)
    broken = folder / "brick" / "broken.jpg"
    broken.write_text("not an image")
    truncated = folder / "grass" / "truncated.jpg"
    truncated.write_bytes(CAT.read_bytes()[:2000])
    result = run("fit", folder, "-o", tmp_path / "c.safetensors", "--C", 10)
    assert result.exit_code == 0
    first, *others = result.stderr.splitlines()
    assert first == "2 skipped:"
    assert [line.split(":")[0].strip() for line in others] == [str(broken), str(truncated)]


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    empty, one_class, one_image = (tmp_path / name for name in ("empty", "class", "image"))
    empty.mkdir()
    shutil.copytree(TEST / "grass", one_class / "grass")
    for name in ("brick", "grass"):
        (one_image / name).mkdir(parents=True)
        shutil.copy(CAT, one_image / name)
    other = tmp_path / "other"
    for name in ("grass", "sand", "snow"):
        shutil.copytree(TEST / "grass", other / name)
    missing = tmp_path / "missing"
    output = tmp_path / "out.safetensors"
    for arguments, message in (
        ((missing, "-o", output), "no such file"),
        ((empty, "-o", output), "no folders"),
        ((one_class, "-o", output), "only one class, 'grass'"),
        ((one_image, "-o", output), "classes with only one image: 'brick', 'grass'"),
        ((CAT, "-o", output), "a file, not a folder"),
        ((TRAIN, "-o", missing / "out.safetensors"), "does not exist"),
        ((TRAIN, "-o", tmp_path / "out.npz"), "expected a file name that ends in .safetensors"),
        ((TRAIN, "-o", output, "--test", empty), "no folders"),
        (
            (TRAIN, "-o", output, "--test", other),
            f"are not in {TRAIN}: sand, snow",
        ),
        ((TRAIN, "-o", output, "--C", "-1"), "C is -1.0"),
        ((TRAIN, "-o", output, "--C", "nan"), "C is nan"),
        ((TRAIN, "-o", output, "--network", "mobilenet"), "'mobilenet_v2'"),
        ((TRAIN, "-o", output, "--backend", "onnx"), "unknown backend 'onnx'"),
    ):
        assert message in error_of("fit", *arguments), arguments
    assert not output.exists()


def test_fine_tuning_is_reported_and_resumed(tmp_path: Path, differentiable: Backend) -> None:
    arguments = (
        *("fit", TRAIN, "-o", tmp_path / "tuned.safetensors", "--seed", 0),
        *("--fine-tune", "--epochs", 1, "--learning-rate", 1e-4, "--trainable", "features.17"),
        *("--checkpoint", tmp_path / "run", "--backend", differentiable.name),
    )
    text = output_of(*arguments)
    assert "\nkept " in text
    assert "validation accuracy 1.0000, loss 0.0" in text
    assert "cross-validated accuracy of the probe on 24 images: 1.0000" in text
    tuned = Classifier.load(tmp_path / "tuned.safetensors", backend="onnxruntime")
    assert tuned.history_ is not None
    assert len(tuned.history_.epochs) == 1
    assert ("trained again on all images" in text) == (tuned.history_.refit is not None)
    assert tuned.score(TEST) == 1
    # The second run has nothing left to train, and gives the same file.
    content = (tmp_path / "tuned.safetensors").read_bytes()
    output_of(*arguments)
    assert (tmp_path / "tuned.safetensors").read_bytes() == content
    message = error_of(*arguments[:6], "--fine-tune", *arguments[-6:-4], *arguments[-4:])
    assert "a checkpoint of another run: epochs was 1, now None" in message


def test_options_of_fine_tuning_need_it(tmp_path: Path) -> None:
    message = usage_error_of("fit", TRAIN, "-o", tmp_path / "c.safetensors", "--epochs", 3)
    assert "need --fine-tune" in message


def test_a_report_needs_images_to_test_on(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    output, report = tmp_path / "ground.safetensors", tmp_path / "report.html"
    message = usage_error_of("fit", TRAIN, "-o", output, "--report", report)
    assert "--report needs --test or --holdout" in message
    assert not output.exists()
    text = output_of("fit", TRAIN, "-o", output, "--C", 10, "--test", TEST, "--report", report)
    assert f"saved {report}" in text
    assert "24 images of 3 classes" in report.read_text(encoding="utf-8")
