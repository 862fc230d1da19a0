"""Fine-tuning: what is trained, what is kept, resumption, and invalid settings."""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from samples import NETWORK, SIDE, WEIGHTS, colored, labeled_folder, tiny_classifier, write_images
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from transferkit import (
    Classifier,
    FineTuning,
    Preprocessing,
    find_learning_rate,
    list_labeled_images,
)
from transferkit.backends import Backend, Program
from transferkit.classification.fine_tuning import trainer
from transferkit.classification.fine_tuning.candidates import (
    AVERAGE,
    EPOCH,
    MEAN,
    Candidates,
    Score,
)
from transferkit.classification.fine_tuning.choices import (
    are_mirror_images_different,
    calibrated_losses,
    is_lower_beyond_error,
)
from transferkit.classification.fine_tuning.course import Course
from transferkit.classification.fine_tuning.draws import Masks, epoch_order
from transferkit.classification.fine_tuning.run import FineTuningRun
from transferkit.classification.fine_tuning.splitting import split_by_class
from transferkit.classification.fine_tuning.trainable import (
    find_trained,
    learning_rate_factors,
)
from transferkit.classification.fine_tuning.trainer import score_logits
from transferkit.datasets import from_folder
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    FileFormatError,
    ImageError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images.augmentation import CutMix, HorizontalFlip, MixUp, RandomResizedCrop
from transferkit.networks import build_network
from transferkit.networks.passes import TEMPERATURE
from transferkit.training import SGD, Exponential, Warmup

NUMBERS = [0, 1, 2] * 8
IMAGES = colored(NUMBERS, spread=120)
BASE: dict[str, Any] = {
    "epochs": 2,
    "learning_rate": 0.01,
    "batch_size": 8,
    "augmentation": (),
}


def fitted(backend: Backend | str, **settings: Any) -> Classifier:
    fine_tuning = FineTuning(**{**BASE, **settings})
    return tiny_classifier(backend=backend, C=1.0, fine_tuning=fine_tuning).fit(IMAGES, NUMBERS)


def changed(classifier: Classifier) -> set[str]:
    """The names of the weights of the network that differ from those at the start."""
    weights = classifier.model_.weights
    return {name for name, array in WEIGHTS.items() if name in weights} & {
        name for name, array in weights.items() if not np.array_equal(array, WEIGHTS.get(name))
    }


def assert_same_network(one: Classifier, other: Classifier) -> None:
    """Compare all weights except the temperature, which is that of validation images."""
    for name, array in one.model_.weights.items():
        if name != TEMPERATURE:
            np.testing.assert_array_equal(array, other.model_.weights[name])


def test_training_lowers_the_loss(differentiable: Backend) -> None:
    history = fitted(differentiable, epochs=10, validation=None).history_
    assert history is not None
    assert [record.epoch for record in history.epochs] == list(range(1, 11))
    assert len(history.steps) == 30
    rates = [step.learning_rate for step in history.steps if step.epoch == 2]
    assert history.epochs[1].learning_rate == pytest.approx(np.mean(rates))
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss


def test_the_best_on_the_validation_images_is_kept(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: list[Score] = []

    def record(*arguments: Any) -> Score:
        scores.append(score_logits(*arguments))
        return scores[-1]

    monkeypatch.setattr(trainer, "score_logits", record)
    history = fitted(differentiable, epochs=3, swa=True, soup=2, interpolation=()).history_
    assert history is not None
    of_candidates = [
        next(score for score in scores if score.loss == entry.validation_loss)
        for entry in history.candidates
    ]
    best, lowest = 0, of_candidates[0].accuracy
    for index, score in enumerate(of_candidates):
        if score.accuracy >= lowest and score.is_better_than(of_candidates[best]):
            best = index
    assert best > 0
    assert history.best == history.candidates[best].name
    names = [entry.name for entry in history.candidates]
    assert names[:3] == ["probe", "epoch 1", "moving average after epoch 1"]
    assert "mean of the last 2 epochs" in names


def test_the_probe_is_kept_if_training_makes_it_worse(differentiable: Backend) -> None:
    with pytest.warns(UserWarning, match=r"training stopped: the (loss|norm).*learning rate"):
        tuned = fitted(differentiable, optimizer=SGD(momentum=0.9), learning_rate=1e30)
    assert tuned.history_ is not None
    assert tuned.history_.best == "probe"
    probe = tiny_classifier(backend=differentiable, C=1.0).fit(IMAGES, NUMBERS)
    for name, array in probe.model_.weights.items():
        np.testing.assert_array_equal(array, tuned.model_.weights[name])


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("head", set()),
        ("conv2", {"conv2.weight", "conv2.bias"}),
        ("norm1", {"norm1.weight", "norm1.bias", "conv2.weight", "conv2.bias"}),
        (lambda name: name == "conv1.weight", {"conv1.weight"}),
    ],
)
def test_only_what_is_trainable_changes(
    differentiable: Backend, trainable: Any, expected: set[str]
) -> None:
    tuned = fitted(differentiable, trainable=trainable, validation=None)
    assert changed(tuned) == expected


def test_stored_activations_give_the_same_training(differentiable: Backend) -> None:
    # From the pixels, nothing before the first layer is left to store.
    names = {"conv2.weight", "conv2.bias", "head.weight", "head.bias"}
    stored = fitted(
        differentiable, trainable="conv2", validation=None, optimizer="sgd", clip_norm=None
    )
    direct = fitted(
        differentiable,
        trainable=lambda name: name in names or name == "norm1.bias",
        learning_rate_factors={"norm1.bias": 1e-12},
        clip_norm=None,
        optimizer="sgd",
        validation=None,
    )
    for name in names:
        np.testing.assert_allclose(
            stored.model_.weights[name], direct.model_.weights[name], rtol=1e-3, atol=1e-5
        )


