"""`Classifier` with a cache: the same results, and each image goes through the network once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from counting_backend import CountingBackend
from samples import DEMO, NETWORK, colored, tiny_classifier, tiny_extractor
from sklearn.model_selection import GridSearchCV, cross_validate

from transferkit import Classifier, FeatureCache
from transferkit.backends import Program
from transferkit.classification import cached_fits
from transferkit.classification.cached_fits import CachedFits
from transferkit.classification.head_programs import find_embedding
from transferkit.features.cache import FITS
from transferkit.networks import INPUT, NetworkBuilder

Floats = npt.NDArray[np.float32]

LABELS = np.array([0, 1, 2, 3] * 12)
IMAGES = colored(LABELS, spread=120)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which no network may run."""

    def fail(*_: object) -> Mapping[str, Floats]:
        raise AssertionError("a network runs")

    return lambda: monkeypatch.setattr(Program, "run", fail)


def test_results_are_those_without_a_cache(tmp_path: Path) -> None:
    plain = tiny_classifier().fit(IMAGES, LABELS)
    test = colored(LABELS, seed=1, spread=120)
    for _ in range(2):
        cached = tiny_classifier(cache=tmp_path).fit(IMAGES, LABELS)
        assert (cached.C_, cached.cv_accuracy_) == (plain.C_, plain.cv_accuracy_)
        assert cached.temperature_ == pytest.approx(plain.temperature_)
        assert cached.unknown_threshold() == pytest.approx(plain.unknown_threshold(), rel=1e-4)
        for name, weight in plain.model_.weights.items():
            np.testing.assert_allclose(cached.model_.weights[name], weight, rtol=1e-3, atol=1e-4)
        for method in ("decision_function", "predict_proba", "unknown_score"):
            expected = getattr(plain, method)(test)
            np.testing.assert_allclose(
                getattr(cached, method)(test), expected, rtol=1e-4, atol=1e-5
            )
        assert cached.predict(test).tolist() == plain.predict(test).tolist()
        assert cached.score(test, LABELS) == plain.score(test, LABELS)
        evaluation, expected = cached.evaluate(test, LABELS), plain.evaluate(test, LABELS)
        assert evaluation.sources == expected.sources
        np.testing.assert_allclose(evaluation.probabilities, expected.probabilities, atol=1e-5)


def test_everything_after_the_first_fit_is_without_the_network(
    tmp_path: Path, no_network: Callable[[], None]
) -> None:
    first = tiny_classifier(cache=tmp_path).fit(IMAGES, LABELS)
    no_network()
    second = tiny_classifier(cache=tmp_path, C=3.0).fit(IMAGES, LABELS)
    third = tiny_classifier(cache=tmp_path).fit(IMAGES[:24], LABELS[:24])
    for classifier in (first, second, third):
        classifier.predict(IMAGES)
        classifier.score(IMAGES, LABELS)
        classifier.evaluate(IMAGES, LABELS)
        classifier.unknown_score(IMAGES)
    file = tmp_path / "classifier.safetensors"
    first.save(file)
    loaded = Classifier.load(file, cache=tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(IMAGES), first.predict_proba(IMAGES))
    tiny_extractor(cache=tmp_path).transform(IMAGES)


@pytest.mark.parametrize("layer", ["conv2", "relu1"])
def test_feature_maps_are_cached(
    tmp_path: Path, layer: str, no_network: Callable[[], None]
) -> None:
    plain = tiny_classifier(layer=layer, C=1.0).fit(IMAGES, LABELS)
    expected = plain.predict_proba(IMAGES)
    tiny_classifier(layer=layer, C=1.0, cache=tmp_path).fit(IMAGES, LABELS)
    no_network()
    cached = tiny_classifier(layer=layer, C=1.0, cache=tmp_path).fit(IMAGES, LABELS)
    np.testing.assert_allclose(cached.predict_proba(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_images_that_cannot_be_read_are_skipped(tmp_path: Path) -> None:
    classifier = tiny_classifier(cache=tmp_path)
    for _ in range(2):
        classifier.fit([*IMAGES, b"x"], [*LABELS, 0], on_error="skip")
        assert [skip.source for skip in classifier.skipped_] == [f"images[{len(IMAGES)}]"]
        with pytest.warns(UserWarning, match="no prediction for 1 of 2 images"):
            probabilities = classifier.predict_proba([IMAGES[0], b"x"], on_error="skip")
        assert np.isnan(probabilities[:, 0]).tolist() == [False, True]
        with pytest.warns(UserWarning, match="no prediction for 1 of 1 images"):
            assert classifier.predict([b"x"], on_error="skip").tolist() == [None]


def test_a_pretrained_classifier_uses_the_embedding(
    tmp_path: Path, no_network: Callable[[], None]
) -> None:
    images = [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 200)]
    expected = Classifier.pretrained(backend="onnxruntime").predict_proba(images)
    classifier = Classifier.pretrained(backend="onnxruntime", cache=tmp_path)
    np.testing.assert_allclose(classifier.predict_proba(images), expected, rtol=1e-4, atol=1e-7)
    no_network()
    np.testing.assert_allclose(classifier.predict_proba(images), expected, rtol=1e-4, atol=1e-7)


def test_logits_that_do_not_only_depend_on_the_embedding_are_not_cut() -> None:
    builder = NetworkBuilder("two paths", input_size=8)
    x = builder.add_node("pooled", "mean", INPUT, axes=(1, 2))
    builder.alias("embedding", x)
    y = builder.add_node("highest", "max", INPUT, axes=(1, 2))
    builder.add_node("logits", "add", x, y)
    assert find_embedding(builder.build()) is None
    assert find_embedding(NETWORK) == "pooled"


# ---- searches -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_grid_search_runs_the_network_once_for_each_image(tmp_path: Path, n_jobs: int) -> None:
    backend = CountingBackend(tmp_path / "runs")
    classifier = tiny_classifier(backend=backend, cache=tmp_path / "cache")
    search = GridSearchCV(
        classifier, {"C": [0.1, 1.0, 10.0, 100.0]}, cv=3, n_jobs=n_jobs, error_score="raise"
    )
    search.fit(IMAGES, LABELS)
    assert backend.count() == len(IMAGES)
    plain = GridSearchCV(tiny_classifier(), {"C": [0.1, 1.0, 10.0, 100.0]}, cv=3)
    plain.fit(IMAGES, LABELS)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


def test_a_cross_validation_runs_the_network_once_for_each_image(tmp_path: Path) -> None:
    backend = CountingBackend(tmp_path / "runs")
    classifier = tiny_classifier(backend=backend, cache=tmp_path / "cache", C=1.0)
    cross_validate(classifier, IMAGES, LABELS, cv=3, return_train_score=True, error_score="raise")
    assert backend.count() == len(IMAGES)


# ---- fits -----------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> Any:
    raise AssertionError("fitted again")


def embeddings(seed: int = 0, number: int = 24) -> tuple[Floats, npt.NDArray[np.intp]]:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(number, 8)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True), np.arange(number) % 3


