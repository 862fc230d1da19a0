"""`Classifier` as a classifier of scikit-learn, and weights of images and classes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn
from samples import (
    DEMO,
    NETWORK,
    WEIGHTS,
    colored,
    noise,
    tiny_classifier,
    tiny_extractor,
    tiny_network,
)
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from transferkit import Classifier, list_labeled_images
from transferkit.errors import DatasetError, ParameterError
from transferkit.support.numerics import l2_normalize, softmax
from transferkit.testing.strategies import random_weights_and_statistics

Weights = npt.NDArray[np.float64]

LABELS = np.array([0, 1, 2] * 5)
IMAGES = colored(LABELS, spread=200)


def regression(images: list[Any], labels: Any, **parameters: Any) -> LogisticRegression:
    """Fit scikit-learn's logistic regression to normalized embeddings."""
    parameters = {"C": 20.0, "tol": 1e-9, "max_iter": 10_000, "solver": "newton-cg", **parameters}
    sample_weight = parameters.pop("sample_weight", None)
    return LogisticRegression(**parameters).fit(unit(images), labels, sample_weight)


def unit(images: list[Any]) -> Weights:
    return l2_normalize(tiny_extractor().transform(images)).astype(np.float64)


def coefficients(classifier: Classifier) -> tuple[Weights, Weights]:
    """Return weights and biases as scikit-learn has them: one row for two classes."""
    weights = classifier.model_.weights
    weight, bias = (weights[name].astype(np.float64) for name in ("head.weight", "head.bias"))
    if len(bias) == 2:
        return weight[1:] - weight[:1], bias[1:] - bias[:1]
    return weight, bias


def assert_same_fit(classifier: Classifier, expected: LogisticRegression) -> None:
    weight, bias = coefficients(classifier)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-3 * scale)
    # A constant that is added to all biases changes no probability.
    if len(bias) > 1:
        bias = bias - bias.mean() + expected.intercept_.mean()
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-3 * scale)
    images = noise(10)
    np.testing.assert_allclose(
        classifier.predict_proba(images), expected.predict_proba(unit(images)), atol=1e-4
    )


# ---- decision_function ----------------------------------------------------------------------


@pytest.mark.parametrize("C", [20.0, None])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_decision_function_agrees_with_probabilities_and_predictions(
    classes: int, C: float | None
) -> None:
    labels = np.arange(classes).repeat(5)
    classifier = tiny_classifier(C=C).fit(colored(labels, spread=200), labels)
    images = colored(labels, seed=1, spread=250)
    decisions = classifier.decision_function(images)
    probabilities = classifier.predict_proba(images)
    predicted = classifier.predict(images)
    assert decisions.dtype == np.float32
    if classes == 2:
        assert decisions.shape == (10,)
        np.testing.assert_array_equal(predicted, classifier.classes_[(decisions > 0).astype(int)])
        expected = 1 / (1 + np.exp(-decisions.astype(np.float64)))
        np.testing.assert_allclose(probabilities[:, 1], expected, atol=1e-6)
    else:
        assert decisions.shape == (5 * classes, classes)
        np.testing.assert_array_equal(predicted, classifier.classes_[decisions.argmax(axis=1)])
        np.testing.assert_allclose(probabilities, softmax(decisions), atol=1e-6)
    assert len(set(predicted.tolist())) > 1


def test_the_decision_function_of_two_classes_is_that_of_scikit_learn() -> None:
    labels = LABELS % 2
    classifier = tiny_classifier(C=20.0).fit(IMAGES, labels)
    expected = regression(IMAGES, labels).decision_function(unit(IMAGES))
    np.testing.assert_allclose(classifier.decision_function(IMAGES), expected, atol=1e-2)


