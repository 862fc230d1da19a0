"""`ImageOptimizer.attack`: what it refuses, what it gives, and what of it is written."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import NETWORK, WEIGHTS, colored, write_images

from transferkit import ImageOptimizer, TransferkitError
from transferkit.backends import Backend, Program
from transferkit.errors import (
    DatasetError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.optimization.attacks.base import AttackRunner

PICTURES = colored([0, 1, 2, 3])


def optimizer(backend: Backend) -> ImageOptimizer:
    return ImageOptimizer(NETWORK, weights=WEIGHTS, backend=backend, progress=False)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"epsilon": 8}, ParameterError, "8/255"),
        ({"epsilon": -0.1}, ParameterError, r"\[0, 1\]"),
        ({"epsilon": float("nan")}, ParameterError, "number"),
        ({"epsilon": []}, ValueError, "empty"),
        ({"epsilon": "0.1"}, ParameterError, "number"),
        ({"epsilon": 0.1, "method": ["pgd"]}, UnknownNameError, "method"),
        ({"epsilon": 0.1, "norm": ""}, UnknownNameError, "norm"),
        ({}, ValueError, "needs epsilon"),
        ({"epsilon": 0.1, "method": "pdg"}, UnknownNameError, "did you mean 'pgd'"),
        ({"epsilon": 0.1, "norm": "linv"}, UnknownNameError, "'linf'"),
        ({"epsilon": 0.1, "norm": "l0"}, UnknownNameError, "l0 is supported by fmn"),
        ({"epsilon": 0.1, "loss": "crossentropy"}, UnknownNameError, "'cross-entropy'"),
        ({"epsilon": 0.1, "steps": 0}, ValueError, "at least 1"),
        ({"epsilon": 0.1, "steps": 2, "method": "fgsm"}, ValueError, "takes 1"),
        ({"method": "fmn", "restarts": 2}, ValueError, "no random starts"),
        ({"epsilon": 0.1, "loss": "dlr", "target": 0}, ParameterError, "the network has 3"),
        ({"epsilon": 0.1, "target": 3}, UnknownNameError, "class"),
        ({"epsilon": 0.1, "target": [0, 1]}, ShapeError, "2 classes for 4 images"),
        ({"epsilon": 0.1, "labels": [0, 1]}, ShapeError, "2 classes for 4 images"),
    ],
)
def test_what_cannot_be_is_refused(
    differentiable: Backend, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        optimizer(differentiable).attack(PICTURES, **settings)


def test_backend_without_gradients_says_which_have_them() -> None:
    without = ImageOptimizer(NETWORK, weights=WEIGHTS, backend="onnxruntime")
    with pytest.raises(UnsupportedError, match=r"transferkit\[torch\]"):
        without.attack(PICTURES, epsilon=0.1)


def test_target_that_a_picture_already_has(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    own = opt.attack(PICTURES, epsilon=0).labels
    with pytest.raises(ImageError, match=r"images\[0\].*already"):
        opt.attack(PICTURES, target=int(str(own[0]).split()[-1]), epsilon=0.1)
    targets = [int(str(label).split()[-1]) for label in own]
    with pytest.raises(DatasetError, match="already"):
        opt.attack(PICTURES, target=targets, epsilon=0.1, on_error="skip")


def test_what_it_gives(differentiable: Backend, tmp_path: Path) -> None:
    opt = optimizer(differentiable)
    paths = write_images(tmp_path / "in", PICTURES)
    found = opt.attack(paths, epsilon=[0.01, 0.3], steps=5)
    assert found.images.shape == found.saved.shape == (4, 16, 16, 3)
    assert found.images.dtype == np.float32
    assert found.saved.dtype == np.uint8
    assert found.sources == list(map(str, paths))
    assert found.clean_accuracy == 1
    assert found.success.any()
    for after, label, success in zip(found.after, found.labels, found.success, strict=True):
        assert (after.label != label) == success
        assert 0 < after.probability <= 1
    curve = found.curve([0, 0.01, 0.3])
    assert (np.diff(curve.success) >= 0).all()
    assert curve.success[-1] == found.success_rate
    assert (found.evaluations <= 10).all()

    written = found.save(tmp_path / "out")
    assert [path.name for path in written] == ["000.png", "001.png", "002.png", "003.png"]
    for path, picture in zip(written, found.saved, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    # Read again it is the same to the network.
    again = opt.attack(written, epsilon=0)
    assert [one.label for one in again.before] == [one.label for one in found.after_saved]
    found.panel().save(tmp_path / "panel.png")
    assert Image.open(tmp_path / "panel.png").width > 3 * 16
    with pytest.raises(OutputError):
        found.panel().save(tmp_path / "panel.txt")


def test_labels_that_are_not_what_the_network_sees(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    seen = int(str(opt.attack(PICTURES[:1], epsilon=0).labels[0]).split()[-1])
    found = opt.attack(PICTURES[:1], (seen + 1) % 3, epsilon=0.1)
    # It is wrong already: nothing is to be done.
    assert found.success.all()
    assert found.evaluations.tolist() == [0]
    assert found.distance.tolist() == [0]
    assert found.clean_accuracy == 0


@pytest.mark.parametrize("seed", [-1, None, "x", 1.5, True])
def test_seeds_that_are_none(differentiable: Backend, seed: Any) -> None:
    opt = ImageOptimizer(NETWORK, weights=WEIGHTS, backend=differentiable, seed=seed)
    for work in (
        lambda: opt.attack(PICTURES, epsilon=0.1, restarts=2),
        lambda: opt.visualize(0, steps=1),
    ):
        with pytest.raises(ParameterError, match="seed is"):
            work()


def test_numbers_of_any_type(differentiable: Backend) -> None:
    found = optimizer(differentiable).attack(
        PICTURES, np.array(1), epsilon=np.array(0.1), steps=1, norm="l2"
    )
    assert found.labels == ["class 1"] * len(PICTURES)
    as_fraction = optimizer(differentiable).attack(PICTURES, epsilon=Fraction(2, 255), steps=1)
    assert as_fraction.epsilon == 2 / 255
    far = optimizer(differentiable).attack(PICTURES, epsilon=1e30, norm="l2")
    assert far.success_rate > 0


def test_pictures_are_judged_a_batch_at_a_time(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = Program.run, []

    def noted(self: Program, pixels: Any, layers: Any) -> Any:
        sizes.append(len(pixels))
        return run(self, pixels, layers)

    monkeypatch.setattr(Program, "run", noted)
    opt = ImageOptimizer(
        NETWORK, weights=WEIGHTS, backend=differentiable, batch_size=3, progress=False
    )
    found = opt.attack(PICTURES * 2, epsilon=0.05, steps=3)
    opt.transfer(found, differentiable.name)
    assert max(sizes) == 3


def test_interrupted_while_judging(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AttackRunner, "_save", interrupt)
    found = optimizer(differentiable).attack(PICTURES, epsilon=0.1)
    assert found.interrupted
    assert found.success.any()


def test_what_panels_and_curves_cannot_show(differentiable: Backend) -> None:
    found = optimizer(differentiable).attack(PICTURES, epsilon=0.1, steps=1)
    for rows in ([99], [], [-1]):
        with pytest.raises(ParameterError, match="0 to 3"):
            found.panel(rows)
    assert found.panel(2).image.size == found.panel([2]).image.size  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="finite"):
        found.curve([float("nan")])


def test_pictures_are_not_replaced_by_their_own(
    differentiable: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transferkit.cli import app

    paths = write_images(tmp_path / "photos", PICTURES)
    before = [path.read_bytes() for path in paths]
    found = optimizer(differentiable).attack(tmp_path / "photos", epsilon=0.1, steps=1)
    with pytest.raises(OutputError, match="one of the pictures themselves"):
        found.save(tmp_path / "photos")
    with pytest.raises(SystemExit) as ended:
        app(["attack", *map(str, paths), "-o", str(tmp_path / "photos")])
    assert ended.value.code == 1
    assert "holds the images themselves" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before
    assert sorted((tmp_path / "photos").iterdir()) == paths


def test_transfer_counts_what_was_changed(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    seen = opt.attack(PICTURES, epsilon=0).labels
    classes = [f"class {index}" for index in range(3)]
    wrong = [classes.index(str(label)) for label in seen]
    wrong[0] = (wrong[0] + 1) % 3
    found = opt.attack(PICTURES, wrong, method="fmn", norm="l2")
    assert found.success.all()
    moved = opt.transfer(found, ImageOptimizer(NETWORK, weights=WEIGHTS, backend="onnxruntime"))
    assert moved.attempted.tolist() == [False, True, True, True]
    assert moved.rate == 1
    with pytest.raises(TypeError, match="what 'attack' returned"):
        opt.transfer(found.images, "onnxruntime")  # type: ignore[arg-type]


def test_transfer_to_another_backend(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    found = opt.attack(PICTURES, epsilon=0.3, steps=5)
    moved = opt.transfer(found, "onnxruntime")
    assert moved.attempted.any()
    assert moved.rate == 1
    assert [one.label for one in moved.after] == [one.label for one in found.after_saved]


def test_interruption_keeps_what_is_done(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = optimizer(differentiable)
    calls = []
    evaluate = AttackRunner._evaluate

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(AttackRunner, "_evaluate", interrupted)
    found = opt.attack(PICTURES, method="fmn", norm="l2", steps=50)
    assert found.interrupted
    assert "interrupted" in repr(found)
    assert found.evaluations.max() <= 2


def test_the_usual_norm_is_one_that_the_method_knows(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    assert opt.attack(PICTURES[:1], method="carlini-wagner", steps=2).norm == "l2"
    assert opt.attack(PICTURES[:1], method="deepfool", steps=2).norm == "linf"
    with pytest.raises(TransferkitError, match="unknown method"):
        opt.attack(PICTURES[:1], method="carlini")


def test_each_of_several_epsilons_counts_as_it_does_alone(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    far = opt.attack(PICTURES, method="fmn", norm="linf", steps=30)
    # So near to another class that what it takes is lost when it is rounded.
    near = far.originals + np.float32(0.97) * (far.images - far.originals)
    epsilons = [share / 255 for share in (0.1, 0.2, 0.4, 1.0, 4.0, 16.0)]
    found = opt.attack(near, epsilon=epsilons, steps=10)
    curve = found.curve(epsilons)
    alone = [opt.attack(near, epsilon=epsilon, steps=10) for epsilon in epsilons]
    assert any((one.success & ~one.success_saved).any() for one in alone)
    assert curve.success.tolist() == [one.success_rate for one in alone]
    every = found.curve()
    assert every.epsilons[0] == 0
    assert every.epsilons[-1] == pytest.approx(max(epsilons))
    assert every.success[-1] == found.success_rate


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_what_no_8_bit_picture_can_do_is_not_looked_for(
    differentiable: Backend, method: str
) -> None:
    """Below a 255th a success in floats is all that there can be."""
    opt = optimizer(differentiable)
    pictures = colored([0, 1, 2, 3, 4] * 12, spread=127)
    distance = 255 * opt.attack(pictures, method="fmn", norm="linf").distance
    chosen = [pictures[row] for row in (*np.flatnonzero(distance < 0.7), distance.argmax())]
    assert len(chosen) > 2
    epsilons = [0.8 / 255, 0.9 / 255]
    found = opt.attack(chosen, epsilon=epsilons, method=method, steps=20, restarts=2)
    assert found.success.tolist() == [True] * (len(chosen) - 1) + [False]
    assert not found.success_saved.any()
    assert (found.evaluations[:-1] < 20).all()
    assert found.evaluations[-1] == 80


def test_curve_needs_matplotlib_to_be_drawn(differentiable: Backend, tmp_path: Path) -> None:
    found = optimizer(differentiable).attack(PICTURES, epsilon=0.1, steps=2)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(TransferkitError, match="plots"):
            found.plot_curve(tmp_path / "curve.png")
        assert list(tmp_path.iterdir()) == []
    else:
        found.plot_curve(tmp_path / "curve.png")
        assert Image.open(tmp_path / "curve.png").width > 100


def test_command_line(
    differentiable: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from samples import DEMO

    from transferkit.cli import app

    out = tmp_path / "out"
    arguments = ["attack", str(DEMO / "cat.jpg"), "--target", "golden retriever", "-o", str(out)]
    arguments += ["--epsilon", "2", "--json", "--quiet", "--backend", differentiable.name]
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    assert ended.value.code in (0, None)
    said = json.loads(capsys.readouterr().out)
    assert said["success_rate_saved"] == 1
    assert said["images"][0]["after"]["label"] == "golden retriever"
    assert sorted(path.name for path in out.iterdir()) == ["cat.panel.png", "cat.png"]
