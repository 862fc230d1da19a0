"""`ImageOptimizer.attack`: what it refuses, what it gives, and what of it is written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import NETWORK, WEIGHTS, coloured, write_pictures

from transferkit import ImageOptimizer, TransferkitError
from transferkit.attacks.base import AttackRunner
from transferkit.backends import Backend
from transferkit.errors import (
    DatasetError,
    ImageError,
    OutputError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)

PICTURES = coloured([0, 1, 2, 3])


def optimizer(backend: Backend) -> ImageOptimizer:
    return ImageOptimizer(NETWORK, weights=WEIGHTS, backend=backend, progress=False)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"epsilon": 8}, ParameterError, "8/255"),
        ({"epsilon": -0.1}, ParameterError, r"\[0, 1\]"),
        ({"epsilon": float("nan")}, ParameterError, "number"),
        ({"epsilon": []}, ValueError, "empty"),
        ({}, ValueError, "needs epsilon"),
        ({"epsilon": 0.1, "method": "pdg"}, UnknownNameError, "did you mean 'pgd'"),
        ({"epsilon": 0.1, "norm": "linv"}, UnknownNameError, "'linf'"),
        ({"epsilon": 0.1, "norm": "l0"}, UnknownNameError, "for l0 there is fmn"),
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
    paths = write_pictures(tmp_path / "in", PICTURES)
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
    pictures = coloured([0, 1, 2, 3, 4] * 12, spread=127)
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