# ---- class_weight and sample_weight ---------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 4.0, 1: 0.5}, {1: 3}])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_weights_are_those_of_scikit_learn(classes: int, class_weight: Any, weighted: bool) -> None:
    """An image of weight k counts as k images, also where classes are balanced."""
    labels = np.array([0, 0, 0, 1, 1, 0, 1, 0, 2, 2, 0, 1, 2, 0, 0]) % classes
    counts = np.random.default_rng(0).integers(0, 4, len(labels)) if weighted else None
    classifier = tiny_classifier(C=20.0, class_weight=class_weight)
    classifier.fit(IMAGES, labels, sample_weight=counts)
    rows = np.arange(len(labels)) if counts is None else np.repeat(np.arange(len(labels)), counts)
    repeated = [IMAGES[row] for row in rows]
    assert_same_fit(classifier, regression(repeated, labels[rows], class_weight=class_weight))
    again = tiny_classifier(C=20.0, class_weight=class_weight).fit(repeated, labels[rows])
    np.testing.assert_allclose(
        again.predict_proba(IMAGES), classifier.predict_proba(IMAGES), atol=1e-4
    )
    plain = tiny_classifier(C=20.0).fit(IMAGES, labels).predict_proba(IMAGES)
    if class_weight is not None or weighted:
        assert np.abs(plain - classifier.predict_proba(IMAGES)).max() > 0.01


def test_fractional_weights_are_those_of_scikit_learn() -> None:
    weight = np.random.default_rng(0).random(15) * 3
    classifier = tiny_classifier(C=20.0).fit(IMAGES, LABELS, sample_weight=weight.tolist())
    assert_same_fit(classifier, regression(IMAGES, LABELS, sample_weight=weight))


@pytest.mark.parametrize("C", [None, 20.0])
def test_an_image_of_weight_0_is_left_out(C: float | None) -> None:
    weight = np.ones(15)
    weight[[0, 4, 5, 9]] = 0
    kept = np.flatnonzero(weight)
    weighted = tiny_classifier(C=C).fit(IMAGES, LABELS, sample_weight=weight)
    expected = tiny_classifier(C=C).fit([IMAGES[row] for row in kept], LABELS[kept])
    assert weighted.C_ == expected.C_
    np.testing.assert_allclose(
        weighted.predict_proba(IMAGES), expected.predict_proba(IMAGES), atol=1e-5
    )


def test_a_class_of_weight_0_is_left_out() -> None:
    by_image = tiny_classifier(C=20.0).fit(IMAGES, LABELS, sample_weight=LABELS != 1)
    by_class = tiny_classifier(C=20.0, class_weight={1: 0}).fit(IMAGES, LABELS)
    for classifier in (by_image, by_class):
        assert classifier.classes_.tolist() == [0, 2]
        assert classifier.model_.labels == (0, 2)
    np.testing.assert_array_equal(by_image.predict_proba(IMAGES), by_class.predict_proba(IMAGES))


def test_weights_belong_to_their_images_if_others_are_skipped() -> None:
    images: list[Any] = [*IMAGES[:3], "missing.png", *IMAGES[3:]]
    labels = [*LABELS[:3], 0, *LABELS[3:]]
    weight = np.arange(1.0, 16)
    skipping = tiny_classifier(C=20.0, class_weight="balanced").fit(
        images, labels, sample_weight=[*weight[:3], 100.0, *weight[3:]], on_error="skip"
    )
    expected = tiny_classifier(C=20.0, class_weight="balanced").fit(
        IMAGES, LABELS, sample_weight=weight
    )
    np.testing.assert_allclose(
        skipping.predict_proba(IMAGES), expected.predict_proba(IMAGES), atol=1e-6
    )


def test_weights_are_not_changed() -> None:
    weight, class_weight = np.arange(15.0), {0: 2.0}
    tiny_classifier(C=1.0, class_weight=class_weight).fit(IMAGES, LABELS, sample_weight=weight)
    assert weight.tolist() == list(range(15))
    assert class_weight == {0: 2.0}