def test_views_are_different_augmentations(differentiable: Backend) -> None:
    one = fitted(differentiable, trainable="conv2", augmentation=None, validation=None)
    two = fitted(differentiable, trainable="conv2", augmentation=None, validation=None, views=2)
    assert not np.array_equal(one.model_.weights["conv2.bias"], two.model_.weights["conv2.bias"])


def test_with_one_view_images_are_not_augmented(differentiable: Backend) -> None:
    settings = {"trainable": "conv2", "validation": None}
    plain = fitted(differentiable, **settings)
    with pytest.warns(UserWarning, match="images are not augmented: .* set views to"):
        tuned = fitted(differentiable, augmentation=(RandomResizedCrop(),), **settings)
    np.testing.assert_array_equal(
        plain.model_.weights["conv2.bias"], tuned.model_.weights["conv2.bias"]
    )


def test_batch_norms_are_frozen_or_updated(differentiable: Backend) -> None:
    statistics = {"norm1.running_mean", "norm1.running_var"}
    assert not statistics & changed(fitted(differentiable, validation=None))
    assert statistics <= changed(fitted(differentiable, batch_norm="update", validation=None))


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.5},
        {"label_smoothing": 0.2},
        {"clip_norm": 1e-3},
        {"clip_value": 1e-4},
        {"l2_sp": 10.0},
        {"sampling": "balanced"},
        {"schedule": "exponential"},
        {"warmup": 0.0},
        {"layer_decay": 0.5},
        {"learning_rate_factors": {"head": 10.0}},
        {"augmentation": (MixUp(),)},
        {"augmentation": (CutMix(),)},
        {"augmentation": (RandomResizedCrop(), HorizontalFlip())},
    ],
    ids="-".join,
)
def test_each_setting_has_an_effect(differentiable: Backend, settings: dict[str, Any]) -> None:
    plain = fitted(differentiable, validation=None, optimizer="sgd")
    tuned = fitted(differentiable, validation=None, optimizer="sgd", **settings)
    weights = [classifier.model_.weights["conv2.weight"] for classifier in (plain, tuned)]
    assert not np.array_equal(*weights)
    assert np.isfinite(weights[1]).all()


def test_two_fits_are_equal_bit_for_bit(differentiable: Backend) -> None:
    settings = {"augmentation": (RandomResizedCrop(), MixUp()), "dropout": 0.3}
    one, two = (fitted(differentiable, **settings) for _ in range(2))
    for name, array in one.model_.weights.items():
        np.testing.assert_array_equal(array, two.model_.weights[name])


@pytest.mark.parametrize("note", ["", ", all images"], ids=["first", "refit"])
def test_a_killed_run_resumes_bit_for_bit(
    differentiable: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    settings: dict[str, Any] = {
        "epochs": 4,
        "swa": True,
        "soup": 2,
        "learning_rate": None,
        "optimizer": "adamw",
        "augmentation": None,
        "batch_norm": "update",
    }
    expected = fitted(differentiable, **settings)
    write = FineTuningRun._write_checkpoint

    def killed_after_two(self: FineTuningRun, course: Course) -> None:
        write(self, course)
        if len(course.epochs) == 2 and self._note == note:
            raise SystemExit

    with monkeypatch.context() as context:
        context.setattr(FineTuningRun, "_write_checkpoint", killed_after_two)
        with pytest.raises(SystemExit):
            fitted(differentiable, checkpoint=tmp_path / "run", **settings)
    resumed = fitted(differentiable, checkpoint=tmp_path / "run", **settings)
    for name, array in expected.model_.weights.items():
        np.testing.assert_array_equal(array, resumed.model_.weights[name])
    assert resumed.history_ is not None
    assert expected.history_ is not None
    assert resumed.history_.candidates == expected.history_.candidates
    assert resumed.history_.choices == expected.history_.choices
    assert len(resumed.history_.steps) == len(expected.history_.steps)
    assert resumed.history_.refit is not None
    assert [record.loss for record in resumed.history_.refit.steps] == [
        record.loss
        for record in expected.history_.refit.steps  # type: ignore[union-attr]
    ]
    # A third run has nothing left to do.
    again = fitted(differentiable, checkpoint=tmp_path / "run", **settings)
    np.testing.assert_array_equal(
        again.model_.weights["conv1.weight"], expected.model_.weights["conv1.weight"]
    )


def test_a_checkpoint_knows_a_schedule_without_a_name(
    differentiable: Backend, tmp_path: Path
) -> None:
    fitted(differentiable, checkpoint=tmp_path, schedule=lambda _: 1.0)
    fitted(differentiable, checkpoint=tmp_path, schedule=lambda _: 1.0)
    with pytest.raises(FileFormatError, match="another run: schedule was"):
        fitted(differentiable, checkpoint=tmp_path, schedule=lambda part: 1.0 - part)


class Half:
    """A schedule and a choice of parameters without a repr of their own."""

    def __call__(self, value: Any) -> Any:
        return "conv" in value if isinstance(value, str) else 1 - value / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"trainable": functools.partial(lambda part, name: part in name, "conv")},
        lambda: {"trainable": Half()},
        lambda: {"schedule": Half()},
        lambda: {"schedule": Exponential()},
        lambda: {"schedule": Warmup(lambda part: 1 - part)},
        lambda: {"optimizer": SGD(0.01, schedule=lambda part: 1 - part)},
    ],
    ids=["partial", "object", "schedule", "exponential", "warm-up", "optimizer"],
)
def test_a_run_with_functions_resumes_in_another_process(
    differentiable: Backend, tmp_path: Path, make: Callable[[], dict[str, Any]]
) -> None:
    """The addresses of the objects differ, as in another process."""
    first = make()
    expected = fitted(differentiable, checkpoint=tmp_path, refit=False, **first)
    again = fitted(differentiable, checkpoint=tmp_path, refit=False, **make())
    assert again.history_ == expected.history_


