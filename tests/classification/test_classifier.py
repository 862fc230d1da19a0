"""`Classifier`: fits, predictions, evaluation, files, and invalid input."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import (
    DEMO,
    NETWORK,
    SIDE,
    WEIGHTS,
    colored,
    labeled_folder,
    noise,
    tiny_classifier,
    tiny_extractor,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from transferkit import Classifier, Preprocessing, list_labeled_images
from transferkit.backends import Backend, Program
from transferkit.errors import (
    DatasetError,
    ImageError,
    NotFiniteError,
    ParameterError,
    UnknownNameError,
)
from transferkit.images.reading import read_image_of_call
from transferkit.models import Model
from transferkit.networks import INPUT, NetworkBuilder, build_network, random_weights
from transferkit.networks.passes import add_probabilities
from transferkit.weights.files import write_safetensors

NUMBERS = [0, 1, 2] * 5


class Series:
    """Like that of pandas: not a sequence, but it converts itself to an array."""

    def __init__(self, values: Sequence[object], dtype: object) -> None:
        self._array = np.asarray(values, dtype=dtype)

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._array, dtype=dtype, copy=copy)


def test_a_fitted_classifier_keeps_one_compiled_network(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_, compiled = type(backend).compile, []

    def recorded(self: Backend, function: Any) -> Any:
        result = compile_(self, function)
        compiled.append(weakref.ref(result))
        return result

    monkeypatch.setattr(type(backend), "compile", recorded)
    classifier = tiny_classifier(C=10.0, backend=backend.name)
    images, labels = colored([0, 1, 0, 1]), [0, 1, 0, 1]
    for fits in (1, 2):
        classifier.fit(images, labels)
        assert classifier.predict(images).tolist() == labels
        gc.collect()
        alive = [reference() is not None for reference in compiled]
        assert len(alive) >= 2 * fits
        assert alive == [False] * (len(alive) - 1) + [True]


@pytest.fixture(scope="module")
def fitted() -> Classifier:
    """Return a classifier of three colors that makes mistakes."""
    images = colored(NUMBERS, spread=200)
    return tiny_classifier().fit(images, [("red", "green", "blue")[n] for n in NUMBERS])


# ---- labels ---------------------------------------------------------------------------------


def test_a_folder_stands_for_its_paths_and_labels(tmp_path: Path) -> None:
    folder = labeled_folder(tmp_path / "colors", classes=3)
    paths, labels = list_labeled_images(folder)
    from_folder = tiny_classifier().fit(folder)
    from_lists = tiny_classifier().fit(paths, labels)
    assert from_folder.classes_.tolist() == ["blood", "grass", "sky"]
    np.testing.assert_array_equal(from_folder.predict_proba(paths), from_lists.predict_proba(paths))
    assert from_folder.score(folder) == from_lists.score(paths, labels) == 1.0


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c"], np.array(["a", "b", "c"])),
        ((2, 1, 3), np.array([1, 2, 3])),
        ([True, False, True], np.array([False, True])),
        (np.array([2, 1, 3], np.int16), np.array([1, 2, 3], np.int16)),
        (np.array([0.5, 0.25, 7.0], np.float32), np.array([0.25, 0.5, 7.0], np.float32)),
        (np.array(["b", "a", "c"], object), np.array(["a", "b", "c"], object)),
        (Series(["b", "a", "c"], object), np.array(["a", "b", "c"], object)),
        (Series([2, 1, 3], object), np.array([1, 2, 3])),
        ([np.str_("b"), "a", "ü"], np.array(["a", "b", "ü"])),
        ([1, 2.5, np.int8(3)], np.array([1.0, 2.5, 3.0])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_labels_keep_their_type(labels: Any, classes: npt.NDArray[Any], tmp_path: Path) -> None:
    numbers = [0, 1, 2] * 4
    many = np.asarray(labels)[numbers]
    if isinstance(labels, Series):
        many = Series(many.tolist(), many.dtype)
    elif not isinstance(labels, np.ndarray):
        many = [labels[number] for number in numbers]
    classifier = tiny_classifier(C=100).fit(colored(numbers), many)
    np.testing.assert_array_equal(classifier.classes_, classes)
    assert classifier.classes_.dtype == classes.dtype
    predicted = classifier.predict(colored(numbers))
    assert predicted.dtype == classes.dtype
    assert classifier.evaluate(colored(numbers), many).accuracy == classifier.score(
        colored(numbers), many
    )
    classifier.save(tmp_path / "saved.safetensors")
    loaded = Classifier.load(tmp_path / "saved.safetensors")
    np.testing.assert_array_equal(loaded.classes_, classes)
    assert loaded.classes_.dtype == classes.dtype


# ---- fits and predictions -------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_the_scaled_logits(
    backend: Backend, fitted: Classifier
) -> None:
    images = colored(NUMBERS, seed=1)
    pixels = np.stack(images).astype(np.float32) / np.float32(255)
    program = Program(backend, fitted.model_.network, fitted.model_.weights)
    logits = program.run(pixels, ["logits"])["logits"].astype(np.float64)
    assert fitted.temperature_ != 1
    odds = np.exp(logits / fitted.temperature_)
    softmax = odds / odds.sum(axis=1, keepdims=True)
    found = clone(fitted).set_params(backend=backend).fit(
        colored(NUMBERS, spread=200), NUMBERS
    ).predict_proba(images)  # fmt: skip
    assert found.shape == (15, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    # Features of another backend differ in their last digits, so its classifier may too. The
    # classes are sorted by number here and by name in the fixture.
    np.testing.assert_allclose(found[:, [2, 1, 0]], softmax, atol=1e-3)
    np.testing.assert_allclose(fitted.predict_proba(images), softmax, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_fit_equals_the_logistic_regression_of_scikit_learn(classes: int) -> None:
    numbers = list(range(classes)) * 6
    train, test = colored(numbers, spread=200), colored(numbers, seed=1, spread=200)
    classifier = tiny_classifier(C=20.0).fit(train, numbers)

    def unit(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
        found = tiny_extractor().transform(images).astype(np.float64)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    regression = LogisticRegression(C=20.0, tol=1e-9, max_iter=10_000).fit(unit(train), numbers)
    expected = regression.predict_proba(unit(test))
    assert classifier.temperature_ == 1
    np.testing.assert_allclose(classifier.predict_proba(test), expected, atol=1e-3)
    logits = classifier.decision_function(test)
    np.testing.assert_allclose(logits, regression.decision_function(unit(test)), atol=5e-3)
    assert np.ptp(expected) > 0.5


def test_parity_of_classifiers(backend_pair: tuple[Backend, Backend]) -> None:
    images, test = colored(NUMBERS, spread=200), colored(NUMBERS, seed=1, spread=200)
    found = [
        tiny_classifier(backend=backend, C=10.0).fit(images, NUMBERS).predict_proba(test)
        for backend in backend_pair
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_accuracy_on_the_demo(backend: Backend) -> None:
    classifier = Classifier(backend=backend).fit(DEMO / "train")
    evaluation = classifier.evaluate(DEMO / "test")
    assert evaluation.accuracy == classifier.score(DEMO / "test") >= 0.95
    best = Classifier.pretrained(backend=backend).predict_top(DEMO / "cat.jpg", k=3)[0]
    assert best[0].label == "Egyptian cat"
    assert best[0].probability > best[1].probability > best[2].probability


def test_regularization_is_chosen_reproducibly() -> None:
    images, labels = colored(NUMBERS, spread=250), NUMBERS
    for seed in (0, 3):
        first, second = (tiny_classifier(random_state=seed).fit(images, labels) for _ in range(2))
        assert first.C_ == second.C_
        assert first.C_ in (3.0, 10.0, 30.0, 100.0)
        np.testing.assert_array_equal(first.predict_proba(images), second.predict_proba(images))
    assert tiny_classifier(C=7).fit(images, labels).C_ == 7


def test_a_generator_is_advanced() -> None:
    images = colored(NUMBERS)
    generator = np.random.default_rng(5)
    before = generator.bit_generator.state
    first = tiny_classifier(random_state=generator).fit(images, NUMBERS)
    assert generator.bit_generator.state != before
    again = tiny_classifier(random_state=np.random.default_rng(5)).fit(images, NUMBERS)
    assert first.C_ == again.C_


def test_the_network_runs_over_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = Program.run
    read: list[str] = []

    def counting(
        self: Program, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        rows.append(len(pixels))
        return run(self, pixels, layers)

    def reading(image: Any, source: str, depth: Any) -> Any:
        read.append(source)
        return read_image_of_call(image, source, depth)

    monkeypatch.setattr(Program, "run", counting)
    monkeypatch.setattr("transferkit.images.stream.read_image_of_call", reading)
    images = colored(NUMBERS)
    tiny_classifier().fit(iter(images), NUMBERS)
    assert sum(rows) == 15
    assert sorted(read) == sorted(f"images[{index}]" for index in range(15))


def test_arguments_are_not_changed() -> None:
    images = colored(NUMBERS)
    labels = np.array(NUMBERS)
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    classifier = tiny_classifier(weights=weights).fit(images, labels)
    classifier.evaluate(images, labels)
    assert labels.tolist() == NUMBERS
    assert weights.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(weights[name], array)
    for image, expected in zip(images, colored(NUMBERS), strict=True):
        np.testing.assert_array_equal(image, expected)


def test_identical_images_of_two_classes_are_equally_probable() -> None:
    images = np.zeros((8, 16, 16, 3), np.uint8)
    classifier = tiny_classifier().fit(images, [0, 1] * 4)
    np.testing.assert_allclose(classifier.predict_proba(images), 0.5, atol=1e-3)


# ---- state ----------------------------------------------------------------------------------


def test_a_loaded_classifier_has_the_parameters_of_the_fit(tmp_path: Path) -> None:
    fitted = tiny_classifier(random_state=7).fit(colored([0, 1] * 4), [0, 1] * 4)
    # Parameters that are set after the fit do not count.
    fitted.set_params(network="mobilenet_v2", weights=None, C=3.0)
    fitted.save(tmp_path / "saved.safetensors")
    loaded = Classifier.load(tmp_path / "saved.safetensors")
    assert (loaded.C, loaded.random_state) == (None, 7)
    assert isinstance(loaded.network, Model)
    assert loaded.network.network == fitted.model_.network


def refitted(classifier: Classifier, path: Path) -> Classifier:
    """Save and load a fitted classifier, and fit a clone of it to the same images."""
    classifier.save(path)
    return clone(Classifier.load(path)).fit(colored([0, 1, 1] * 4), ["a", "b", "b"] * 4)


@pytest.mark.parametrize("class_weight", ["balanced", {"a": 3.0, "b": 0.5}])
def test_a_loaded_classifier_can_be_fitted_again(tmp_path: Path, class_weight: Any) -> None:
    parameters: dict[str, Any] = {"C": 0.3, "class_weight": class_weight, "weights": "random"}
    size = Preprocessing(32)
    classifier = Classifier(
        "resnet18", initialization="uniform", random_state=5, preprocessing=size, **parameters
    ).fit(colored([0, 1, 1] * 4), ["a", "b", "b"] * 4)
    again = refitted(classifier, tmp_path / "c.safetensors")
    assert (again.network, again.class_weight) == ("resnet18", class_weight)
    images = noise(4)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


def test_a_classifier_whose_weights_have_no_name_is_fitted_again_with_those_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network("resnet18")
    for folder, seed in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        weights = random_weights(network, random_state=seed)
        write_safetensors(tmp_path / folder / "w.safetensors", weights, {})
    monkeypatch.chdir(tmp_path / "two")
    images, labels, size = colored([0, 1, 1] * 4), ["a", "b", "b"] * 4, Preprocessing(32)
    for parameters in (
        {"weights": tmp_path / "one" / "w.safetensors"},
        {"weights": "random", "random_state": np.random.default_rng(3)},
    ):
        classifier = Classifier("resnet18", C=0.3, preprocessing=size, **parameters)
        classifier.fit(images, labels)
        again = refitted(classifier, tmp_path / "c.safetensors")
        np.testing.assert_allclose(
            again.predict_proba(images), classifier.predict_proba(images), atol=1e-6
        )


def test_logits_that_are_not_finite_are_an_error(backend: Backend) -> None:
    weights = {**WEIGHTS, "logits.bias": np.array([0, np.nan, 0], np.float32)}
    model = Model(NETWORK, weights, Preprocessing(SIDE), ("a", "b", "c"))
    classifier = tiny_classifier(C=1.0, backend=backend.name).fit(noise(4), [0, 1, 0, 1])
    classifier.model_ = dataclasses.replace(model, network=add_probabilities(NETWORK))
    classifier.classes_ = np.array(["a", "b", "c"])
    for call in (
        lambda: classifier.predict(noise(2)),
        lambda: classifier.predict(noise(2), on_error="skip"),
        lambda: classifier.predict_top(noise(2)),
        lambda: classifier.score(noise(2), ["a", "a"]),
        lambda: classifier.evaluate(noise(2), ["a", "a"]),
    ):
        with pytest.raises(NotFiniteError, match=r"2 of 2 images, such as images\[0\]"):
            call()
    infinite = {**WEIGHTS, "norm1.bias": np.full(4, np.inf, np.float32)}
    with pytest.raises(NotFiniteError, match="layer 'relu1'"):
        tiny_classifier(weights=infinite, layer="relu1").fit(noise(4), [0, 1, 0, 1])


def test_an_unknown_backend_is_rejected_when_loading(fitted: Classifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "saved.safetensors")
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        Classifier.load(tmp_path / "saved.safetensors", backend="onnxruntim")


@pytest.mark.parametrize("name", [None, "onnxruntime"])
@pytest.mark.usefixtures("no_backend_variable")
def test_an_unknown_device_is_rejected_when_loading(
    fitted: Classifier, tmp_path: Path, name: str | None
) -> None:
    fitted.save(tmp_path / "saved.safetensors")
    with pytest.raises(UnknownNameError, match="onnxruntime has no device 'cuda:0'; available:"):
        Classifier.load(tmp_path / "saved.safetensors", backend=name, device="cuda:0")
    with pytest.raises(UnknownNameError, match="onnxruntime has no device 'cuda:0'; available:"):
        Classifier.pretrained("mobilenet_v2", backend=name, device="cuda:0")
    loaded = Classifier.load(tmp_path / "saved.safetensors", device="CPUExecutionProvider")
    assert loaded.backend is None
    assert loaded.predict(noise(2)).shape == (2,)


def test_a_score_of_unknown_labels_only_is_an_error(fitted: Classifier) -> None:
    with pytest.raises(
        DatasetError,
        match="not classes of the classifier: 0, 1; its classes are 'blue', 'green', 'red'",
    ):
        fitted.score(noise(2), [0, 1])


def test_a_folder_of_one_class_can_be_evaluated(tmp_path: Path) -> None:
    classifier = tiny_classifier(C=1.0).fit(labeled_folder(tmp_path / "both", classes=2))
    found = classifier.evaluate(labeled_folder(tmp_path / "one", classes=1))
    assert found.confusion_matrix.shape == (2, 2)


def test_a_network_with_weights_named_like_the_head_is_rejected() -> None:
    builder = NetworkBuilder("headed", input_size=SIDE)
    x = builder.conv2d("head", INPUT, 3, 4, size=3)
    builder.add_node("embedding", "mean", x, axes=(1, 2))
    network = builder.build()
    classifier = Classifier(
        network,
        weights=random_weights(network, random_state=0),
        preprocessing=Preprocessing(SIDE),
    )
    with pytest.raises(ValueError, match=r"has weights named head\.bias, head\.weight already"):
        classifier.fit(colored([0, 1] * 2), [0, 1] * 2)


def test_a_clone_is_not_fitted(fitted: Classifier) -> None:
    unfitted = clone(fitted)
    for call in (
        lambda: unfitted.predict(noise(1)),
        lambda: unfitted.predict_proba(noise(1)),
        lambda: unfitted.predict_top(noise(1)),
        lambda: unfitted.score(noise(2), [0, 1]),
        lambda: unfitted.evaluate(noise(2), [0, 1]),
        lambda: unfitted.save("nowhere.safetensors"),
    ):
        with pytest.raises(NotFittedError):
            call()
    assert not Path("nowhere.safetensors").exists()


def test_parameters_set_after_use_take_effect(fitted: Classifier) -> None:
    images = colored(NUMBERS, spread=200)
    classifier = tiny_classifier(C=10.0).fit(images, NUMBERS)
    before = classifier.predict_proba(images)
    classifier.set_params(C=0.01).fit(images, NUMBERS)
    assert classifier.C_ == 0.01
    assert np.abs(classifier.predict_proba(images) - before).max() > 0.05
    classifier.fit(images, [number % 2 for number in NUMBERS])
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.predict_proba(images).shape == (15, 2)
    assert fitted.classes_.tolist() == ["blue", "green", "red"]


# ---- evaluation -----------------------------------------------------------------------------


def test_evaluation_agrees_with_scikit_learn(fitted: Classifier) -> None:
    numbers = [0, 1, 2, 1] * 8
    images = colored(numbers, seed=2, spread=250)
    labels = np.array(["red", "green", "blue"])[numbers]
    predicted = fitted.predict(images)
    probabilities = fitted.predict_proba(images)
    found = fitted.evaluate(images, labels)
    assert found.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert fitted.score(images, labels) == pytest.approx(found.accuracy)
    weight = np.arange(32.0)
    assert fitted.score(images, labels, sample_weight=weight) == pytest.approx(
        accuracy_score(labels, predicted, sample_weight=weight)
    )
    np.testing.assert_array_equal(found.confusion_matrix, confusion_matrix(labels, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision, recall, _, support = precision_recall_fscore_support(labels, predicted)
    for index, name in enumerate(fitted.classes_):
        assert found.per_class[name] == pytest.approx(
            (precision[index], recall[index], support[index])
        )
    wrong = np.flatnonzero(predicted != labels)
    assert 0 < len(wrong) < 32
    assert {mistake.source for mistake in found.mistakes} == {f"images[{i}]" for i in wrong}
    for mistake in found.mistakes:
        row = int(mistake.source[len("images[") : -1])
        assert (mistake.label, mistake.predicted) == (labels[row], predicted[row])
        assert mistake.probability == pytest.approx(probabilities[row].max(), abs=1e-6)
    confidences = [mistake.probability for mistake in found.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert found.skipped == []


def test_classes_without_images_are_evaluated(fitted: Classifier) -> None:
    found = fitted.evaluate(colored([0, 0, 1]), ["red", "red", "green"])
    assert found.confusion_matrix.shape == (3, 3)
    assert found.per_class["blue"].recall is None
    assert found.per_class["red"].support == 2


def test_evaluation_lists_skipped_images(fitted: Classifier) -> None:
    images: list[Any] = [*colored([0, 1]), "nowhere.png", *colored([2])]
    labels = ["red", "green", "red", "blue"]
    found = fitted.evaluate(images, labels, on_error="skip")
    assert found.confusion_matrix.sum() == 3
    assert [skipped.source for skipped in found.skipped] == ["nowhere.png"]
    assert found.per_class["blue"].support == 1
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        fitted.evaluate(images, labels)


def test_evaluation_rejects_unknown_labels(fitted: Classifier) -> None:
    with pytest.raises(DatasetError, match=r"'puce'.*'blue', 'green', 'red'"):
        fitted.evaluate(noise(2), ["puce", "red"])


# ---- most probable classes, pretrained classifiers ------------------------------------------


def test_the_most_probable_classes_are_sorted(fitted: Classifier) -> None:
    images = colored(NUMBERS, seed=3)
    probabilities = fitted.predict_proba(images)
    for k in (1, 3):
        for row, best in zip(probabilities, fitted.predict_top(images, k=k), strict=True):
            assert len(best) == k
            order = np.argsort(-row, kind="stable")[:k]
            assert [item.label for item in best] == fitted.classes_[order].tolist()
            assert [item.probability for item in best] == pytest.approx(row[order], abs=1e-6)
    # The default k is 5, more than the number of classes.
    assert [len(best) for best in fitted.predict_top(images[:2])] == [3, 3]
    for k in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"k is {k}; expected an integer of at least 1"):
            fitted.predict_top(images, k=k)


def test_a_pretrained_classifier_has_the_classes_of_imagenet() -> None:
    pretrained = Classifier.pretrained("mobilenet_v2", backend="onnxruntime")
    assert pretrained.classes_.shape == (1000,)
    assert len(set(pretrained.classes_)) == 1000
    assert pretrained.C_ is None
    np.testing.assert_allclose(pretrained.predict_proba(DEMO / "cat.jpg").sum(), 1, atol=1e-5)
    cat = pretrained.predict(DEMO / "cat.jpg")
    assert pretrained.evaluate([DEMO / "cat.jpg"], cat).accuracy == 1.0
    with pytest.raises(UnknownNameError, match="mobilenet_v2"):
        Classifier.pretrained("mobilenet")
    with pytest.raises(DatasetError, match="fit a Classifier on labeled images"):
        Classifier.pretrained("mobilenet_v2", weights="random")


# ---- files ----------------------------------------------------------------------------------


def test_a_saved_classifier_is_the_same_on_any_backend(
    backend: Backend, fitted: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "saved.safetensors"
    fitted.save(path)
    loaded = Classifier.load(path, backend=backend)
    images = colored(NUMBERS, seed=1)
    np.testing.assert_allclose(
        loaded.predict_proba(images), fitted.predict_proba(images), atol=1e-5
    )
    assert loaded.model_.network == fitted.model_.network
    assert loaded.model_.preprocessing == fitted.model_.preprocessing
    assert loaded.C_ == fitted.C_
    assert loaded.classes_.dtype == fitted.classes_.dtype
    for name, array in fitted.model_.weights.items():
        np.testing.assert_array_equal(loaded.model_.weights[name], array)


def test_a_classifier_of_mobilenet_is_saved(tmp_path: Path) -> None:
    preprocessing = Preprocessing(96, resize=100, interpolation="bicubic")
    classifier = Classifier(preprocessing=preprocessing, backend="onnxruntime", C=10.0)
    classifier.fit(DEMO / "train")
    classifier.save(tmp_path / "saved.safetensors")
    loaded = Classifier.load(tmp_path / "saved.safetensors", backend="onnxruntime")
    assert loaded.network == "mobilenet_v2"
    assert loaded.weights is None
    assert loaded.model_.preprocessing == classifier.model_.preprocessing
    expected = classifier.predict_proba(DEMO / "test")
    np.testing.assert_allclose(loaded.predict_proba(DEMO / "test"), expected, atol=1e-5)
    # It can be fitted again.
    again = clone(loaded).fit(DEMO / "train")
    np.testing.assert_allclose(again.predict_proba(DEMO / "test"), expected, atol=1e-5)


def test_a_pretrained_classifier_is_saved(tmp_path: Path) -> None:
    pretrained = Classifier.pretrained(backend="onnxruntime")
    pretrained.save(tmp_path / "saved.safetensors")
    loaded = Classifier.load(tmp_path / "saved.safetensors", backend="onnxruntime")
    assert loaded.C_ is None
    assert loaded.predict_top(DEMO / "cat.jpg") == pretrained.predict_top(DEMO / "cat.jpg")


def test_files_of_one_classifier_are_identical(fitted: Classifier, tmp_path: Path) -> None:
    digests = set()
    for index in range(8):
        path = tmp_path / f"{index}.safetensors"
        fitted.save(path)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    Classifier.load(path).save(tmp_path / "again.safetensors")
    digests.add(hashlib.sha256((tmp_path / "again.safetensors").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_loaded_classifier_of_a_user_defined_network_can_be_fitted_again(
    fitted: Classifier, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "saved.safetensors")
    loaded = Classifier.load(tmp_path / "saved.safetensors")
    images = colored(NUMBERS)
    loaded.fit(images, NUMBERS)
    assert loaded.classes_.tolist() == [0, 1, 2]
    again = tiny_classifier(C=loaded.C_).fit(images, NUMBERS)
    np.testing.assert_allclose(loaded.predict_proba(images), again.predict_proba(images), atol=1e-5)


# ---- invalid input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "X has 4 images, but y has 2 labels"),
        ([0, 1] * 3, "X has 4 images, but y has 6 labels"),
        ([], "X has 4 images, but y has 0 labels"),
        ([1, 1, 1, 1], "only one class, 1; at least two"),
        (["a", "a", "a", "b"], "classes with only one image: 'b'; to choose C by cross-validation"),
        ([0.0, 1.0, np.nan, 1.0], r"y\[2\] is nan; expected a finite number"),
        ([0.0, np.inf, 0.0, 1.0], r"y\[1\] is inf; expected a finite number"),
        ([None, "a", "a", None], "NoneType, str"),
        ([None] * 4, "NoneType"),
        ([1, "a", 1, "a"], "int, str"),
        ([True, 0, True, 0], "bool, int"),
        (np.array([1, "a", 1, "a"], object), "int, str"),
        ([b"a", b"b", b"a", b"b"], "bytes"),
        (np.array(["2020", "2021"] * 2, "M8[Y]"), "datetime64"),
        ([[0], [1], [0], [1]], r"shape \(4, 1\)"),
        ([[0], [1, 2], [0], [1]], "one label for each image"),
        (np.eye(4), r"shape \(4, 4\)"),
        ("abab", r"shape \(\)"),
        (7, r"shape \(\)"),
        ([2**70, 2**71] * 2, "64 bits"),
    ],
)
def test_invalid_labels_are_rejected(labels: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        tiny_classifier().fit(noise(4), labels)


@pytest.mark.parametrize("number", [2, 4])
def test_too_few_or_too_many_labels_for_a_generator_are_rejected(number: int) -> None:
    with pytest.raises(DatasetError, match=f"X has 6 images, but y has {2 * number} labels"):
        tiny_classifier().fit(iter(noise(6)), [0, 1] * number)


def test_missing_labels_are_rejected() -> None:
    with pytest.raises(DatasetError, match="labels are missing"):
        tiny_classifier().fit(noise(4))


@pytest.mark.parametrize("C", [0, 0.0, -1.0, np.nan, np.inf, "1", True])
def test_invalid_regularization_is_rejected(C: Any) -> None:
    with pytest.raises(ParameterError, match=r"C is .*; expected a finite number greater than 0"):
        tiny_classifier(C=C).fit(noise(4), [0, 1, 0, 1])


def test_an_invalid_on_error_is_rejected() -> None:
    with pytest.raises(ValueError, match="on_error is 'pass'"):
        tiny_classifier().fit(noise(4), [0, 1, 0, 1], on_error="pass")


def test_unreadable_images_are_skipped_on_request() -> None:
    images: list[Any] = [*colored([0, 1, 0, 1]), "nowhere.png", "neither.png"]
    labels = ["a", "b", "a", "b", "a", "b"]
    classifier = tiny_classifier(C=100.0).fit(images, labels, on_error="skip")
    assert [skipped.source for skipped in classifier.skipped_] == ["nowhere.png", "neither.png"]
    assert classifier.score(colored([0, 1]), ["a", "b"]) == 1.0
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        tiny_classifier().fit(images, labels)
    with pytest.raises(DatasetError, match="classes with only one image: 'b'"):
        tiny_classifier().fit(images[:3] + images[4:], ["a", "b", "a", "a", "b"], on_error="skip")
    with pytest.raises(DatasetError, match="none of 4 images can be read"):
        tiny_classifier().fit(images[4:] * 2, ["a", "b"] * 2, on_error="skip")


def test_predictions_of_unreadable_images_raise(fitted: Classifier) -> None:
    images = [*colored([0]), "nowhere.png"]
    for call in (
        fitted.predict,
        fitted.predict_proba,
        lambda images: fitted.predict_top(images, 1),
    ):
        with pytest.raises(ImageError, match=r"nowhere\.png"):
            call(images)


def test_invalid_folders_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such"):
        tiny_classifier().fit(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no folders and no images"):
        tiny_classifier().fit(tmp_path)
    with pytest.raises(DatasetError, match="only one class, 'blood'"):
        tiny_classifier().fit(labeled_folder(tmp_path / "one", classes=1))
    with pytest.raises(DatasetError, match="classes with only one image: 'blood', 'grass'"):
        tiny_classifier().fit(labeled_folder(tmp_path / "alone", number=1))