def test_a_fit_is_returned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = embeddings()
    fits = CachedFits(FeatureCache(tmp_path))
    head, score = fits.head(X, y, C=None, seed=1), fits.unknown_score(X, y, seed=1)
    for name in ("fit_head", "fit_distance", "held_out_scores"):
        monkeypatch.setattr(cached_fits, name, fail)
    again = fits.head(X.copy(), y.copy(), C=None, seed=1)
    assert again[2:] == head[2:]
    for one, other in zip(again[:2], head[:2], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    weights, known = fits.unknown_score(X, y, seed=1)
    assert known == score[1]
    for one, other in zip(weights, score[0], strict=True):
        np.testing.assert_array_equal(one, other)


CHANGES: Sequence[Callable[[dict[str, Any]], None]] = (
    lambda given: given.update(embeddings=np.nextafter(given["embeddings"], np.float32(2))),
    lambda given: given.update(labels=given["labels"][::-1].copy()),
    lambda given: given.update(C=2.0),
    lambda given: given.update(C=None),
    lambda given: given.update(sample_weight=np.full(24, 1.0)),
    lambda given: given.update(sample_weight=np.full(24, 2.0)),
)


def test_other_fits_are_not_returned() -> None:
    X, y = embeddings()
    fits = CachedFits(FeatureCache("x"))
    paths = set()
    for change in (lambda _: None, *CHANGES):
        chosen: dict[str, Any] = {"embeddings": X, "labels": y, "C": 1.0, "sample_weight": None}
        change(chosen)
        settings = {"C": chosen.pop("C")}
        paths.add(fits._path("head", **chosen, settings=settings))
    assert len(paths) == len(CHANGES) + 1


def test_a_damaged_fit_is_repeated(tmp_path: Path) -> None:
    X, y = embeddings()
    fits = CachedFits(FeatureCache(tmp_path))
    head = fits.head(X, y, C=1.0, seed=0)
    (path,) = (tmp_path / FITS).iterdir()
    content = path.read_bytes()
    for damaged in (content[:-10], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(fits.head(X, y, C=1.0, seed=0).weight, head.weight)
        assert path.read_bytes() == content


def test_fits_count_to_the_size_of_the_cache_and_are_cleared(tmp_path: Path) -> None:
    X, y = embeddings()
    cache = FeatureCache(tmp_path)
    CachedFits(cache).head(X, y, C=1.0, seed=0)
    assert cache.size() > 0
    small = FeatureCache(tmp_path, max_bytes=1)
    CachedFits(small).head(X, y, C=2.0, seed=0)
    assert cache.size() == 0
    CachedFits(cache).head(X, y, C=1.0, seed=0)
    cache.clear()
    assert list(tmp_path.iterdir()) == []


def test_without_a_usable_folder_fits_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    X, y = embeddings()
    for cache in (None, FeatureCache(tmp_path / "file" / "cache")):
        fits = CachedFits(cache)
        first, second = (fits.head(X, y, C=1.0, seed=0) for _ in range(2))
        np.testing.assert_array_equal(first.weight, second.weight)


def test_features_in_int8_are_not_those_in_float32(tmp_path: Path) -> None:
    # Without the ranges of the layers after it, of which the fitted classifier has none.
    settings: dict[str, Any] = {"C": 1.0, "precision": "int8", "layer": "features.14"}
    plain = Classifier(backend="onnxruntime", **settings).fit(DEMO / "train")
    expected = plain.predict_proba(DEMO / "train")
    Classifier(C=1.0, layer="features.14", backend="onnxruntime", cache=tmp_path).fit(
        DEMO / "train"
    )
    backend = CountingBackend(tmp_path / "runs")
    cached = Classifier(backend=backend, cache=tmp_path, **settings).fit(DEMO / "train")
    computed = backend.count()
    # On the images of the calibration, in float32, and on all 24.
    assert computed == 2 * 24
    np.testing.assert_allclose(cached.predict_proba(DEMO / "train"), expected, rtol=1e-4, atol=1e-5)
    assert backend.count() == computed