def test_a_checkpoint_knows_the_schedule_of_the_optimizer(
    differentiable: Backend, tmp_path: Path
) -> None:
    fitted(differentiable, checkpoint=tmp_path, optimizer=SGD(0.01, schedule=lambda _: 1.0))
    with pytest.raises(FileFormatError, match=r"another run: schedule was .* with factors"):
        fitted(
            differentiable, checkpoint=tmp_path, optimizer=SGD(0.01, schedule=lambda part: 1 - part)
        )


def _in_memory(images: list[Any]) -> list[Any]:
    contents: list[Any] = [Image.fromarray(image) for image in images]
    for index in range(0, len(contents), 2):
        buffer = io.BytesIO()
        contents[index].save(buffer, "png")
        contents[index] = buffer.getvalue()
    return contents


def test_a_checkpoint_knows_the_content_of_images(differentiable: Backend, tmp_path: Path) -> None:
    settings = FineTuning(**BASE, checkpoint=tmp_path)
    for _ in range(2):
        fitted(differentiable).fine_tune(_in_memory(IMAGES), settings, y=NUMBERS)
    others = [255 - image for image in IMAGES]
    with pytest.raises(FileFormatError, match="another run: training images was"):
        fitted(differentiable).fine_tune(_in_memory(others), settings, y=NUMBERS)


def test_a_checkpoint_knows_when_a_file_was_replaced(
    differentiable: Backend, tmp_path: Path
) -> None:
    paths = write_images(tmp_path / "photos", IMAGES)
    settings = FineTuning(**BASE, checkpoint=tmp_path / "run")
    fitted(differentiable).fine_tune(paths, settings, y=NUMBERS)
    Image.new("RGB", (SIDE, SIDE)).save(paths[0])
    with pytest.raises(FileFormatError, match="another run: training images was"):
        fitted(differentiable).fine_tune(paths, settings, y=NUMBERS)


def test_a_checkpoint_of_another_run_is_rejected(differentiable: Backend, tmp_path: Path) -> None:
    fitted(differentiable, checkpoint=tmp_path)
    with pytest.raises(FileFormatError, match=r"another run: dropout was 0\.0, now 0\.5"):
        fitted(differentiable, checkpoint=tmp_path, dropout=0.5)
    classifier = tiny_classifier(
        backend=differentiable, C=1.0, fine_tuning=FineTuning(**BASE, checkpoint=tmp_path)
    )
    with pytest.raises(FileFormatError, match="training images was 21 images"):
        classifier.fit(IMAGES[3:], NUMBERS[3:])


