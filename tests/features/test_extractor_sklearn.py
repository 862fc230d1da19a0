"""`FeatureExtractor` as a transformer of scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
from PIL import Image
from samples import NETWORK, SIDE, colored, noise, tiny_classifier, tiny_extractor, write_images
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from transferkit import FeatureExtractor, ImageOptimizer, Preprocessing
from transferkit.errors import ShapeError, UnsupportedError

LABELS = [0, 1, 2] * 4


def test_images_can_be_passed_by_keyword() -> None:
    images = noise(3)
    extractor = tiny_extractor()
    expected = extractor.transform(images)
    np.testing.assert_array_equal(extractor.transform(X=images), expected)
    np.testing.assert_array_equal(extractor.fit_transform(X=images), expected)
    np.testing.assert_array_equal(extractor.fit_transform(images, [0, 1, 0]), expected)
    np.testing.assert_array_equal(extractor.fit(X=images).transform(X=images), expected)
    np.testing.assert_array_equal(
        extractor.extract(X=images, layers=["embedding"])["embedding"], expected
    )


def test_fit_leaves_a_generator_to_transform() -> None:
    images = noise(3)
    found = tiny_extractor().fit_transform(image for image in images)
    np.testing.assert_array_equal(found, tiny_extractor().transform(images))


def test_parameters_are_read_and_set() -> None:
    extractor = tiny_extractor(backend="onnxruntime", layer="conv2")
    assert set(extractor.get_params()) == {
        "network", "weights", "backend", "device", "layer", "preprocessing", "batch_size",
        "progress", "initialization", "random_state", "precision", "cache",
    }  # fmt: skip
    extractor.transform(noise(1))
    cloned = clone(extractor)
    assert cloned is not extractor
    assert cloned.get_params()["layer"] == "conv2"
    np.testing.assert_array_equal(cloned.transform(noise(2)), extractor.transform(noise(2)))
    assert extractor.set_params(layer="embedding") is extractor
    assert extractor.transform(noise(1)).shape == (1, 6)
    with pytest.raises(ValueError, match="'size'"):
        extractor.set_params(size=224)


def test_a_clone_shares_the_model_and_its_weights() -> None:
    extractor = tiny_extractor(random_state=np.random.RandomState(0)).set_output(transform="pandas")
    cloned = clone(extractor)
    assert cloned.network is extractor.network
    assert cloned.weights is extractor.weights
    assert cloned.random_state is not extractor.random_state
    assert cloned.set_output(transform="default") is cloned
    assert extractor._sklearn_output_config == {"transform": "pandas"}
    optimizer = ImageOptimizer(extractor.model())
    assert clone(optimizer).network is optimizer.network


def test_cross_validation_does_not_copy_a_model_object() -> None:
    class Uncopied:
        """A model object of no framework, which only has to survive the cloning."""

        def __deepcopy__(self, memo: object) -> Uncopied:
            raise AssertionError("the model is copied")

    model = Uncopied()
    assert clone(make_pipeline(FeatureExtractor(model)))[0].network is model


def test_representations_are_short() -> None:
    model = tiny_extractor().model()
    assert repr(model) == "<Model tiny: 9 weights, no labels>"
    assert repr(FeatureExtractor(model)) == f"FeatureExtractor(network={model!r})"
    assert "Model tiny" in FeatureExtractor(model)._repr_html_()
    features = tiny_extractor().extract([*noise(2), "nowhere.png"], on_error="skip")
    assert repr(features) == "Features(2 images, 1 skipped; {'embedding': (2, 6)})"


# ---- output ---------------------------------------------------------------------------------


def test_columns_have_names() -> None:
    names = tiny_extractor().get_feature_names_out()
    assert names.tolist() == [f"embedding_{index}" for index in range(6)]
    assert names.dtype == object
    extractor = tiny_extractor(layer="conv2")
    assert len(extractor.get_feature_names_out()) == extractor.transform(noise(1)).shape[1]
    assert len(FeatureExtractor("vgg16").get_feature_names_out()) == 4096


def test_transform_returns_a_data_frame_on_request(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    paths = write_images(tmp_path / "images", colored([0, 1, 2]))
    expected = tiny_extractor().transform(paths)
    extractor = tiny_extractor().set_output(transform="pandas")
    for found in (
        extractor.transform(paths),
        extractor.transform(X=paths),
        extractor.fit_transform(paths),
    ):
        assert found.columns.tolist() == [f"embedding_{index}" for index in range(6)]
        assert found.index.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(found.to_numpy(), expected)
    series = pandas.Series([str(path) for path in paths], index=["a", "b", "c"])
    assert extractor.transform(series).index.tolist() == ["a", "b", "c"]
    assert clone(extractor).transform(paths).shape == (3, 6)
    assert isinstance(clone(extractor).transform(paths), pandas.DataFrame)
    extractor.set_output(transform="default")
    assert isinstance(extractor.transform(paths), np.ndarray)
    # `extract` returns arrays, whatever `transform` returns.
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(tiny_extractor().transform(paths), pandas.DataFrame)
        assert isinstance(tiny_extractor().extract(paths)["embedding"], np.ndarray)


def test_features_are_converted_to_a_data_frame(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    paths = write_images(tmp_path / "images", colored([0, 1, 2]))
    extractor = tiny_extractor()
    features = extractor.extract([*paths, "nowhere.png"], ["embedding", "conv2"], on_error="skip")
    frame = features.to_pandas()
    assert frame.index.name == "source"
    assert frame.index.tolist() == [str(path) for path in paths]
    maps = tiny_extractor(layer="conv2").get_feature_names_out().tolist()
    assert frame.columns.tolist() == [f"embedding_{index}" for index in range(6)] + maps
    assert set(frame.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(frame[maps], features["conv2"].reshape(3, -1))
    np.testing.assert_array_equal(frame.iloc[:, :6], features["embedding"])


def test_a_data_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    features = tiny_extractor().extract(colored([0]))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnsupportedError, match="pip install pandas"):
        features.to_pandas()


def test_columns_of_images_of_any_size_have_no_names() -> None:
    extractor = tiny_extractor(layer="conv2", preprocessing=Preprocessing(None))
    assert extractor.transform(colored([0, 1])).shape[0] == 2
    with pytest.raises(ShapeError, match="depends on the size of the images"):
        extractor.get_feature_names_out()
    # A vector has as many values for images of any size.
    assert len(extractor.set_params(layer="embedding").get_feature_names_out()) == 6


def test_a_pipeline_returns_a_data_frame_on_request() -> None:
    pandas = pytest.importorskip("pandas")
    images = colored(LABELS)
    pipeline = make_pipeline(tiny_extractor(), StandardScaler()).set_output(transform="pandas")
    found = pipeline.fit_transform(images)
    assert isinstance(found, pandas.DataFrame)
    assert found.columns.tolist() == [f"embedding_{index}" for index in range(6)]
    assert pipeline.get_feature_names_out().tolist() == found.columns.tolist()


# ---- with other estimators ------------------------------------------------------------------


def test_a_pipeline_from_images_to_classes() -> None:
    pipeline = make_pipeline(tiny_extractor(), StandardScaler(), LogisticRegression(C=100))
    pipeline.fit(colored(LABELS), LABELS)
    assert pipeline.score(colored(LABELS, seed=1), LABELS) == 1.0
    scores = cross_validate(pipeline, colored(LABELS), LABELS, cv=3)
    assert scores["test_score"].tolist() == [1.0] * 3


def test_a_search_over_the_layer() -> None:
    pipeline = Pipeline([("features", tiny_extractor()), ("pca", PCA(2)),
                         ("regression", LogisticRegression(C=100))])  # fmt: skip
    search = GridSearchCV(pipeline, {"features__layer": ["conv2", "embedding", "logits"]}, cv=2)
    search.fit(colored(LABELS), LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == 1.0


def test_extractors_are_combined() -> None:
    images = colored([0, 1])
    union = make_union(tiny_extractor(), tiny_extractor(layer="logits"))
    assert union.fit_transform(images).shape == (2, 9)
    assert union.get_feature_names_out()[-1] == "featureextractor-2__logits_2"


def test_a_column_of_paths_in_a_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    paths = write_images(tmp_path / "images", colored([0, 1, 2]))
    table = pandas.DataFrame({"price": [1.0, 2.0, 3.0], "path": [str(path) for path in paths]})
    columns = ColumnTransformer(
        [("image", tiny_extractor(), "path"), ("number", "passthrough", ["price"])]
    )
    found = columns.fit_transform(table)
    np.testing.assert_allclose(found[:, :6], tiny_extractor().transform(paths), rtol=1e-6)
    assert columns.get_feature_names_out().tolist()[-2:] == ["image__embedding_5", "number__price"]
    # Selected as a list, the column is passed as a data frame.
    columns = ColumnTransformer([("image", tiny_extractor(), ["path"])])
    np.testing.assert_array_equal(columns.fit_transform(table), found[:, :6])


def test_warnings_point_to_the_caller() -> None:
    dark = [Image.fromarray(np.full((SIDE, SIDE), level, np.uint16)) for level in (100, 200)]
    extractor = tiny_extractor()
    for compute in (
        extractor.transform,
        extractor.fit_transform,
        extractor.extract,
        make_pipeline(tiny_extractor(), StandardScaler()).fit_transform,
        make_union(tiny_extractor(), n_jobs=1).fit_transform,
    ):
        with pytest.warns(UserWarning, match="no 16-bit image has a value above") as seen:
            compute(dark)
        assert [warning.filename for warning in seen] == [__file__]


def test_metadata_is_routed_past_an_extractor() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = LogisticRegression(C=100).set_fit_request(sample_weight=True)
        classifier.set_score_request(sample_weight=True)
        pipeline = make_pipeline(tiny_extractor(), classifier)
        weight = np.ones(len(LABELS))
        found = cross_validate(
            pipeline, colored(LABELS), LABELS, cv=3, params={"sample_weight": weight}
        )
        assert found["test_score"].tolist() == [1.0] * 3
        assert tiny_extractor().fit_transform(noise(2)).shape == (2, 6)


def test_the_model_of_a_classifier_can_be_extracted_from() -> None:
    preprocessing = Preprocessing(24, resize=28)
    classifier = tiny_classifier(C=10.0, preprocessing=preprocessing)
    classifier.fit(colored(LABELS), LABELS)
    extractor = FeatureExtractor(classifier.model_, layer="probabilities")
    images = noise(5)
    assert extractor.model().preprocessing == preprocessing
    assert extractor.model().labels == (0, 1, 2)
    assert extractor.layers()["probabilities"] == (3,)
    np.testing.assert_array_equal(extractor.transform(images), classifier.predict_proba(images))
    np.testing.assert_array_equal(
        extractor.set_params(layer="logits").transform(images),
        classifier.decision_function(images),
    )


# ---- tags -----------------------------------------------------------------------------------


def test_tags_describe_the_extractor() -> None:
    tags = get_tags(FeatureExtractor(NETWORK))
    assert tags.transformer_tags.preserves_dtype == ["float32"]
    assert not tags.requires_fit
    assert not tags.non_deterministic
    assert not tags.no_validation
    assert not tags.array_api_support
    assert not tags.target_tags.required
    assert (tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, False)
    assert tags.input_tags.string
    assert not tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
