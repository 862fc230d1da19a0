"""`ImageOptimizer.attack`: its checks, its results, and the files that it writes."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from samples import NETWORK, SIDE, WEIGHTS, colored, write_images

from transferkit import ImageOptimizer, Preprocessing, TransferkitError
from transferkit.backends import Backend, Program
from transferkit.backends.base import GRADIENTS
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    ImageError,
    NotFiniteError,
    OutputError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images.conversion import to_float32
from transferkit.optimization.attacks.runner import AttackRunner
from transferkit.support.numerics import softmax

IMAGES = colored([0, 1, 2, 3])


def optimizer(backend: Backend) -> ImageOptimizer:
    return ImageOptimizer(
        NETWORK, weights=WEIGHTS, preprocessing=Preprocessing(SIDE), backend=backend, progress=False
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
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
        ({"epsilon": 0.1, "norm": "l0"}, UnknownNameError, "methods that support l0: 'fmn'"),
        ({"epsilon": 0.1, "loss": "crossentropy"}, UnknownNameError, "'cross-entropy'"),
        ({"epsilon": 0.1, "steps": 0}, ValueError, "at least 1"),
        ({"epsilon": 0.1, "steps": 2, "method": "fgsm"}, ValueError, "takes at most 1"),
        ({"method": "fmn", "restarts": 2}, ValueError, "no random starts"),
        ({"epsilon": 0.1, "loss": "dlr", "target": 0}, ParameterError, "the network has 3"),
        ({"epsilon": 0.1, "target": 3}, UnknownNameError, "class"),
        ({"epsilon": 0.1, "target": [0, 1]}, ShapeError, "2 classes for 4 images"),
        ({"epsilon": 0.1, "y": [0, 1]}, ShapeError, "2 classes for 4 images"),
    ],
)
def test_invalid_arguments_are_rejected(
    differentiable: Backend, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        optimizer(differentiable).attack(IMAGES, **settings)


def test_error_for_backend_without_gradients_names_others() -> None:
    without = ImageOptimizer(
        NETWORK,
        weights=WEIGHTS,
        preprocessing=Preprocessing(SIDE),
        backend="onnxruntime",
    )
    with pytest.raises(UnsupportedError, match=r"transferkit\[torch\]"):
        without.attack(IMAGES, epsilon=0.1)


def test_target_must_differ_from_the_predicted_class(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    own = opt.attack(IMAGES, epsilon=0).labels
    with pytest.raises(ImageError, match=r"images\[0\].*already"):
        opt.attack(IMAGES, target=int(str(own[0]).split()[-1]), epsilon=0.1)
    targets = [int(str(label).split()[-1]) for label in own]
    with pytest.raises(DatasetError, match="already"):
        opt.attack(IMAGES, target=targets, epsilon=0.1, on_error="skip")


def test_result_is_complete_and_saved_without_loss(differentiable: Backend, tmp_path: Path) -> None:
    opt = optimizer(differentiable)
    paths = write_images(tmp_path / "in", IMAGES)
    result = opt.attack(paths, epsilon=[0.01, 0.3], steps=5)
    assert result.images.shape == result.images_uint8.shape == (4, 16, 16, 3)
    assert result.images.dtype == np.float32
    assert result.images_uint8.dtype == np.uint8
    assert result.sources == list(map(str, paths))
    assert result.clean_accuracy == 1
    assert result.success.any()
    for after, label, success in zip(result.after, result.labels, result.success, strict=True):
        assert (after.label != label) == success
        assert 0 < after.probability <= 1
    curve = result.curve([0, 0.01, 0.3])
    assert (np.diff(curve.success_rates) >= 0).all()
    assert curve.success_rates[-1] == result.success_rate
    assert (result.gradient_evaluations <= 10).all()

    written = result.save(tmp_path / "out")
    assert [path.name for path in written] == ["000.png", "001.png", "002.png", "003.png"]
    for path, image in zip(written, result.images_uint8, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    # The files are read again as the same images.
    again = opt.attack(written, epsilon=0)
    assert [prediction.label for prediction in again.before] == [
        prediction.label for prediction in result.after_uint8
    ]
    result.panel().save(tmp_path / "panel.png")
    assert Image.open(tmp_path / "panel.png").width > 3 * 16
    with pytest.raises(OutputError):
        result.panel().save(tmp_path / "panel.txt")


def test_misclassified_image_needs_no_change(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    predicted = int(str(opt.attack(IMAGES[:1], epsilon=0).labels[0]).split()[-1])
    result = opt.attack(IMAGES[:1], (predicted + 1) % 3, epsilon=0.1)
    assert result.success.all()
    assert result.gradient_evaluations.tolist() == [0]
    assert result.distance.tolist() == [0]
    assert result.clean_accuracy == 0


@pytest.mark.parametrize("random_state", [-1, "x", 1.5, True])
def test_invalid_random_states_are_rejected(differentiable: Backend, random_state: Any) -> None:
    opt = ImageOptimizer(
        NETWORK,
        weights=WEIGHTS,
        preprocessing=Preprocessing(SIDE),
        backend=differentiable,
        random_state=random_state,
    )
    for work in (
        lambda: opt.attack(IMAGES, epsilon=0.1, restarts=2),
        lambda: opt.visualize(0, steps=1),
    ):
        with pytest.raises(ParameterError, match="random_state is"):
            work()


def test_numbers_may_have_any_numeric_type(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(
        IMAGES, np.array(1), epsilon=np.array(0.1), steps=1, norm="l2"
    )
    # The labels can be passed back.
    assert result.labels == [1] * len(IMAGES)
    as_fraction = optimizer(differentiable).attack(IMAGES, epsilon=Fraction(2, 255), steps=1)
    assert as_fraction.epsilon == 2 / 255
    far = optimizer(differentiable).attack(IMAGES, epsilon=1e30, norm="l2")
    assert far.success_rate > 0


def test_network_runs_on_batches_of_the_batch_size(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sizes = Program.run, []

    def recorded_run(self: Program, pixels: Any, layers: Any) -> Any:
        sizes.append(len(pixels))
        return run(self, pixels, layers)

    monkeypatch.setattr(Program, "run", recorded_run)
    opt = ImageOptimizer(
        NETWORK,
        weights=WEIGHTS,
        preprocessing=Preprocessing(SIDE),
        backend=differentiable,
        batch_size=3,
        progress=False,
    )
    result = opt.attack(IMAGES * 2, epsilon=0.05, steps=3)
    opt.transfer(result, differentiable.name)
    assert max(sizes) == 3


def test_interruption_after_the_last_step_keeps_the_images(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AttackRunner, "_find_uint8_images", interrupt)
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.1)
    assert result.interrupted
    assert result.success.any()


def test_invalid_rows_and_epsilons_are_rejected(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.1, steps=1)
    for rows in ([99], [], [-1]):
        with pytest.raises(ParameterError, match="0 to 3"):
            result.panel(rows)
    assert result.panel(2).image.size == result.panel([2]).image.size  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="finite"):
        result.curve([float("nan")])
    with pytest.raises(ParameterError, match="expected finite numbers"):
        result.curve("x")  # type: ignore[arg-type]


def test_input_images_are_never_overwritten(
    differentiable: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transferkit.cli.app import app

    paths = write_images(tmp_path / "photos", IMAGES)
    before = [path.read_bytes() for path in paths]
    result = optimizer(differentiable).attack(tmp_path / "photos", epsilon=0.1, steps=1)
    with pytest.raises(OutputError, match="one of the input images"):
        result.save(tmp_path / "photos")
    with pytest.raises(SystemExit) as ended:
        app(["attack", *map(str, paths), "-o", str(tmp_path / "photos")])
    assert ended.value.code == 1
    assert "contains the original images" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before
    assert sorted((tmp_path / "photos").iterdir()) == paths


def test_transfer_counts_changed_images_only(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    wrong = opt.attack(IMAGES, epsilon=0).labels
    wrong[0] = (wrong[0] + 1) % 3
    result = opt.attack(IMAGES, wrong, method="fmn", norm="l2")
    assert result.success.all()
    transferred = opt.transfer(
        result,
        ImageOptimizer(
            NETWORK,
            weights=WEIGHTS,
            preprocessing=Preprocessing(SIDE),
            backend="onnxruntime",
        ),
    )
    assert transferred.attempted.tolist() == [False, True, True, True]
    assert transferred.rate == 1
    with pytest.raises(ArgumentTypeError, match="expected the result of 'attack'"):
        opt.transfer(result.images, "onnxruntime")  # type: ignore[arg-type]


def test_images_transfer_to_another_backend(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    result = opt.attack(IMAGES, epsilon=0.3, steps=5)
    transferred = opt.transfer(result, "onnxruntime")
    assert transferred.attempted.any()
    assert transferred.rate == 1
    assert [prediction.label for prediction in transferred.after] == [
        prediction.label for prediction in result.after_uint8
    ]


def test_interruption_keeps_the_results_so_far(
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
    result = opt.attack(IMAGES, method="fmn", norm="l2", steps=50)
    assert result.interrupted
    assert "interrupted" in repr(result)
    assert result.gradient_evaluations.max() <= 2


def test_default_norm_is_supported_by_the_method(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    assert opt.attack(IMAGES[:1], method="carlini-wagner", steps=2).norm == "l2"
    assert opt.attack(IMAGES[:1], method="deepfool", steps=2).norm == "linf"
    with pytest.raises(TransferkitError, match="unknown method"):
        opt.attack(IMAGES[:1], method="carlini")


def test_curve_of_several_epsilons_equals_single_runs(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    far = opt.attack(IMAGES, method="fmn", norm="linf", steps=30)
    # So close to the boundary that the change is lost when it is rounded.
    near = far.originals + np.float32(0.97) * (far.images - far.originals)
    epsilons = [levels / 255 for levels in (0.1, 0.2, 0.4, 1.0, 4.0, 16.0)]
    result = opt.attack(near, epsilon=epsilons, steps=10)
    curve = result.curve(epsilons)
    single = [opt.attack(near, epsilon=epsilon, steps=10) for epsilon in epsilons]
    assert any((run.success & ~run.success_uint8).any() for run in single)
    assert curve.success_rates.tolist() == [run.success_rate for run in single]
    whole_curve = result.curve()
    assert whole_curve.epsilons[0] == 0
    assert whole_curve.epsilons[-1] == pytest.approx(max(epsilons))
    assert whole_curve.success_rates[-1] == result.success_rate


@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_search_stops_where_no_8_bit_image_can_succeed(
    differentiable: Backend, method: str
) -> None:
    """With an epsilon below 1/255 only floats can change."""
    opt = optimizer(differentiable)
    images = colored([0, 1, 2, 3, 4] * 12, spread=127)
    distance = 255 * opt.attack(images, method="fmn", norm="linf").distance
    chosen = [images[row] for row in (*np.flatnonzero(distance < 0.7), distance.argmax())]
    assert len(chosen) > 2
    epsilons = [0.8 / 255, 0.9 / 255]
    result = opt.attack(chosen, epsilon=epsilons, method=method, steps=20, restarts=2)
    assert result.success.tolist() == [True] * (len(chosen) - 1) + [False]
    assert not result.success_uint8.any()
    assert (result.gradient_evaluations[:-1] < 20).all()
    assert result.gradient_evaluations[-1] == 80


def test_plot_needs_matplotlib(differentiable: Backend, tmp_path: Path) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.1, steps=2)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(TransferkitError, match="plots"):
            result.plot_curve(tmp_path / "curve.png")
        assert list(tmp_path.iterdir()) == []
    else:
        result.plot_curve(tmp_path / "curve.png")
        assert Image.open(tmp_path / "curve.png").width > 100


class CountedProgram(Program):
    """Counts the images that are classified."""

    count = 0

    def run(
        self, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        type(self).count += len(pixels)
        return super().run(pixels, layers)


@pytest.mark.parametrize(
    ("settings", "forward_passes"),
    [
        # The original, and the 8-bit image; the float image is that of the last gradient.
        ({"method": "pgd", "epsilon": 0.1, "y": 0, "steps": 5}, 2),
        # No step may be taken: only the original and the rounded original.
        ({"method": "pgd", "epsilon": 0}, 2),
        # With FGSM, one more for the image after the only gradient.
        ({"method": "fgsm", "epsilon": 0.1, "y": 0}, 3),
    ],
    ids=["pgd", "no step", "fgsm"],
)
def test_images_are_classified_as_rarely_as_possible(
    differentiable: Backend, monkeypatch: Any, settings: dict[str, Any], forward_passes: int
) -> None:
    monkeypatch.setattr("transferkit.models.model.Program", CountedProgram)
    monkeypatch.setattr(CountedProgram, "count", 0)
    opt = optimizer(differentiable)
    result = opt.attack(IMAGES, **settings)
    num_failures = int((~result.success).sum())
    # A failure is known only from the image after the last gradient.
    assert CountedProgram.count <= forward_passes * len(result) + num_failures
    # The predictions that were kept are those of the images.
    network = opt._load(needs=GRADIENTS)[0]
    for images, predictions in [
        (result.images, result.after),
        (to_float32(result.images_uint8), result.after_uint8),
    ]:
        expected = softmax(network.run(images, ["logits"])["logits"])
        assert [expected[i].max() for i in range(len(images))] == pytest.approx(
            [prediction.probability for prediction in predictions], abs=1e-5
        )


@pytest.mark.parametrize("batch_size", [3, 256])
def test_batches_of_gradients_are_as_large_as_requested(
    differentiable: Backend, monkeypatch: Any, batch_size: int
) -> None:
    sizes = []
    evaluate = AttackRunner._evaluate

    def record(self: AttackRunner, attack: Any, batch: Any, state: Any) -> Any:
        sizes.append(len(batch.originals))
        return evaluate(self, attack, batch, state)

    monkeypatch.setattr(AttackRunner, "_evaluate", record)
    opt = optimizer(differentiable)
    opt.batch_size = batch_size
    opt.attack(colored([0] * 30), epsilon=1e-5, steps=1)
    assert max(sizes) == min(batch_size, 30, differentiable.micro_batch_size or 30)


def _as_tensors(values: list[int]) -> list[Any]:
    import torch

    return [torch.tensor(values), torch.tensor(values, dtype=torch.int32)]


def _as_pandas(values: list[int]) -> list[Any]:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(values, index=range(10, 10 + len(values)))
    return [series, pandas.DataFrame({"class": values}), series.astype("category")]


@pytest.mark.parametrize("parameter", ["y", "target"])
def test_classes_of_images_are_accepted_as_fit_accepts_them(
    differentiable: Backend, parameter: str
) -> None:
    pytest.importorskip("torch")
    opt, classes = optimizer(differentiable), [1, 0, 2, 1]
    settings = {"epsilon": 0.1, "steps": 2, "on_error": "skip"}

    def attack(values: Any) -> Any:
        return opt.attack(IMAGES, **{parameter: values}, **settings)

    expected = attack(classes)
    for values in [tuple(classes), np.array(classes), *_as_tensors(classes), *_as_pandas(classes)]:
        result = attack(values)
        assert (result.labels, result.targets) == (expected.labels, expected.targets)
        np.testing.assert_array_equal(result.images, expected.images)
    one = attack(np.int64(1))
    assert one.labels == attack(_as_tensors([1])[0][0]).labels == attack(1).labels
    with pytest.raises(ShapeError, match=r"shape \(2, 2\); expected one class, or one per image"):
        attack(np.array(classes).reshape(2, 2))


def test_inference_mode_of_pytorch_does_not_matter() -> None:
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        opt = ImageOptimizer(
            NETWORK,
            weights=WEIGHTS,
            preprocessing=Preprocessing(SIDE),
            backend="torch",
            progress=False,
        )
        inside = opt.attack(IMAGES, epsilon=0.1, y=0, steps=3)
        ideal_inside = opt.visualize(0, steps=2)
    # Nor for what was loaded inside.
    outside = opt.attack(IMAGES, epsilon=0.1, y=0, steps=3)
    np.testing.assert_array_equal(inside.images, outside.images)
    np.testing.assert_array_equal(ideal_inside.images, opt.visualize(0, steps=2).images)


def test_the_curve_has_every_epsilon_that_was_given(differentiable: Backend) -> None:
    epsilons = [0.003, 0.1, 0.05]
    result = optimizer(differentiable).attack(IMAGES, epsilon=epsilons, y=0, steps=3)
    assert result.epsilons == (0.003, 0.05, 0.1)
    assert set(epsilons) <= set(result.curve().epsilons.tolist())
    assert optimizer(differentiable).attack(IMAGES, method="fmn", steps=1).epsilons == ()


def test_names_of_many_files_do_not_take_long(differentiable: Backend) -> None:
    result = optimizer(differentiable).attack(IMAGES, epsilon=0.1, steps=1)
    sources = ["image-2.png", *(f"{index}/image.png" for index in range(20_000))]
    start = time.perf_counter()
    stems = replace(result, sources=sources).file_stems
    assert time.perf_counter() - start < 2
    assert stems[:4] == ["image-2", "image", "image-3", "image-4"]
    assert len({stem.casefold() for stem in stems}) == len(sources)


def test_epsilon_is_shown_in_levels_and_notebooks_show_the_panel(differentiable: Backend) -> None:
    opt = optimizer(differentiable)
    result = opt.attack(IMAGES, epsilon=2 / 255, steps=1)
    assert "linf, epsilon 2/255:" in repr(result)
    assert result._repr_png_().startswith(b"\x89PNG")
    assert "l2, epsilon 0.5:" in repr(opt.attack(IMAGES, epsilon=0.5, norm="l2", steps=1))


def test_images_with_logits_that_are_not_finite_are_rejected(differentiable: Backend) -> None:
    weights = {**WEIGHTS, "logits.bias": np.array([0, np.nan, 0], np.float32)}
    optimizer = ImageOptimizer(
        NETWORK,
        weights=weights,
        preprocessing=Preprocessing(NETWORK.input_size),
        backend=differentiable,
    )
    with pytest.raises(NotFiniteError, match=r"layer 'logits'.*such as images\[0\]"):
        optimizer.attack(IMAGES, epsilon=0.1)
