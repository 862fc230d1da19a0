"""``transferkit attack``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import error_of, output_of, run, usage_error_of
from samples import DEMO

from transferkit.backends import Backend

CAT = DEMO / "cat.jpg"


def test_image_is_classified_as_the_target(differentiable: Backend, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options = ("--epsilon", 2, "--json", "--quiet", "--backend", differentiable.name)
    text = output_of("attack", CAT, "--target", "golden retriever", "-o", folder, *options)
    content = json.loads(text)
    assert content["success_rate_uint8"] == 1
    assert (content["method"], content["norm"]) == ("pgd", "linf")
    assert content["epsilon"] == pytest.approx(2 / 255)
    assert content["skipped"] == []
    (image,) = content["images"]
    assert image["source"] == str(CAT)
    assert image["after"]["label"] == "golden retriever"
    assert image["file"] == str(folder / "cat.png")
    assert image["panel"] == str(folder / "cat.panel.png")
    assert sorted(path.name for path in folder.iterdir()) == ["cat.panel.png", "cat.png"]


def test_classes_of_a_saved_classifier_can_be_attacked(
    differentiable: Backend, classifier_file: Path, tmp_path: Path
) -> None:
    options = ("--network", classifier_file, "--backend", differentiable.name, "-q")
    grass = DEMO / "test" / "grass"
    command = ("attack", grass, "-o", tmp_path / "out", *options)
    text = output_of(*command, "--target", "0", "--epsilon", "4", "--steps", "5")
    assert "brick" in text
    assert "4.00/255" in text
    assert "of 8 attacks succeed with the images saved in" in text
    output_of(*command, "--method", "carlini-wagner", "--steps", "1")


def test_names_of_classes_may_be_numbers(differentiable: Backend, tmp_path: Path) -> None:
    for name, label in (("brick", "1"), ("grass", "2"), ("gravel", "3")):
        shutil.copytree(DEMO / "train" / name, tmp_path / "train" / label)
    file = tmp_path / "numbers.safetensors"
    output_of("fit", tmp_path / "train", "-o", file, "--C", "10")
    options = ("--network", file, "--backend", differentiable.name, "-q")
    text = output_of(
        "attack", DEMO / "test" / "grass", "-o", tmp_path / "out", *options, "--target", "3",
        "--epsilon", "16", "--steps", "10", "--json",
    )  # fmt: skip
    images = json.loads(text)["images"]
    assert {image["after"]["label"] for image in images if image["success"]} == {"3"}
    # An index, since no class has this name.
    assert "is already the target, '1'" in error_of(
        "attack", DEMO / "train" / "brick" / "brick-1.jpg", "-o", tmp_path / "out", *options,
        "--target", "0",
    )  # fmt: skip


def test_interruption_is_reported(
    differentiable: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transferkit.optimization.attacks.runner.AttackRunner._evaluate", interrupt)
    result = run("attack", CAT, "-o", tmp_path, "--backend", differentiable.name, "-q")
    assert result.exit_code == 130
    assert "interrupted: images that were not reached are unchanged" in result.stderr


def test_panels_do_not_replace_other_images(differentiable: Backend, tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a.jpg", "a.panel.jpg")]
    for image in images:
        shutil.copy(CAT, image)
    options = ("--steps", 1, "--json", "--backend", differentiable.name, "-q")
    result = run("attack", *images, "-o", tmp_path / "out", *options)
    rows = json.loads(result.stdout)["images"]
    files = [row[kind] for row in rows for kind in ("file", "panel")]
    assert len(set(files)) == 4
    assert sorted(files) == sorted(map(str, (tmp_path / "out").iterdir()))


def test_original_images_are_not_replaced(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    shutil.copy(CAT, image)
    before = image.read_bytes()
    assert "contains the original images" in error_of("attack", image, "-o", tmp_path)
    assert "is a file; expected a folder" in error_of("attack", image, "-o", image)
    assert image.read_bytes() == before
    assert list(tmp_path.iterdir()) == [image]


def test_invalid_arguments_are_rejected(differentiable: Backend, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "out", "--backend", differentiable.name)
    assert "imagenet1k_v1" in error_of("attack", CAT, "--weights", "torchvison", *options)
    assert "unknown method 'pdg'" in error_of("attack", CAT, "--method", "pdg", *options)
    message = usage_error_of("attack", CAT, "--epsilon", 300, *options)
    assert "--epsilon is 300; for linf, expected 0 to 255" in message
    assert not (tmp_path / "out").exists()


def test_epsilon_of_less_than_a_level_is_rejected(differentiable: Backend, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "out", "--backend", differentiable.name, "-q")
    message = usage_error_of("attack", CAT, *options, "--epsilon", 0.0078)
    assert "changes no 8-bit image (for 0.0078 of the range of a pixel, write 1.99)" in message
