"""`compare`: the same numbers as by hand, and networks that fail."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import NETWORK, SIDE, WEIGHTS, colored, labeled_folder, noise, tiny_network
from sklearn.model_selection import StratifiedKFold

from transferkit import Classifier, FeatureExtractor, FineTuning, Preprocessing, compare
from transferkit.backends import Backend, Program
from transferkit.classification.evaluation import wilson_interval
from transferkit.classification.fine_tuning.run import FineTuningRun
from transferkit.comparison import Comparison, logme, paired_interval
from transferkit.comparison import compare as module_function
from transferkit.comparison.timing import TimedProgram
from transferkit.datasets import LabelledImages
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    DownloadError,
    ImageError,
    NotFiniteError,
    OutputError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.models import Model, load_model
from transferkit.support.random_state import as_generator
from transferkit.testing.strategies import random_weights_and_statistics

LABELS = np.array(["blood", "grass", "sky"])[np.arange(30) % 3]
IMAGES = colored(np.arange(30) % 3, spread=110)


def model(name: str = "tiny", **weights: Any) -> Model:
    made = load_model(NETWORK, {**WEIGHTS, **weights}, Preprocessing(SIDE))
    return dataclasses.replace(made, network=dataclasses.replace(made.network, name=name))


def other_model(name: str = "other") -> Model:
    network = tiny_network(width=3)
    made = load_model(network, random_weights_and_statistics(network, seed=1), Preprocessing(SIDE))
    return dataclasses.replace(made, network=dataclasses.replace(network, name=name))


def broken_model() -> Model:
    """Return a model whose outputs are NaN."""
    # Not before a ReLU: of a convolution that is fused with one, some kernels make 0 of NaN.
    return model("broken", **{"conv2.bias": np.full_like(WEIGHTS["conv2.bias"], np.nan)})


def compared(networks: Any, **parameters: Any) -> Comparison:
    parameters = {"cv": 5, "batch_size": 4, "progress": False, **parameters}
    return compare(networks, IMAGES, LABELS, **parameters)


def predictions_by_hand(network: Model, backend: Backend) -> np.ndarray[Any, Any]:
    """Return the predictions of classifiers that are fitted without each fold."""
    seed = int(as_generator(0).integers(2**31))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    predicted = np.empty_like(LABELS)
    for train, test in folds.split(IMAGES, LABELS):
        classifier = Classifier(network, backend=backend, random_state=0, progress=False)
        classifier.fit([IMAGES[row] for row in train], LABELS[train])
        predicted[test] = classifier.predict([IMAGES[row] for row in test])
    return predicted


def test_numbers_are_those_of_classifiers_fitted_without_each_fold(backend: Backend) -> None:
    models = {"tiny": model(), "other": other_model()}
    comparison = compared(list(models.values()), backend=backend)
    correct = {name: predictions_by_hand(made, backend) == LABELS for name, made in models.items()}
    best = max(correct, key=lambda name: correct[name].mean())
    assert comparison.best.network == best
    # The network is trivial, so that the images must be hard enough for a mistake.
    assert min(row.mean() for row in correct.values()) < 1
    for row in comparison.table:
        mine = correct[row.network]
        assert row.accuracy == mine.mean()
        assert (row.low, row.high) == wilson_interval(float(mine.mean()), 30)
        assert row.difference == mine.mean() - correct[best].mean()
        if row.network != best:
            interval = (row.difference_low, row.difference_high)
            assert interval == paired_interval(mine, correct[best])
        assert row.images == 30
        assert row.method == "probe"
        assert row.error is None
        made = models[row.network]
        features = FeatureExtractor(made, backend=backend, progress=False).transform(IMAGES)
        assert row.logme == pytest.approx(logme(features, LABELS), rel=1e-5)
        assert row.parameters == made.network.num_parameters
        assert row.megabytes == pytest.approx(4e-6 * made.network.num_parameters)
        assert row.backend == backend.name
        assert row.images_per_second is not None
        assert row.images_per_second > 0
    assert comparison.counts == {"blood": 10, "grass": 10, "sky": 10}
    assert comparison.chance == pytest.approx(1 / 3)


def test_each_network_runs_once_over_each_image(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, images = Program.run, []

    def counted(self: Program, pixels: Any, layers: Any) -> Any:
        images.append(len(pixels))
        return run(self, pixels, layers)

    monkeypatch.setattr(Program, "run", counted)
    compared([model(), other_model()], backend=backend)
    assert sum(images) == 2 * len(IMAGES)


def test_random_state_decides_the_folds(backend: Backend) -> None:
    # Labels of noise: the accuracy depends on the folds.
    labels = LABELS[np.random.default_rng(1).permutation(30)]

    def accuracy(random_state: Any) -> Any:
        return compare(
            [model()], IMAGES, labels, backend=backend, progress=False, random_state=random_state
        )

    first = accuracy(3)
    assert accuracy(3).best.accuracy == first.best.accuracy
    assert len({accuracy(seed).best.accuracy for seed in range(3)}) > 1
    drawn = accuracy(None)
    assert accuracy(drawn.random_state).best.accuracy == drawn.best.accuracy


def test_groups_stay_in_one_fold(backend: Backend) -> None:
    # Each image three times, with labels that nothing but its copies can tell.
    images = [image for image in noise(20) for _ in range(3)]
    labels = np.repeat(np.array(["a", "b"])[np.arange(20) % 2], 3)
    groups = np.repeat(np.arange(20), 3)

    def accuracy(data: LabelledImages) -> float:
        row = compare([model()], data, cv=5, backend=backend, progress=False).best
        assert row.accuracy is not None
        return row.accuracy

    grouped = accuracy(LabelledImages(images, labels, groups=groups))
    assert grouped < accuracy(LabelledImages(images, labels))


def test_a_network_of_the_catalog_and_its_weights(backend: Backend) -> None:
    comparison = compared(
        ["mobilenet_v2", "resnet18"],
        weights={"resnet18": "random"},
        backend=backend,
        cv=2,
        batch_size=32,
    )
    rows = {row.network: row for row in comparison.table}
    pretrained, random = rows["mobilenet_v2"], rows["resnet18"]
    assert (pretrained.weights, pretrained.license) == ("imagenet1k_v1", "BSD-3-Clause")
    assert (random.weights, random.license) == ("random", None)
    assert pretrained.parameters == 3_504_872
    assert pretrained.megabytes == pytest.approx(14.019488)


def test_a_network_that_fails_does_not_lose_the_others(backend: Backend) -> None:
    comparison = compared([broken_model(), "vgg11", model(), other_model()], backend=backend)
    assert {row.network for row in comparison.finished} == {"tiny", "other"}
    failed = {row.network: row.error for row in comparison.failed}
    assert failed.keys() == {"broken", "vgg11"}
    assert "NaN or infinite" in str(failed["broken"])
    # The tests are offline.
    assert "vgg11-8a719046.pth" in str(failed["vgg11"])
    assert comparison.table[2:] == comparison.failed


def test_if_all_fail_the_first_error_is_raised(backend: Backend) -> None:
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        compared([broken_model(), "vgg11"], backend=backend)
    with pytest.raises(DownloadError):
        compared(["vgg11", broken_model()], backend=backend)


def test_errors_of_any_type_are_in_the_row(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TimedProgram.run

    def failing(self: TimedProgram, pixels: Any, layers: Any) -> Any:
        if self.network.name == "other":
            raise MemoryError("not enough memory")
        return run(self, pixels, layers)

    monkeypatch.setattr(TimedProgram, "run", failing)
    comparison = compared([model(), other_model()], backend=backend)
    assert [row.error for row in comparison.failed] == ["MemoryError('not enough memory')"]


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = TimedProgram.run

    def interrupted(self: TimedProgram, pixels: Any, layers: Any) -> Any:
        if self.network.name == name:
            raise KeyboardInterrupt
        return run(self, pixels, layers)

    monkeypatch.setattr(TimedProgram, "run", interrupted)


def test_ctrl_c_keeps_the_finished_networks(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, "second")
    with pytest.warns(UserWarning, match="interrupted: 1 of 3 networks have results"):
        comparison = compared([model(), other_model("second"), model("third")], backend=backend)
    assert comparison.interrupted
    assert [row.network for row in comparison.finished] == ["tiny"]
    assert [row.network for row in comparison.failed] == ["second", "third"]
    assert all("interrupted" in str(row.error) for row in comparison.failed)


def test_ctrl_c_before_any_result_is_raised(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, "tiny")
    with pytest.raises(KeyboardInterrupt):
        compared([model(), other_model()], backend=backend)


def test_images_that_cannot_be_read(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(network: Any, *arguments: Any, **parameters: Any) -> Model:
        loaded.append(network.network.name)
        return load_model(network, *arguments, **parameters)

    monkeypatch.setattr("transferkit.comparison.run.load_model", load)
    folder = labeled_folder(tmp_path / "photos", number=6)
    broken = folder / "blood" / "000.png"
    broken.write_bytes(b"no image")
    (folder / "empty").mkdir()
    parameters = {"cv": 3, "backend": backend, "progress": False}
    with pytest.raises(DatasetError, match="empty"):
        compare([model()], folder, **parameters)
    (folder / "empty").rmdir()
    with pytest.raises(ImageError, match=r"000\.png"):
        compare([model(), other_model()], folder, **parameters)
    # No other network can read it either, so that none is tried.
    assert loaded == ["tiny"]
    comparison = compare([model(), other_model()], folder, **parameters, on_error="skip")
    assert [row.images for row in comparison.table] == [11, 11]
    assert comparison.counts == {"blood": 5, "grass": 6}
    assert [item.source for item in comparison.skipped] == [str(broken)]


def test_fine_tuned_networks_have_a_second_row(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    fit = Classifier.fit

    def counted(self: Classifier, X: Any, y: Any, **parameters: Any) -> Classifier:
        fits.append(len(y))
        self.set_params(C=1.0, fine_tuning=FineTuning(epochs=1, learning_rate=1e-3))
        return fit(self, X, y, **parameters)

    monkeypatch.setattr(Classifier, "fit", counted)
    networks = [model(), other_model()]
    comparison = compared(networks, backend=differentiable, cv=2, fine_tune=[networks[0]])
    assert fits == [15, 15]
    rows = [(row.network, row.method) for row in comparison.table]
    assert sorted(rows) == [("other", "probe"), ("tiny", "fine-tuned"), ("tiny", "probe")]
    probe, tuned = (
        next(row for row in comparison.table if (row.network, row.method) == ("tiny", method))
        for method in ("probe", "fine-tuned")
    )
    assert tuned.images == 30
    assert (tuned.parameters, tuned.images_per_second) == (
        probe.parameters,
        probe.images_per_second,
    )
    assert tuned.logme is None
    assert "tiny, fine-tuned: accuracy" in str(comparison)


def test_ctrl_c_during_fine_tuning_keeps_the_probe(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuningRun, "_write_checkpoint", interrupted)
    first = model()
    with pytest.warns(UserWarning, match="interrupted"):
        comparison = compared([first, other_model()], backend=differentiable, fine_tune=[first])
    assert comparison.interrupted
    assert [(row.network, row.method) for row in comparison.finished] == [("tiny", "probe")]
    failed = [(row.network, row.method) for row in comparison.failed]
    assert failed == [("tiny", "fine-tuned"), ("other", "probe")]


def test_fine_tuning_of_a_network_that_failed(differentiable: Backend) -> None:
    networks = [model(), broken_model()]
    comparison = compared(networks, backend=differentiable, fine_tune=[networks[1]])
    assert [(row.network, row.method) for row in comparison.failed] == [
        ("broken", "probe"),
        ("broken", "fine-tuned"),
    ]
    assert comparison.failed[0].error == comparison.failed[1].error


def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        pytest.fail("a network ran")

    monkeypatch.setattr(TimedProgram, "run", run)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "unknown network": (
        lambda: compared(["mobilenet_v2", "resnet5"]),
        UnknownNameError,
        r"unknown network 'resnet5'; did you mean 'resnet50'",
    ),
    "unknown weights": (
        lambda: compared(["mobilenet_v2"], weights="imagenet1k_v9"),
        UnknownNameError,
        "mobilenet_v2 has no weights 'imagenet1k_v9'",
    ),
    "weights of another network": (
        lambda: compared(["mobilenet_v2"], weights={"resnet5": "random"}),
        UnknownNameError,
        "unknown network in weights 'resnet5'",
    ),
    "fine-tuning of another network": (
        lambda: compared(["mobilenet_v2"], fine_tune=["mobilenet_v3"]),
        UnknownNameError,
        "unknown network in fine_tune 'mobilenet_v3'; did you mean 'mobilenet_v2'",
    ),
    "unknown backend": (
        lambda: compared(["mobilenet_v2"], backend="tourch"),
        UnknownNameError,
        "did you mean 'torch'",
    ),
    "fine-tuning with a backend that cannot": (
        lambda: compared(["mobilenet_v2"], fine_tune="mobilenet_v2", backend="onnxruntime"),
        UnsupportedError,
        "onnxruntime",
    ),
    "no networks": (lambda: compared([]), ParameterError, "networks is empty"),
    "no list": (lambda: compared(5), ArgumentTypeError, "networks is 5; expected a list"),
    "no network": (lambda: compared([5]), ArgumentTypeError, "networks has 5; expected names"),
    "network without weights": (
        lambda: compared([NETWORK]),
        ArgumentTypeError,
        r"a Network \(tiny\), which has no weights; pass a Model",
    ),
    "saved classifier": (
        lambda: compared(["pets.safetensors"]),
        ParameterError,
        r"Classifier\.load\(path\)\.model_",
    ),
    "twice": (
        lambda: compared(["resnet18", "resnet18"]),
        ParameterError,
        "networks has 'resnet18' twice",
    ),
    "one fold": (lambda: compared(["resnet18"], cv=1), ParameterError, "cv is 1"),
    "on_error": (lambda: compared(["resnet18"], on_error="x"), ParameterError, "on_error"),
    "labels": (
        lambda: compare(["resnet18"], IMAGES, LABELS[:-1]),
        DatasetError,
        "30 images, but y has 29 labels",
    ),
    "one class": (
        lambda: compare(["resnet18"], IMAGES, ["a"] * 30),
        DatasetError,
        "only one class, 'a'",
    ),
    "too few images": (lambda: compared(["resnet18"], cv=11), DatasetError, "Pass cv=10"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_rejected_before_any_network_runs(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_runs(monkeypatch)
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_models_of_the_same_name_are_numbered(backend: Backend) -> None:
    comparison = compared([model(), other_model("tiny"), model()], backend=backend)
    assert {row.network for row in comparison.table} == {"tiny", "tiny (2)", "tiny (3)"}
    assert {row.weights for row in comparison.table} == {"its own"}


def test_table_as_data_frame_and_json(backend: Backend, tmp_path: Path) -> None:
    comparison = compared([model(), broken_model()], backend=backend)
    pd = pytest.importorskip("pandas")
    frame = comparison.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["accuracy"][0] == comparison.best.accuracy
    assert frame["network"].tolist() == ["tiny", "broken"]
    comparison.to_json(tmp_path / "compare.json")
    data = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert data["networks"][0]["accuracy"] == comparison.best.accuracy
    assert data["networks"][1]["accuracy"] is None
    assert data["classes"] == {"blood": 10, "grass": 10, "sky": 10}
    assert (data["cv"], data["random_state"], data["images"]) == (5, 0, 30)


def test_labels_may_be_numbers(backend: Backend, tmp_path: Path) -> None:
    comparison = compare([model()], IMAGES, np.arange(30) % 3, backend=backend, progress=False)
    comparison.to_json(tmp_path / "compare.json")
    assert comparison.counts == {0: 10, 1: 10, 2: 10}


def test_output_is_checked(backend: Backend, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    comparison = compared([model()], backend=backend)
    with pytest.raises(OutputError, match=r"ends in \.html"):
        comparison.report(tmp_path / "compare.pdf")
    with pytest.raises(OutputError, match=r"ends in \.png"):
        comparison.plot(tmp_path / "compare.pdf")
    with pytest.raises(OutputError, match="does not exist"):
        comparison.to_json(tmp_path / "no" / "compare.json")
    assert list(tmp_path.iterdir()) == []


def test_it_is_public() -> None:
    assert compare is module_function
