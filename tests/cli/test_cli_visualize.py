"""``transferkit visualize``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from command_line import error_of, output_of, run, usage_error_of
from PIL import Image
from samples import DEMO

from transferkit.backends import Backend
from transferkit.optimization.visualization.transforms import TransformChain

CAT = DEMO / "cat.jpg"


def test_images_of_classes_are_reproducible(differentiable: Backend, tmp_path: Path) -> None:
    output, animation = tmp_path / "ideal.png", tmp_path / "ideal.gif"
    options = ("--backend", differentiable.name, "--steps", "2", "--size", "48", "--quiet")
    command = ("visualize", "Lighthouse", "284", "-o", output, *options)
    text = output_of(*command, "--animation", animation)
    assert f"saved {output}: 2 steps" in text
    # A synonym of class 437, and an index.
    assert "beacon" in text
    assert "Siamese cat" in text
    with Image.open(output) as image, Image.open(animation) as frames:
        assert image.width > 2 * 48
        assert frames.n_frames == 2
    first = output.read_bytes()
    output_of(*command)
    assert output.read_bytes() == first
    output_of(*command, "--seed", "1")
    assert output.read_bytes() != first


def test_images_of_channels_and_layers_have_no_probabilities(
    differentiable: Backend, tmp_path: Path
) -> None:
    output = tmp_path / "channels.jpg"
    options = ("--backend", differentiable.name, "--steps", "1", "--size", "32", "-q")
    command = ("visualize", "--layer", "features.2", "-o", output, *options)
    assert "probability" not in output_of(*command, "--channels", "2:5")
    with Image.open(output) as image:
        assert image.format == "JPEG"
    output_of(*command, "--start", CAT)
    with Image.open(output) as image:
        assert image.size == (32, 32)


def test_classes_of_a_saved_classifier_can_be_used(
    differentiable: Backend, classifier_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "own.png"
    options = ("-o", output, "--network", classifier_file, "--backend", differentiable.name, "-q")
    text = output_of("visualize", "grass", "--steps", "1", "--size", "32", *options)
    assert "grass" in text
    assert output.exists()
    assert "brick" in error_of("visualize", "zebra", *options)
    message = usage_error_of("visualize", "grass", "--weights", "keras", *options)
    assert "--weights cannot be used" in message


def test_interrupted_run_saves_its_images(
    differentiable: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, calls = TransformChain.sample, itertools.count()

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(TransformChain, "sample", interrupted)
    output, animation = tmp_path / "ideal.png", tmp_path / "steps.gif"
    options = ("--size", 32, "--backend", differentiable.name, "--animation", animation)
    result = run("visualize", "zebra", "-o", output, *options)
    assert result.exit_code == 130
    assert result.stderr == "interrupted after 2 of 256 steps\n"
    assert f"saved {output}: 2 steps" in result.stdout
    assert sorted(tmp_path.iterdir()) == [output, animation]


def test_unknown_names_are_rejected(differentiable: Backend, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "ideal.png", "--backend", differentiable.name)
    message = error_of("visualize", "crane", *options)
    assert "'crane bird' (index 134, n02012849) or 'crane' (index 517, n03126707)" in message
    assert "imagenet1k_v1" in error_of("visualize", "zebra", "--weights", "torchvison", *options)
    assert "did you mean 'zebra'" in error_of("visualize", "zebar", *options)
    channels = ("--layer", "features.2", "--channels", "20:30")
    assert "0 to 23" in error_of("visualize", *channels, *options)
    assert list(tmp_path.iterdir()) == []


def test_file_names_with_other_suffixes_are_rejected(tmp_path: Path) -> None:
    assert "ends in .png or" in error_of("visualize", "zebra", "-o", tmp_path / "ideal.txt")
    options = ("-o", tmp_path / "ideal.png", "--animation", tmp_path / "steps.png")
    assert "ends in .gif" in error_of("visualize", "zebra", *options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zebra", "--layer", "features.2"), "either classes or --layer"),
        ((), "either classes or --layer"),
        (("zebra", "--channels", "7"), "--channels requires --layer"),
        (("--layer", "features.2", "--channels", "7:7"), "an empty range"),
        (("--layer", "features.2", "--channels", "a:b"), "expected a number or a range"),
        (("--layer", "features.2", "--channels", ""), "expected a number or a range"),
    ],
)
def test_invalid_usage_is_rejected(
    differentiable: Backend, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    options = ("-o", tmp_path / "ideal.png", "--backend", differentiable.name)
    assert message in usage_error_of("visualize", *arguments, *options)


def test_backend_without_gradients_is_rejected(tmp_path: Path) -> None:
    options = ("-o", tmp_path / "a.png", "--backend", "onnxruntime")
    assert 'pip install "transferkit[torch]"' in error_of("visualize", "zebra", *options)
