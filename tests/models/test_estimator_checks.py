"""scikit-learn's own checks of estimators, with tables of numbers turned into images.

The checks pass tables; each row of at most 48 finite numbers becomes an image of 4 x 4 pixels,
on a network whose embedding is these pixels. Everything else is passed on as it is.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from transferkit import Classifier, FeatureExtractor, Preprocessing
from transferkit.networks import INPUT, Network, NetworkBuilder, random_weights

VALUES = 48  # of an image of 4 x 4 pixels

_NO_TABLE = "images are not a table with a fixed number of columns, so n_features_in_ is not set"
_IGNORED = "fit does nothing, so only transform rejects what is no image"
_NO_IMAGE = "the error says what an image may be, in other words than scikit-learn's for tables"
_ARRAY_API = "images are NumPy arrays; the check needs the environment variable SCIPY_ARRAY_API"

EXCLUDED_FOR_BOTH = {
    "check_n_features_in_after_fitting": _NO_TABLE,
    "check_n_features_in": _NO_TABLE,
    "check_fit2d_predict1d": _NO_IMAGE,
    "check_dtype_object": "an array of objects is a list of paths or images, not of numbers",
    "check_array_api_input": _ARRAY_API,
}

EXCLUDED_FOR_EXTRACTOR = {
    **EXCLUDED_FOR_BOTH,
    "check_complex_data": _IGNORED,
    "check_estimators_empty_data_messages": _IGNORED,
    "check_estimators_nan_inf": _IGNORED,
    "check_estimator_sparse_tag": _IGNORED,
    "check_fit1d": _IGNORED,
}

EXCLUDED_FOR_CLASSIFIER = {
    **EXCLUDED_FOR_BOTH,
    "check_complex_data": _NO_IMAGE,
    "check_estimators_empty_data_messages": "an image has no columns, so it cannot lack them",
    "check_estimators_nan_inf": _NO_IMAGE,
    "check_estimator_sparse_array": _NO_IMAGE,
    "check_estimator_sparse_matrix": _NO_IMAGE,
    "check_classifiers_regression_target": "labels may be any finite numbers",
    "check_supervised_y_2d": "labels of shape (n, 1) are rejected, not flattened with a warning",
}


def as_images(X: Any) -> Any:
    """Return an image for each row of a table of numbers; anything else as it is."""
    try:
        table = np.asarray(X)
    except ValueError:
        return X
    if table.ndim != 2 or table.dtype.kind not in "fiu" or table.shape[1] > VALUES:
        return X
    images = np.full((len(table), VALUES), 0.5, np.float32)
    images[:, : table.shape[1]] = (np.tanh(table / 2) + 1) / 2
    return list(images.reshape(-1, 4, 4, 3))


class _OfTables:
    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        # Otherwise scikit-learn runs hardly any check.
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        return tags


class ExtractorOfTables(_OfTables, FeatureExtractor):  # type: ignore[misc]
    def transform(self, X: Any) -> Any:
        return super().transform(as_images(X))


class ClassifierOfTables(_OfTables, Classifier):  # type: ignore[misc]
    def fit(
        self, X: Any, y: Any = None, *, sample_weight: Any = None, on_error: str = "raise"
    ) -> Any:
        return super().fit(as_images(X), y, sample_weight=sample_weight, on_error=on_error)

    def _outputs(self, X: Any, *arguments: Any, **options: Any) -> Any:
        return super()._outputs(as_images(X), *arguments, **options)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        return float(super().score(as_images(X), y, sample_weight))


def pixels_as_embedding() -> Network:
    builder = NetworkBuilder("pixels", input_size=4)
    x = builder.add_node("embedding", "flatten", INPUT)
    builder.linear("logits", x, VALUES, 2)
    return builder.build()


NETWORK = pixels_as_embedding()
_PARAMETERS = {
    "weights": random_weights(NETWORK, 0),
    "preprocessing": Preprocessing(NETWORK.input_size),
    "backend": "onnxruntime",
    "progress": False,
}
EXTRACTOR = ExtractorOfTables(NETWORK, **_PARAMETERS)
CLASSIFIER = ClassifierOfTables(NETWORK, C=100.0, **_PARAMETERS)

Check = Callable[[Any], None]


def name_of(check: Any) -> str:
    while hasattr(check, "func"):
        check = check.func
    return str(check.__name__)


def checks_of(estimator: Any) -> list[tuple[str, Check]]:
    return [(name_of(check), check) for _, check in estimator_checks_generator(estimator)]


CASES = [
    (estimator, check, excluded.get(name), f"{kind}-{index}-{name}")
    for kind, estimator, excluded in (
        ("extractor", EXTRACTOR, EXCLUDED_FOR_EXTRACTOR),
        ("classifier", CLASSIFIER, EXCLUDED_FOR_CLASSIFIER),
    )
    for index, (name, check) in enumerate(checks_of(estimator))
]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=name)
        for estimator, check, reason, name in CASES
        if reason is None
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_check_of_scikit_learn_passes(estimator: Any, check: Check) -> None:
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=name)
        for estimator, check, reason, name in CASES
        if reason is not None
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_excluded_check_would_fail(estimator: Any, check: Check) -> None:
    with pytest.raises((Exception, unittest.SkipTest)):
        check(estimator)


@pytest.mark.parametrize(
    ("estimator", "excluded"),
    [(EXTRACTOR, EXCLUDED_FOR_EXTRACTOR), (CLASSIFIER, EXCLUDED_FOR_CLASSIFIER)],
    ids=["extractor", "classifier"],
)
def test_excluded_checks_exist(estimator: Any, excluded: dict[str, str]) -> None:
    assert set(excluded) <= {name for name, _ in checks_of(estimator)}


@pytest.mark.parametrize("cls", [FeatureExtractor, Classifier])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_checks_of_the_classes_themselves_pass(cls: type) -> None:
    """The checks that scikit-learn runs if X is not a table."""
    names = []
    for estimator, check in estimator_checks_generator(cls()):
        names.append(name_of(check))
        check(estimator)
    assert names == ["check_estimator_cloneable"]