def test_an_interrupted_run_keeps_the_best_so_far(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuningRun, "_write_checkpoint", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 1 of 2 epochs"):
        tuned = fitted(differentiable)
    assert tuned.history_ is not None
    assert tuned.history_.interrupted
    assert len(tuned.predict(IMAGES)) == len(IMAGES)


def test_patience_stops_the_training(differentiable: Backend) -> None:
    history = fitted(differentiable, epochs=50, patience=1, learning_rate=3.0).history_
    assert history is not None
    assert len(history.epochs) < 50


def test_choices_are_reported(differentiable: Backend) -> None:
    history = fitted(differentiable, epochs=None, learning_rate=None, augmentation=None).history_
    assert history is not None
    assert history.choices["epochs"] == len(history.epochs)
    rates = [trial.learning_rate for trial in history.trials]
    assert history.choices["learning_rate"] in rates
    assert "horizontal_flip" in history.choices


def test_validation_images_may_be_a_folder(differentiable: Backend, tmp_path: Path) -> None:
    train = labeled_folder(tmp_path / "train", classes=3)
    held_out = labeled_folder(tmp_path / "held out", number=2, classes=3, seed=9)
    settings = FineTuning(**BASE, validation=held_out)
    tuned = tiny_classifier(backend=differentiable, fine_tuning=settings).fit(train)
    assert tuned.history_ is not None
    assert tuned.history_.epochs[0].validation_accuracy is not None
    incomplete = labeled_folder(tmp_path / "incomplete", number=2, classes=2, seed=9)
    tuned.set_params(fine_tuning__validation=from_folder(held_out)).fit(train)
    with pytest.raises(DatasetError, match="no validation images of 1 of 3 classes: 'sky'"):
        tuned.set_params(fine_tuning__validation=incomplete).fit(train)


def test_unreadable_validation_images_are_skipped(differentiable: Backend, tmp_path: Path) -> None:
    train = labeled_folder(tmp_path / "train", classes=3)
    held_out = labeled_folder(tmp_path / "held out", number=2, classes=3, seed=9)
    damaged = next(path for path in sorted(held_out.rglob("*")) if path.is_file())
    damaged = damaged.with_name("damaged.png")
    damaged.write_bytes(b"no image")
    settings = FineTuning(**BASE, validation=held_out)
    classifier = tiny_classifier(backend=differentiable, C=1.0, fine_tuning=settings)
    with pytest.raises(ImageError, match="damaged"):
        classifier.fit(train)
    classifier.fit(train, on_error="skip")
    assert [image.source for image in classifier.skipped_] == [str(damaged)]


def test_the_loss_on_a_validation_folder_has_the_weights_of_classes(
    differentiable: Backend, tmp_path: Path
) -> None:
    train = labeled_folder(tmp_path / "train", classes=3)
    held_out = labeled_folder(tmp_path / "held out", number=2, classes=3, seed=9)
    paths, labels = list_labeled_images(held_out)
    class_weight = {labels[0]: 5.0}
    # At this rate, the weights stay those of the probe.
    settings = FineTuning(**{**BASE, "epochs": 1, "learning_rate": 1e-12}, validation=held_out)
    classifier = tiny_classifier(
        backend=differentiable, C=1.0, fine_tuning=settings, class_weight=class_weight
    ).fit(train)
    logits = classifier.decision_function(paths) * classifier.temperature_
    losses = -log_softmax(logits, axis=1)[
        range(len(labels)), np.searchsorted(classifier.classes_, labels)
    ]
    expected = np.average(losses, weights=[class_weight.get(label, 1.0) for label in labels])
    assert classifier.history_ is not None
    assert classifier.history_.candidates[0].validation_loss == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(losses.mean(), rel=1e-2)


def test_an_unknown_layer_to_train_is_found_before_the_network_runs(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(Program, "run", run)
    with pytest.raises(UnknownNameError, match="has no trainable layer 'conv9'"):
        fitted(differentiable, trainable="conv9")


def test_fine_tune_continues_from_a_fitted_classifier(differentiable: Backend) -> None:
    classifier = tiny_classifier(backend=differentiable, C=1.0).fit(IMAGES, NUMBERS)
    head = classifier.model_.weights["head.weight"]
    assert classifier.history_ is None
    with pytest.raises(UnsupportedError, match="was not fine-tuned"):
        classifier.plot_history("history.png")
    settings = FineTuning(**{**BASE, "validation": None})
    assert classifier.fine_tune(IMAGES, settings, y=NUMBERS) is classifier
    assert classifier.history_ is not None
    assert not np.array_equal(head, classifier.model_.weights["head.weight"])
    with pytest.raises(DatasetError, match="not classes of the classifier: 7"):
        classifier.fine_tune(IMAGES, settings, y=[7] * len(IMAGES))


def test_validation_images_that_were_fitted_to_are_reported(
    differentiable: Backend, tmp_path: Path
) -> None:
    first = labeled_folder(tmp_path / "first", classes=3)
    other = labeled_folder(tmp_path / "other", classes=3, seed=9)
    settings = FineTuning(**{**BASE, "epochs": 1})
    classifier = tiny_classifier(backend=differentiable, C=1.0).fit(first)
    classifier.fine_tune(other, settings)
    for folder in (first, other):
        with pytest.warns(UserWarning, match="images that the classifier was fitted to"):
            classifier.fine_tune(folder, settings)
    classifier.fine_tune(first, FineTuning(**{**BASE, "validation": None}))


def test_a_tuned_classifier_is_saved_and_loaded(differentiable: Backend, tmp_path: Path) -> None:
    settings = {
        "augmentation": (RandomResizedCrop(), HorizontalFlip()),
        "optimizer": SGD(0.1),
        "epochs": np.int64(2),
        "learning_rate_factors": {"head": np.float32(2)},
    }
    tuned = fitted(differentiable, validation=None, **settings)
    tuned.save(tmp_path / "tuned.safetensors")
    loaded = Classifier.load(tmp_path / "tuned.safetensors", backend="onnxruntime")
    np.testing.assert_allclose(loaded.predict_proba(IMAGES), tuned.predict_proba(IMAGES), atol=1e-5)
    assert loaded.fine_tuning is not None
    assert loaded.fine_tuning.get_params() == tuned.fine_tuning.get_params()  # type: ignore[union-attr]
    assert loaded.history_ == tuned.history_


def test_the_learning_rate_range_test_finds_a_rate_that_works(differentiable: Backend) -> None:
    classifier = tiny_classifier(backend=differentiable, C=1.0, fine_tuning=FineTuning(**BASE))
    found = find_learning_rate(classifier, IMAGES, NUMBERS, largest=10.0, steps=60)
    assert 10 <= len(found.losses) <= 60
    assert np.all(np.diff(found.learning_rates) > 0)
    assert not hasattr(classifier, "model_")
    with pytest.raises(ArgumentTypeError, match="classifier is 5; expected a Classifier"):
        find_learning_rate(5, IMAGES, NUMBERS)  # type: ignore[arg-type]


def test_parameters_are_searched_as_in_scikit_learn(differentiable: Backend) -> None:
    classifier = tiny_classifier(backend=differentiable, C=1.0, fine_tuning=FineTuning(**BASE))
    search = GridSearchCV(classifier, {"fine_tuning__learning_rate": [1e-3, 1e-2]}, cv=2)
    search.fit(IMAGES, NUMBERS)
    assert search.best_params_.keys() == {"fine_tuning__learning_rate"}
    copy = clone(classifier)
    assert copy.fine_tuning is not classifier.fine_tuning
    assert copy.fine_tuning.get_params() == classifier.fine_tuning.get_params()  # type: ignore[union-attr]


def test_a_backend_without_training_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"'onnxruntime' does not support training; 'torch'"):
        fitted("onnxruntime")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"epochs": 0}, ParameterError, "epochs is 0"),
        ({"learning_rate": -1.0}, ParameterError, "learning_rate is -1.0"),
        (
            {"trainable": "conv9"},
            UnknownNameError,
            "has no trainable layer 'conv9'; did you mean 'conv2'",
        ),
        ({"trainable": lambda _: False}, ParameterError, "selects none of the"),
        ({"trainable": 3}, ParameterError, "trainable is 3; expected 'all'"),
        ({"optimizer": "adamm"}, UnknownNameError, "unknown optimizer 'adamm'.*adam"),
        ({"optimizer": "normalized_momentum"}, ParameterError, "which is for images"),
        ({"schedule": "cosin"}, UnknownNameError, "unknown schedule 'cosin'.*cosine"),
        ({"batch_norm": "off"}, UnknownNameError, "unknown batch_norm 'off'"),
        ({"batch_norm": "update", "batch_size": 1}, ParameterError, "batch_size is 1 with"),
        ({"sampling": "all"}, UnknownNameError, "unknown sampling 'all'"),
        ({"dropout": 1.0}, ParameterError, r"dropout is 1.0; expected a number in \[0, 1\)"),
        ({"layer_decay": 0}, ParameterError, r"layer_decay is 0; expected a number in \(0, 1\]"),
        ({"learning_rate_factors": {"conv7": 2.0}}, ParameterError, "'conv7'"),
        ({"stochastic_depth": 0.1}, ParameterError, "has no residual blocks"),
        ({"augmentation": ("flip",)}, ParameterError, r"augmentation\[0\] is 'flip'"),
        (
            {"augmentation": (HorizontalFlip(), RandomResizedCrop())},
            ParameterError,
            "must be the first",
        ),
        ({"augmentation": HorizontalFlip()}, ParameterError, "expected a list or tuple, such as"),
        (
            {"augmentation": (CutMix(),), "trainable": "head"},
            ParameterError,
            "augmentation has CutMix, but the trained part begins after layer 'unit_embedding'",
        ),
        ({"learning_rate_factors": 2.0}, ParameterError, "learning_rate_factors is 2.0"),
        ({"learning_rate_factors": {3: 2.0}}, ParameterError, "learning_rate_factors is {3: 2.0}"),
        ({"checkpoint": 5}, ParameterError, "checkpoint is 5; expected the path of a folder"),
        ({"schedule": Exponential}, ParameterError, "an object such as Cosine"),
        ({"schedule": lambda _: -1.0}, ParameterError, "makes the learning rate -.* at step 0"),
        ({"validation": 1.5}, ParameterError, "validation is 1.5"),
        ({"validation": True}, ParameterError, "validation is True; expected a fraction"),
        ({"validation": (IMAGES,)}, ParameterError, "validation is a tuple of 1; expected"),
        ({"validation": None, "patience": 2}, ParameterError, "validation is None, but patience"),
        ({"interpolation": (2,)}, ParameterError, r"interpolation\[0\] is 2"),
        ({"interpolation": 0.5}, ParameterError, "interpolation is 0.5; expected a list or tuple"),
    ],
)
def test_invalid_settings(
    differentiable: Backend, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fitted(differentiable, **settings)


def test_one_image_can_be_trained_on_but_not_normalized_by(differentiable: Backend) -> None:
    classifier = fitted(differentiable)
    settings = FineTuning(epochs=1, learning_rate=0.01, validation=None)
    classifier.fine_tune(IMAGES[:1], settings, y=NUMBERS[:1])
    settings.set_params(batch_norm="update")
    with pytest.raises(ParameterError, match="one training image with batch_norm='update'"):
        classifier.fine_tune(IMAGES[:1], settings, y=NUMBERS[:1])


def test_fine_tuning_must_be_a_fine_tuning() -> None:
    with pytest.raises(ParameterError, match="fine_tuning is 5; expected a FineTuning"):
        tiny_classifier(fine_tuning=5).fit(IMAGES, NUMBERS)


def test_too_little_memory_is_noticed_before_the_first_step(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transferkit.classification.fine_tuning.memory.available_memory", lambda: 10_000
    )
    with pytest.raises(ParameterError, match=r"batch_size=8 needs about .* GB, but 0\.0 GB"):
        fitted(differentiable)


def test_disk_space_of_stored_activations(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "transferkit.classification.fine_tuning.examples"
    monkeypatch.setattr(f"{module}._MAX_BYTES_IN_MEMORY", 0)
    on_disk = fitted(differentiable, trainable="conv2", validation=None)
    in_memory = fitted(differentiable, trainable="conv2", validation=None)
    np.testing.assert_array_equal(
        on_disk.model_.weights["conv2.weight"], in_memory.model_.weights["conv2.weight"]
    )
    monkeypatch.setattr(f"{module}._free_space", lambda _: 100)
    with pytest.raises(OSError, match=r"reduce views"):
        fitted(differentiable, trainable="conv2")


def test_the_split_has_images_of_each_class() -> None:
    indices = np.repeat(np.arange(4), [2, 5, 10, 40])
    classes = np.array(list("abcd"))
    train, held_out = split_by_class(indices, classes, 0.2, np.random.default_rng(0))
    assert sorted([*train, *held_out]) == list(range(57))
    assert np.bincount(indices[held_out]).tolist() == [1, 1, 2, 8]
    with pytest.raises(DatasetError, match="classes with fewer than two images: 'b'"):
        split_by_class(np.array([0, 0, 1]), classes[:2], 0.5, np.random.default_rng(0))


def test_balanced_orders_have_equally_many_of_each_class() -> None:
    classes = np.repeat([0, 1], [90, 10])
    order = np.concatenate([epoch_order(classes, 0, epoch, balanced=True) for epoch in range(50)])
    assert abs((classes[order] == 1).mean() - 0.5) < 0.05
    shuffled = epoch_order(classes, 0, 0, balanced=False)
    assert sorted(shuffled) == list(range(100))
    assert not np.array_equal(shuffled, epoch_order(classes, 0, 1, balanced=False))


def test_masks_depend_on_the_image_not_on_the_batch() -> None:
    masks = Masks(0, {"dropout": (1000, 0.25)}, {"depth": 0.5})
    together = masks.draw([3, 7], epoch=1)
    alone = masks.draw([7], epoch=1)
    for name, mask in together.items():
        np.testing.assert_array_equal(mask[1:], alone[name])
    assert set(np.unique(together["dropout"])) == {0.0, np.float32(1 / 0.75)}
    assert abs(together["dropout"].mean() - 1) < 0.05
    assert together["depth"].shape == (2, 1, 1, 1)


def test_learning_rates_fall_from_the_head_to_the_first_block() -> None:
    names = ["stem.weight", "blocks.0.a.weight", "blocks.0.b.bias", "blocks.1.a.weight", "head.w"]
    factors = learning_rate_factors(names, ["head.w"], 0.5, {"blocks": 2.0, "blocks.1": 3.0})
    assert factors == {
        "stem.weight": 0.125,
        "blocks.0.a.weight": 0.5,
        "blocks.0.b.bias": 0.5,
        "blocks.1.a.weight": 1.5,
        "head.w": 1.0,
    }


def test_a_layer_selects_itself_and_everything_after_it() -> None:
    network = build_network("mobilenet_v2")
    parameters = [name for name in network.parameters if name not in network.statistics]
    trained = find_trained(network, "features.17", parameters)
    assert trained[0] == "features.17.conv.0.0.weight"
    assert trained == parameters[parameters.index(trained[0]) :]
    assert find_trained(network, "head", parameters) == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]


def test_mirror_images_are_told_apart_by_their_handedness() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(60, 20)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    handed, mirrored = images.copy(), images.copy()
    handed[:, 0] += 0.5
    mirrored[:, 0] -= 0.5
    assert are_mirror_images_different(handed, mirrored, generator)
    # Each image has a handedness, but they are equally frequent.
    swapped = (np.arange(60) % 2 == 0)[:, np.newaxis]
    one, other = np.where(swapped, handed, mirrored), np.where(swapped, mirrored, handed)
    assert not are_mirror_images_different(one, other, generator)
    # Three images are too few to be certain, whatever they show.
    assert not are_mirror_images_different(handed[:2], mirrored[:2], generator)


@pytest.mark.parametrize("is_handed", [True, False])
def test_images_are_flipped_unless_they_have_a_handedness(
    differentiable: Backend, *, is_handed: bool
) -> None:
    images = [image.copy() for image in IMAGES]
    for index, image in enumerate(images):
        side = 0 if is_handed or index % 2 else image.shape[1] // 2
        image[:, side : side + image.shape[1] // 2] //= 4
    settings = FineTuning(**{**BASE, "augmentation": None, "epochs": 1})
    tuned = tiny_classifier(backend=differentiable, C=1.0, fine_tuning=settings)
    history = tuned.fit(images, NUMBERS).history_
    assert history is not None
    assert history.choices["horizontal_flip"] is not is_handed


def test_losses_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    logits, classes = generator.normal(size=(50, 4)), generator.integers(0, 4, 50)
    logits[np.arange(50), classes] += 1
    weights = generator.uniform(0.5, 1.5, 50)
    losses = calibrated_losses(logits, classes, weights)
    for factor in (0.1, 7.0):
        scaled = calibrated_losses(logits * factor, classes, weights)
        np.testing.assert_allclose(scaled, losses, atol=1e-4)
    # No factor is better.
    for factor in np.exp(np.linspace(-4, 4, 41)):
        of_images = log_loss_of_images(logits * factor, classes) * weights
        assert of_images.mean() >= losses.mean() - 1e-9


def log_loss_of_images(logits: npt.NDArray[Any], classes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(probabilities[np.arange(len(classes)), classes])


@pytest.mark.parametrize(
    ("losses", "others", "expected"),
    [
        ([0, 0, 0, 1], [1, 1, 1, 1], True),
        ([1, 1, 1, 1], [0, 0, 0, 1], False),
        # A mean difference of 0.25, with a standard error of 0.25.
        ([0, 0, 0, 0], [0, 0, 0, 1], False),
        ([0, 0, 0, 0], [0, 0.2, 0, 1], True),
        ([1, 1], [1, 1], False),
        ([np.nan, 0], [1, 2], False),
        ([0, 0], [np.inf, 0], True),
        ([0], [1], False),
    ],
)
def test_a_loss_is_lower_beyond_the_standard_error(
    losses: Any, others: Any, expected: bool
) -> None:
    assert is_lower_beyond_error(np.asarray(losses, float), np.asarray(others, float)) is expected


def test_trials_are_the_beginning_of_the_run(differentiable: Backend) -> None:
    settings = {"optimizer": "adamw", "epochs": 4, "refit": False}
    chosen = fitted(differentiable, learning_rate=None, **settings)
    assert chosen.history_ is not None
    rate = chosen.history_.choices["learning_rate"]
    assert [trial.learning_rate for trial in chosen.history_.trials] == [1e-4, 3e-4, 1e-3]
    given = fitted(differentiable, learning_rate=rate, **settings)
    assert given.history_ is not None
    assert given.history_.candidates == chosen.history_.candidates
    for name, array in given.model_.weights.items():
        np.testing.assert_array_equal(array, chosen.model_.weights[name])


def test_without_images_of_a_class_there_is_no_score_of_unknown_images(
    differentiable: Backend,
) -> None:
    numbers = [0, 1, 2] * 4
    classifier = tiny_classifier(backend=differentiable, C=10.0).fit(colored(numbers), numbers)
    assert len(classifier.unknown_score(colored(numbers))) == 12
    settings = FineTuning(epochs=1, learning_rate=0.01, trainable="head", validation=None)
    classifier.fine_tune(colored([0, 1] * 4), settings, y=[0, 1] * 4)
    with pytest.raises(UnsupportedError, match="fewer than two images of a class"):
        classifier.unknown_score(colored(numbers))


def test_the_best_is_trained_again_on_all_images(differentiable: Backend) -> None:
    again = fitted(differentiable, epochs=3)
    assert again.history_ is not None
    assert again.history_.best != "probe"
    assert again.history_.refit is not None
    expected = fitted(differentiable, epochs=3, validation=None, average_decay=None)
    assert again.history_.refit.steps[-1].loss == expected.history_.steps[-1].loss  # type: ignore[union-attr]
    assert_same_network(expected, again)
    once = fitted(differentiable, epochs=3, refit=False)
    assert once.history_ is not None
    assert once.history_.refit is None
    assert once.history_.candidates == again.history_.candidates
    assert changed(once)
    assert again.temperature_ == once.temperature_ != 1
    assert expected.temperature_ == 1
    assert again.unknown_threshold() == once.unknown_threshold()
    assert not np.array_equal(
        once.model_.weights["conv2.weight"], again.model_.weights["conv2.weight"]
    )


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (EPOCH, {"average_decay": None}),
        (AVERAGE, {}),
        (MEAN, {"average_decay": None, "swa": True}),
    ],
)
def test_what_is_kept_of_all_images_is_of_the_kind_of_the_best(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(FineTuningRun, "kind", kind)
    again = fitted(differentiable, swa=True)
    assert_same_network(fitted(differentiable, validation=None, **settings), again)


def score_of(accuracy: float, loss: float, calibrated_loss: float | None = None) -> Score:
    return Score(accuracy, -loss, loss if calibrated_loss is None else calibrated_loss, 0.05)


def test_candidates_know_the_kind_of_the_best() -> None:
    candidates = Candidates(0)
    kinds = []
    candidates.add("probe", score_of(0.5, 1.0), None)
    candidates.add_epoch(1, score_of(0.6, 1.0), _weights(1.0))
    kinds.append(candidates.kind)
    candidates.add("moving average", score_of(0.7, 1.0), _weights(1.0), AVERAGE)
    candidates.add_epoch(2, score_of(0.6, 1.0), _weights(1.0))
    kinds.append(Candidates.from_dict(0, *candidates.to_dict()).kind)
    candidates.mean.add(_weights(2.0))
    candidates.add_averages(lambda _: score_of(0.8, 1.0), _weights(0.0), "probe", (0.5,))
    kinds.append(candidates.kind)
    assert kinds == [EPOCH, AVERAGE, MEAN]


def test_weights_without_finite_logits_are_not_kept() -> None:
    candidates = Candidates(0)
    candidates.add("probe", score_of(0.2, 1.0), None)
    candidates.add_epoch(1, score_of(0.4, math.nan), _weights(math.inf))
    assert candidates.choose("probe", None) == ("probe", None)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([score_of(0.80, 1.0), score_of(0.84, 1.1)], 0),
        ([score_of(0.80, 1.0), score_of(0.86, 1.1)], 1),
        ([score_of(0.80, 1.0), score_of(0.80, 0.9)], 1),
        ([score_of(0.80, 1.0), score_of(0.80, 2.0, 0.9)], 1),
        ([score_of(0.80, 1.0, 0.0), score_of(0.80, 0.9, 0.0)], 1),
        ([score_of(0.80, 1.0), score_of(0.78, 0.5)], 0),
        ([score_of(0.80, 1.0), score_of(0.88, 0.9), score_of(0.84, 0.8)], 2),
        ([score_of(0.80, 1.0), score_of(0.90, 0.9), score_of(0.84, 0.8)], 1),
        ([score_of(0.80, 1.0), score_of(0.88, 0.9), score_of(0.92, 1.0)], 1),
    ],
    ids=[
        "more accurate by chance",
        "more accurate",
        "lower loss",
        "lower loss after temperature scaling",
        "lower loss only without temperature scaling",
        "less accurate than the first",
        "less accurate by chance",
        "less accurate",
        "greater loss",
    ],
)
def test_the_loss_decides_unless_accuracies_differ(scores: list[Score], best: int) -> None:
    candidates = Candidates(0)
    candidates.add("probe", scores[0], None)
    for epoch, score in enumerate(scores[1:], 1):
        candidates.add_epoch(epoch, score, _weights(epoch))
    assert candidates.best is not None
    assert candidates.best[:2] == (["probe", "epoch 1", "epoch 2"][best], scores[best])