def test_weights_of_labels_of_any_type() -> None:
    for labels, class_weight in (
        (["a", "b", "c"], {"a": 5.0}),
        (np.array(["a", "b", "c"], object), {np.str_("a"): 5.0}),
        ([0.5, 1.5, 2.5], {0.5: 5.0}),
        ([False, True, True], {False: 5.0}),
    ):
        many = np.asarray(labels)[LABELS]
        classifier = tiny_classifier(C=20.0, class_weight=class_weight).fit(IMAGES, many)
        expected = tiny_classifier(C=20.0).fit(
            IMAGES, many, sample_weight=np.where(LABELS == 0, 5.0, 1.0)
        )
        np.testing.assert_array_equal(
            classifier.predict_proba(IMAGES), expected.predict_proba(IMAGES)
        )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(14), r"sample_weight has shape \(14,\); expected \(15,\)"),
        (np.ones(16), r"sample_weight has shape \(16,\)"),
        (np.ones((15, 1)), r"sample_weight has shape \(15, 1\)"),
        (1.0, r"sample_weight has shape \(\)"),
        ([1.0] * 14 + [-1.0], r"sample_weight\[14\] is -1.0; expected a finite number of at"),
        ([1.0, np.nan] + [1.0] * 13, r"sample_weight\[1\] is nan"),
        ([np.inf] * 15, r"sample_weight\[0\] is inf"),
        (["heavy"] * 15, "expected an array of numbers"),
        (np.zeros(15), "sample_weight is zero for all images"),
    ],
)
def test_invalid_sample_weights_are_rejected(weight: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tiny_classifier().fit(IMAGES, LABELS, sample_weight=weight)
    with pytest.raises(ParameterError, match=message):
        tiny_classifier().fit(iter(IMAGES), LABELS, sample_weight=weight)
    fitted = tiny_classifier(C=1.0).fit(IMAGES, LABELS)
    with pytest.raises(ParameterError, match=message):
        fitted.score(IMAGES, LABELS, sample_weight=weight)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"red": 2.0}, "class_weight has unknown labels: 'red'; y has 0, 1, 2"),
        ({0: 1.0, 3: 2.0}, "class_weight has unknown labels: 3"),
        ({0: -1.0}, r"class_weight\[0\] is -1.0; expected a finite number of at least 0"),
        ({0: np.nan}, r"class_weight\[0\] is nan"),
        ({0: "2"}, r"class_weight\[0\] is '2'"),
        ("balance", "class_weight is 'balance'; expected a mapping"),
        ([1.0, 2.0, 1.0], "class_weight is .*; expected a mapping"),
    ],
)
def test_invalid_class_weights_are_rejected(class_weight: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tiny_classifier(class_weight=class_weight).fit(IMAGES, LABELS)


def test_too_few_images_of_positive_weight_are_rejected() -> None:
    with pytest.raises(DatasetError, match="only one class among the images of a weight greater"):
        tiny_classifier().fit(IMAGES, LABELS, sample_weight=LABELS == 0)
    weight = np.ones(15)
    weight[:12] = LABELS[:12] != 2
    with pytest.raises(DatasetError, match="only one image of a weight greater than 0: 2"):
        tiny_classifier().fit(IMAGES, LABELS, sample_weight=weight)
    with pytest.raises(DatasetError, match="no images of a weight greater than 0"):
        tiny_classifier(class_weight={0: 0, 1: 0, 2: 0}).fit(IMAGES, LABELS)


# ---- with other estimators ------------------------------------------------------------------


def test_images_and_labels_can_be_passed_by_keyword() -> None:
    classifier = tiny_classifier(C=100.0).fit(X=IMAGES, y=LABELS, sample_weight=np.ones(15))
    expected = classifier.predict(IMAGES)
    np.testing.assert_array_equal(classifier.predict(X=IMAGES), expected)
    assert classifier.predict_proba(X=IMAGES).shape == (15, 3)
    assert classifier.decision_function(X=IMAGES).shape == (15, 3)
    assert len(classifier.predict_top(X=IMAGES, k=2)) == 15
    score = np.mean(expected == LABELS)
    assert classifier.score(X=IMAGES, y=LABELS, sample_weight=np.ones(15)) == score
    assert classifier.evaluate(X=IMAGES, y=LABELS).accuracy == score


def test_cross_validation() -> None:
    images = colored(LABELS)
    classifier = tiny_classifier(C=100.0)
    assert cross_val_score(classifier, images, LABELS, cv=3).tolist() == [1.0] * 3
    assert cross_val_score(classifier, np.stack(images), LABELS, cv=3).tolist() == [1.0] * 3
    found = cross_validate(
        classifier,
        images,
        LABELS,
        cv=3,
        scoring=["accuracy", "neg_log_loss", "roc_auc_ovr", "balanced_accuracy"],
        return_train_score=True,
        return_estimator=True,
    )
    assert found["test_accuracy"].tolist() == [1.0] * 3
    assert found["test_roc_auc_ovr"].tolist() == [1.0] * 3
    assert np.isfinite(found["test_neg_log_loss"]).all()
    assert [fitted.C_ for fitted in found["estimator"]] == [100.0] * 3
    for method in ("predict_proba", "decision_function"):
        assert cross_val_predict(classifier, images, LABELS, cv=3, method=method).shape == (15, 3)


def test_cross_validation_in_processes() -> None:
    scores = cross_val_score(tiny_classifier(C=100.0), colored(LABELS), LABELS, cv=3, n_jobs=2)
    assert scores.tolist() == [1.0] * 3


def test_grid_search() -> None:
    search = GridSearchCV(tiny_classifier(), {"C": [1e-4, 100.0]}, cv=3).fit(IMAGES, LABELS)
    assert search.best_params_ == {"C": 100.0}
    assert search.best_estimator_.C_ == 100.0
    assert search.predict(IMAGES).shape == (15,)
    assert search.decision_function(IMAGES).shape == (15, 3)
    weights = {"class_weight": [None, "balanced", {0: 2.0}], "random_state": [0, 1]}
    search = GridSearchCV(tiny_classifier(), weights, cv=3, error_score="raise")
    assert len(search.fit(IMAGES, LABELS).cv_results_["params"]) == 6
    narrow = tiny_network(width=2)
    networks = [
        {"network": [NETWORK], "weights": [WEIGHTS]},
        {"network": [narrow], "weights": [random_weights_and_statistics(narrow, seed=0)]},
    ]
    search = GridSearchCV(tiny_classifier(C=100.0), networks, cv=3).fit(IMAGES, LABELS)
    assert len(search.cv_results_["params"]) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_grid_search_over_a_network_of_the_catalog() -> None:
    search = GridSearchCV(
        Classifier(backend="onnxruntime"), {"network": ["mobilenet_v2"], "C": [1.0, 30.0]}, cv=2
    ).fit(*list_labeled_images(DEMO / "train"))
    assert search.best_score_ > 0.9


def test_the_best_classifier_of_a_search_can_be_saved(tmp_path: Path) -> None:
    search = GridSearchCV(tiny_classifier(), {"C": np.array([1, 10])}, cv=2)
    best = search.fit(colored([0, 1] * 4), [0, 1] * 4).best_estimator_
    best.save(tmp_path / "saved.safetensors")
    assert Classifier.load(tmp_path / "saved.safetensors").C_ == best.C_


@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration(ensemble: bool) -> None:
    calibrated = CalibratedClassifierCV(tiny_classifier(C=100.0), cv=3, ensemble=ensemble)
    calibrated.fit(IMAGES, LABELS, sample_weight=np.arange(1.0, 16))
    probabilities = calibrated.predict_proba(IMAGES)
    assert probabilities.shape == (15, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    two = CalibratedClassifierCV(tiny_classifier(C=100.0), cv=2, ensemble=ensemble)
    assert two.fit(IMAGES, LABELS % 2).predict_proba(IMAGES).shape == (15, 2)


def test_learning_curve() -> None:
    images, labels = colored(LABELS.tolist() * 2), np.tile(LABELS, 2)
    sizes, train, test = learning_curve(
        tiny_classifier(C=100.0), images, labels, train_sizes=[12, 20], cv=3, shuffle=True,
        random_state=0, error_score="raise",
    )  # fmt: skip
    assert sizes.tolist() == [12, 20]
    assert train.shape == test.shape == (2, 3)
    assert (test[1] == 1.0).all()


def test_permutation_test() -> None:
    score, permuted, p_value = permutation_test_score(
        tiny_classifier(C=100.0), colored(LABELS), LABELS, cv=3, n_permutations=9, random_state=0
    )
    assert score == 1.0
    assert permuted.shape == (9,)
    assert permuted.max() < 1.0
    assert p_value == pytest.approx(0.1)


@pytest.mark.parametrize("C", [20.0, None])
def test_sample_weights_are_routed(C: float | None) -> None:
    weight = np.where(LABELS == 2, 1e-6, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = tiny_classifier(C=C).set_fit_request(sample_weight=True)
        classifier.set_score_request(sample_weight=True)
        expected = clone(classifier).fit(IMAGES, LABELS, sample_weight=weight)
        for estimator in (
            make_pipeline(classifier),
            GridSearchCV(classifier, {"C": [20.0]}, cv=2),
            CalibratedClassifierCV(clone(classifier), cv=2, ensemble=False),
        ):
            fitted = clone(estimator).fit(IMAGES, LABELS, sample_weight=weight)
            # Class 2 counts for almost nothing.
            assert not (fitted.predict(IMAGES) == 2).any()
        np.testing.assert_array_equal(
            make_pipeline(classifier)
            .fit(IMAGES, LABELS, sample_weight=weight)
            .predict_proba(IMAGES),
            expected.predict_proba(IMAGES),
        )
        found = cross_validate(
            classifier, IMAGES, LABELS, cv=2, params={"sample_weight": weight}, error_score="raise"
        )
        # Class 2, which is never predicted, hardly counts in the scores either.
        unweighted = cross_validate(
            clone(classifier).set_score_request(sample_weight=False),
            IMAGES,
            LABELS,
            cv=2,
            params={"sample_weight": weight},
            error_score="raise",
        )
        assert (found["test_score"] > unweighted["test_score"] + 0.1).all()


def test_on_error_is_routed() -> None:
    images: list[Any] = [*colored(LABELS), "missing.png"]
    labels = np.append(LABELS, 0)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = tiny_classifier(C=20.0).set_fit_request(on_error=True)
        pipeline = make_pipeline(classifier).fit(images, labels, on_error="skip")
        assert [skipped.source for skipped in pipeline[-1].skipped_] == ["missing.png"]
        search = GridSearchCV(classifier, {"C": [20.0]}, cv=2, scoring=lambda *_: 1.0)
        search.fit(images, labels, on_error="skip")
        assert len(search.best_estimator_.skipped_) == 1
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="on_error"):
            make_pipeline(tiny_classifier()).fit(images, labels, on_error="skip")


# ---- copies ---------------------------------------------------------------------------------


def test_parameters_are_read_and_set() -> None:
    classifier = tiny_classifier(C=20.0, class_weight="balanced")
    assert set(classifier.get_params()) == {
        "network", "C", "class_weight", "weights", "backend", "device", "layer", "preprocessing",
        "batch_size", "initialization", "random_state", "progress", "fine_tuning", "precision",
        "cache",
    }  # fmt: skip
    cloned = clone(classifier)
    assert (cloned.C, cloned.class_weight) == (20.0, "balanced")
    assert cloned.set_params(C=2.0) is cloned
    assert classifier.C == 20.0
    with pytest.raises(ValueError, match="'seed'"):
        cloned.set_params(seed=1)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"]
)
def test_a_fitted_classifier_is_copied(copied: Callable[[Classifier], Classifier]) -> None:
    classifier = tiny_classifier(C=20.0).fit(IMAGES, LABELS)
    expected = classifier.predict_proba(IMAGES)
    other = copied(classifier)
    np.testing.assert_array_equal(other.predict_proba(IMAGES), expected)
    assert other.model_.labels == classifier.model_.labels
    assert other.C_ == 20.0


def test_a_classifier_of_a_fitted_model_has_the_same_embedding() -> None:
    first = tiny_classifier(C=20.0).fit(IMAGES, LABELS)
    images = colored([3, 4] * 4)
    again = Classifier(first.model_, C=20.0).fit(images, ["straw", "sea"] * 4)
    expected = tiny_classifier(C=20.0).fit(images, ["straw", "sea"] * 4)
    np.testing.assert_allclose(
        again.predict_proba(images), expected.predict_proba(images), atol=1e-6
    )
    assert again.model_.labels == ("sea", "straw")
    assert first.model_.labels == (0, 1, 2)


def test_representations_are_short() -> None:
    classifier = tiny_classifier(C=20.0).fit(IMAGES, LABELS)
    assert repr(classifier.model_) == "<Model tiny for 3 classes: 16 weights, 3 labels>"
    assert "Classifier" in classifier._repr_html_()


# ---- tags -----------------------------------------------------------------------------------


def test_tags_describe_the_classifier() -> None:
    tags = get_tags(Classifier())
    assert is_classifier(Classifier())
    assert tags.estimator_type == "classifier"
    assert tags.requires_fit
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags.array_api_support
    assert tags.classifier_tags.multi_class
    assert not tags.classifier_tags.multi_label
    assert not tags.classifier_tags.poor_score
    assert (tags.target_tags.required, tags.target_tags.one_d_labels) == (False, True)
    assert not tags.target_tags.multi_output
    assert (tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, False)
    assert tags.input_tags.string
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan


def test_weights_whose_product_overflows_are_rejected() -> None:
    classifier = tiny_classifier(C=1.0, class_weight={0: 1e308, 1: 1.0})
    with pytest.raises(ParameterError, match="too large"):
        classifier.fit(colored([0, 1]), [0, 1], sample_weight=[1e10, 1.0])
