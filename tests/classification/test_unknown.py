"""The score of unknown images: its definition, its threshold, and its use in a classifier."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import colored, noise, tiny_classifier, tiny_extractor
from scipy.spatial.distance import cdist
from sklearn.metrics import log_loss, roc_auc_score

from transferkit import Classifier, Evaluation, FeatureExtractor
from transferkit.backends import Backend
from transferkit.classification.head import fit_head
from transferkit.classification.unknown import (
    KnownScores,
    distances,
    fit_distance,
    held_out_scores,
    with_unknown_score,
)
from transferkit.datasets.labels import Labels
from transferkit.errors import ParameterError, UnsupportedError
from transferkit.images import list_labeled_images
from transferkit.support.numerics import l2_normalize, softmax

NUMBERS = [0, 1, 2] * 8
NAMES = [("red", "green", "blue")[number] for number in NUMBERS]


def clusters(seed: int, classes: int, number: int, d: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Return embeddings of length 1 around one direction for each class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    centers = generator.normal(size=(classes, d))
    embeddings = centers[labels] + generator.normal(0, 0.4, (number, d))
    return l2_normalize(embeddings.astype(np.float32)), labels


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(10, 60), st.integers(2, 40))
def test_the_score_is_the_mahalanobis_distance_of_scipy(
    seed: int, classes: int, number: int, d: int
) -> None:
    X, labels = clusters(seed, classes, number, d)
    test, _ = clusters(seed + 1, classes, 20, d)
    means = np.stack([X[labels == label].astype(float).mean(axis=0) for label in range(classes)])
    residuals = X - means[labels]
    covariance = residuals.T @ residuals / (number - classes)
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / d * np.eye(d)
    expected = cdist(test, means, "mahalanobis", VI=np.linalg.inv(shrunk)) ** 2
    found = distances(test, fit_distance(X, labels))
    np.testing.assert_allclose(found, expected.min(axis=1) / d, rtol=1e-3, atol=1e-4)


def test_many_dimensions_are_approximated_by_their_largest_axes() -> None:
    X, labels = clusters(0, 3, 400, 300)
    weights = fit_distance(X, labels)
    assert weights.axes.shape == (128, 300)
    covariance = np.cov(
        np.concatenate([X[labels == i] - X[labels == i].mean(0) for i in range(3)]).T
    )
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 300 * np.eye(300)
    means = np.stack([X[labels == i].mean(0) for i in range(3)])
    expected = cdist(X, means, "mahalanobis", VI=np.linalg.inv(shrunk)).min(axis=1) ** 2 / 300
    found = distances(X, weights)
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=0.2)


def test_identical_images_have_finite_scores() -> None:
    X = l2_normalize(np.repeat(np.eye(2, 5, dtype=np.float32), 4, axis=0))
    scores = distances(X, fit_distance(X, np.repeat([0, 1], 4)))
    np.testing.assert_allclose(scores, 0, atol=1e-3)


def test_a_share_of_new_known_images_is_kept() -> None:
    X, labels = clusters(0, 4, 800, 32)
    known = held_out_scores(X[:400], labels[:400], seed=0)
    new = distances(X[400:], fit_distance(X[:400], labels[:400]))
    for share in (0.5, 0.9, 0.98):
        assert abs((new <= known.threshold(share)).mean() - share) < 0.06
    assert known.threshold(0.98) > known.threshold(0.5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 1))
def test_thresholds_are_quantiles(scores: list[float], share: float) -> None:
    threshold = KnownScores.of(np.array(scores)).threshold(share)
    low, high = (np.quantile(scores, np.clip(share + step, 0, 1)) for step in (-1e-3, 1e-3))
    assert low - 1e-6 <= threshold <= high + 1e-6


@pytest.fixture(scope="module")
def classifier(backend: Backend) -> Classifier:
    return tiny_classifier(backend=backend, C=10.0).fit(colored(NUMBERS), NAMES)


def test_the_network_computes_the_score(classifier: Classifier, backend: Backend) -> None:
    images = [*colored(NUMBERS, seed=1), *colored([3, 3])]
    extractor = tiny_extractor(backend=backend)
    X, test = (l2_normalize(extractor.transform(one)) for one in (colored(NUMBERS), images))
    labels = np.unique(NAMES, return_inverse=True)[1]
    expected = distances(test, fit_distance(X, labels))
    found = classifier.unknown_score(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    known, unknown = found[: len(NUMBERS)], found[len(NUMBERS) :]
    assert known.max() < unknown.min()


def test_unknown_images_get_the_given_label(classifier: Classifier) -> None:
    images = [*colored([0, 1]), *colored([3, 3])]
    found = classifier.predict(images, unknown="none of these")
    assert found.tolist() == ["red", "green", "none of these", "none of these"]
    assert found.dtype.kind == "U"
    assert classifier.predict(images, unknown=0).tolist()[2:] == [0, 0]
    assert classifier.predict(images).tolist()[:2] == ["red", "green"]
    # With a share of 0 nearly everything is unknown.
    strict = classifier.predict(colored(NUMBERS), unknown="?", known_share=0.05)
    assert np.mean(strict == "?") > 0.5


def test_images_that_cannot_be_read_are_not_unknown(classifier: Classifier, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = [*colored([0]), broken, *colored([3])]
    with pytest.warns(UserWarning, match=r"broken\.jpg"):
        found = classifier.predict(images, unknown="?", on_error="skip")
    assert found.tolist() == ["red", None, "?"]
    with pytest.warns(UserWarning, match=r"broken\.jpg"):
        scores = classifier.unknown_score(images, on_error="skip")
    assert np.isnan(scores).tolist() == [False, True, False]
    with pytest.warns(UserWarning, match=r"broken\.jpg"):
        assert np.isnan(classifier.unknown_score([broken], on_error="skip")).all()


def test_invalid_arguments_are_rejected(classifier: Classifier) -> None:
    with pytest.raises(ParameterError, match="unknown is 'red', which is one of the classes"):
        classifier.predict(colored([0]), unknown="red")
    for share in (0, -1, 1.5, "half"):
        with pytest.raises(ParameterError, match="known_share is"):
            classifier.unknown_threshold(share)  # type: ignore[arg-type]


def test_a_saved_classifier_has_the_same_scores(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "colors.safetensors")
    loaded = Classifier.load(tmp_path / "colors.safetensors", backend=classifier.backend)
    images = colored([0, 3])
    np.testing.assert_array_equal(loaded.unknown_score(images), classifier.unknown_score(images))
    assert loaded.unknown_threshold(0.9) == classifier.unknown_threshold(0.9)
    assert loaded.temperature_ == classifier.temperature_


@pytest.mark.parametrize("images", [4, 5])
def test_a_replaced_score_may_have_another_number_of_axes(
    classifier: Classifier, tmp_path: Path, images: int
) -> None:
    """As after a fine-tuning on fewer or more images."""
    X = l2_normalize(tiny_extractor(backend=classifier.backend).transform(colored(NUMBERS)))
    labels = np.unique(NAMES, return_inverse=True)[1]
    weights = fit_distance(X[:images], labels[:images])
    assert len(weights.axes) != len(classifier.model_.weights["unknown.axes"])
    other = copy.copy(classifier)
    other.model_ = with_unknown_score(classifier.model_, weights)
    other.save(tmp_path / "other.safetensors")
    loaded = Classifier.load(tmp_path / "other.safetensors", backend=classifier.backend)
    expected = distances(X, weights)
    np.testing.assert_allclose(
        loaded.unknown_score(colored(NUMBERS)), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("labels", "unknown", "kind"),
    [
        (NUMBERS, -1, "i"),
        (np.array(NUMBERS, np.uint8), np.int64(-1), "i"),
        (NUMBERS, "?", "O"),
        (NUMBERS, -1.5, "O"),
        ([0.5 * number for number in NUMBERS], -1, "f"),
    ],
)
def test_an_unknown_label_of_the_same_type_keeps_the_type(
    backend: Backend, labels: Labels, unknown: Hashable, kind: str
) -> None:
    found = tiny_classifier(backend=backend, C=10.0).fit(colored(NUMBERS), labels)
    predicted = found.predict([*colored([0]), *colored([3])], unknown=unknown)
    assert predicted.dtype.kind == kind
    assert predicted.tolist() == [np.asarray(labels)[0].item(), unknown]


def test_parity_of_scores(backend_pair: tuple[Backend, Backend]) -> None:
    found = [
        tiny_classifier(backend=backend, C=10.0).fit(colored(NUMBERS), NAMES)
        for backend in backend_pair
    ]
    scores = [one.unknown_score(colored([0, 1, 3, 3])) for one in found]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3)
    np.testing.assert_allclose(found[0].temperature_, found[1].temperature_, rtol=1e-3)


def test_classifiers_without_a_score_say_so(backend: Backend) -> None:
    message = "no score of unknown images.*fit it again"
    with pytest.raises(UnsupportedError, match=message):
        Classifier.pretrained(backend=backend).unknown_score(noise(1))
    # A class with one image has no held-out images.
    single = tiny_classifier(backend=backend, C=1.0).fit(colored([0, 1, 1]), ["a", "b", "b"])
    assert single.temperature_ == 1
    with pytest.raises(UnsupportedError, match=message):
        single.predict(colored([0]), unknown="?")
    assert single.predict(colored([0])).tolist()[0] in {"a", "b"}


class Set(NamedTuple):
    train: npt.NDArray[np.float32]
    labels: npt.NDArray[np.intp]
    test: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.intp]


SETS = ["cats_dogs", "pets", "trashnet", "textures", "characters"]


@pytest.fixture(scope="module")
def sets(data_folder: Path) -> dict[str, Set]:
    extractor = FeatureExtractor("mobilenet_v2", backend="onnxruntime", batch_size=32)
    found = {}
    for name in SETS:
        parts = []
        for part in ("train", "test"):
            paths, labels = list_labeled_images(data_folder / name / part, on_error="skip")
            embeddings = l2_normalize(extractor.transform(paths))
            parts += [embeddings, np.unique(labels, return_inverse=True)[1]]
        found[name] = Set(*parts)
    return found


@pytest.mark.parametrize("name", SETS)
def test_at_most_5_percent_of_known_photos_are_rejected(sets: dict[str, Set], name: str) -> None:
    one = sets[name]
    known = held_out_scores(one.train, one.labels, seed=0)
    scores = distances(one.test, fit_distance(one.train, one.labels))
    rejected = (scores > known.threshold(0.98)).mean()
    print(f"\n{name}: {rejected:.4f} rejected", end="")  # noqa: T201
    assert rejected <= 0.05


@pytest.mark.parametrize(("known", "unknown"), [("trashnet", "pets"), ("cats_dogs", "textures")])
def test_other_photos_are_told_from_known_ones(
    sets: dict[str, Set], known: str, unknown: str
) -> None:
    weights = fit_distance(sets[known].train, sets[known].labels)
    scores = [distances(sets[name].test, weights) for name in (known, unknown)]
    area = roc_auc_score(np.repeat([0, 1], [len(one) for one in scores]), np.concatenate(scores))
    print(f"\n{unknown} against {known}: AUROC {area:.4f}", end="")  # noqa: T201
    assert area >= 0.95


@pytest.mark.parametrize("name", SETS)
def test_calibration_on_photos(sets: dict[str, Set], name: str) -> None:
    one = sets[name]
    head = fit_head(one.train, one.labels, C=None, seed=0)
    logits = one.test @ head.weight.T + head.bias
    classes = np.arange(len(head.bias))
    losses = [
        log_loss(one.test_labels, softmax(logits / temperature), labels=classes)
        for temperature in (1.0, head.temperature)
    ]
    sources = [""] * len(logits)
    probabilities = softmax(logits / head.temperature)
    evaluation = Evaluation(classes, one.test_labels, probabilities, sources, [])
    calibration = evaluation.calibration
    print(  # noqa: T201
        f"\n{name}: temperature {head.temperature:.3f}, log loss {losses[0]:.4f} -> "
        f"{losses[1]:.4f}, ECE {calibration.ece:.4f}, by chance {calibration.ece_by_chance:.4f}",
        end="",
    )
    assert losses[1] <= losses[0]
    # A few images in each bin are classified correctly by chance more or less often.
    assert calibration.excess <= 0.05
    assert dataclasses.replace(calibration, ece=0.0).excess == 0