def test_the_standard_error_of_the_accuracy() -> None:
    logits = np.zeros((400, 2))
    classes = np.arange(400) % 4 // 3
    score = score_logits(logits, classes, np.ones(400))
    assert score.accuracy == 0.75
    assert score.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.01)
    # Images with a weight of nearly 0 tell nothing.
    weights = np.repeat([2.0, 1e-9], 200)
    score = score_logits(logits, classes, weights)
    assert score.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 200), rel=0.01)
    right = score_logits(logits, np.zeros(400, int), np.ones(400))
    assert (right.accuracy, right.standard_error > 0) == (1, True)


def test_an_interpolation_is_repeated_on_all_images(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far from the head that is fitted to all images."""
    monkeypatch.setattr(FineTuningRun, "fraction", 0.25)
    tuned = fitted(differentiable, epochs=3)
    end = fitted(differentiable, epochs=3, validation=None, average_decay=None)
    probe = tiny_classifier(backend=differentiable, C=1.0).fit(IMAGES, NUMBERS)
    for name, array in tuned.model_.weights.items():
        # These are fitted to the network with the other weights.
        if name == TEMPERATURE or name.startswith("unknown."):
            continue
        expected = 0.75 * probe.model_.weights[name] + 0.25 * end.model_.weights[name]
        np.testing.assert_allclose(array, expected, atol=1e-6)


def test_ctrl_c_while_training_on_all_images_keeps_the_validated_weights(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FineTuningRun._write_checkpoint

    def interrupted(self: FineTuningRun, course: Course) -> None:
        write(self, course)
        if self._note:
            raise KeyboardInterrupt

    once = fitted(differentiable, refit=False)
    monkeypatch.setattr(FineTuningRun, "_write_checkpoint", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 1 of 2 epochs"):
        tuned = fitted(differentiable)
    assert tuned.history_ is not None
    assert tuned.history_.interrupted
    assert tuned.history_.refit is None
    for name, array in once.model_.weights.items():
        np.testing.assert_array_equal(array, tuned.model_.weights[name])


@pytest.mark.parametrize("method", ["_are_mirror_images_different", "_make_trainer", "_score"])
def test_ctrl_c_before_the_first_step_keeps_the_probe(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuningRun, method, interrupted)
    with pytest.warns(UserWarning, match="interrupted after 0 of 2 epochs"):
        tuned = fitted(differentiable, augmentation=None)
    assert tuned.history_ is not None
    assert tuned.history_.interrupted
    assert tuned.history_.best == "probe"
    assert len(tuned.predict(IMAGES)) == len(IMAGES)


def test_ctrl_c_during_trials_keeps_the_best_so_far(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_epochs = FineTuningRun._run_epochs

    def interrupted(self: FineTuningRun, course: Course, *arguments: Any, **options: Any) -> None:
        if course.learning_rate == 1e-3:
            raise KeyboardInterrupt
        run_epochs(self, course, *arguments, **options)

    monkeypatch.setattr(FineTuningRun, "_run_epochs", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 1 of 4 epochs"):
        tuned = fitted(differentiable, learning_rate=None, epochs=4)
    assert tuned.history_ is not None
    assert [trial.learning_rate for trial in tuned.history_.trials] == [1e-4, 3e-4]
    assert tuned.history_.best is not None


def _weights(value: float) -> dict[str, npt.NDArray[Any]]:
    return {"w": np.float32([value])}


@pytest.mark.parametrize(("second", "expected"), [(0.5, "soup of epochs 1, 2"), (9.0, "epoch 1")])
def test_a_soup_takes_only_what_improves_it(second: float, expected: str) -> None:
    # The accuracy is best at 1; epoch 1 is at 1.5.
    def evaluate(weights: Any) -> Score:
        return score_of(0.5, abs(float(weights["w"][0]) - 1))

    candidates = Candidates(2)
    for epoch, value in enumerate((1.5, second), 1):
        candidates.add_epoch(epoch, evaluate(_weights(value)), _weights(value))
    candidates.add_averages(evaluate, _weights(0.0), "probe", ())
    name, weights = candidates.choose("probe", None)
    assert name == expected
    assert weights is not None


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (score_of(0.78, 9.0, 0.5), "0.5 of the way from probe to epoch 1"),
        (score_of(0.78, 0.1, 0.7), "epoch 1"),
        (score_of(0.74, 0.1, 0.5), "epoch 1"),
    ],
    ids=["lower", "lower only without calibration", "less accurate"],
)
def test_weights_on_the_way_need_a_lower_calibrated_loss(half: Score, expected: str) -> None:
    candidates = Candidates(0)
    candidates.add("probe", score_of(0.6, 1.0), None)
    candidates.add_epoch(1, score_of(0.8, 0.9, 0.6), _weights(1.0))
    seen: list[float] = []

    def evaluate(weights: Any) -> Score:
        seen.append(float(weights["w"][0]))
        return half

    candidates.add_averages(evaluate, _weights(0.0), "probe", (0.5,))
    name, weights = candidates.choose("probe", None)
    assert name == expected
    assert weights is not None
    assert seen == [0.5]
    assert candidates.fraction == float(weights["w"][0])


def test_half_way_is_compared_by_default(differentiable: Backend) -> None:
    history = fitted(differentiable, epochs=3).history_
    assert history is not None
    assert history.candidates[-1].name.startswith("0.5 of the way from probe to ")


def test_candidates_survive_a_checkpoint() -> None:
    candidates = Candidates(1)
    candidates.add("probe", score_of(0.5, 1.0), None)
    candidates.add_epoch(1, score_of(0.6, 0.9), _weights(1.0))
    candidates.mean.add(_weights(2.0))
    data, groups = candidates.to_dict()
    restored = Candidates.from_dict(1, json.loads(json.dumps(data)), groups)
    assert restored.records == candidates.records
    assert restored.choose("probe", None)[0] == "epoch 1"
    assert restored.mean.count == 1


def test_from_random_weights_with_updated_batch_norms(differentiable: Backend) -> None:
    classifier = Classifier(
        NETWORK,
        weights="random",
        preprocessing=Preprocessing(SIDE),
        backend=differentiable,
        C=1.0,
        fine_tuning=FineTuning(
            epochs=15,
            batch_norm="update",
            optimizer=SGD(momentum=0.9),
            learning_rate=0.1,
            layer_decay=1.0,
            augmentation=(),
            batch_size=8,
        ),
    ).fit(IMAGES, NUMBERS)
    assert classifier.score(IMAGES, NUMBERS) > 0.9
