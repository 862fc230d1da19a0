"""Classifiers that are trained on a layer other than the embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import NETWORK, WEIGHTS, colored, tiny_classifier, tiny_extractor
from sklearn.base import clone

from transferkit import Classifier, FeatureExtractor
from transferkit.backends import Backend
from transferkit.classification.saved_file import FitParameters, _parameters
from transferkit.errors import ParameterError, UnknownNameError
from transferkit.networks import replace_head
from transferkit.support.numerics import l2_normalize
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close

LABELS = [0, 1, 2] * 4


@pytest.mark.parametrize("layer", ["conv1", "tanh2", "pooled", "embedding"])
def test_classifier_on_a_layer(backend: Backend, layer: str, tmp_path: Path) -> None:
    classifier = tiny_classifier(backend=backend, layer=layer)
    classifier.fit(colored(LABELS), LABELS)
    images = colored(LABELS, seed=1)
    assert classifier.score(images, LABELS) == 1.0
    expected = l2_normalize(tiny_extractor(backend=backend, layer=layer).transform(images))
    head = FeatureExtractor(classifier.model_, backend=backend, layer="unit_embedding")
    assert_close(head.transform(images), expected, ACTIVATION_TOLERANCE, layer)
    # The network that ends in the new head has an embedding too.
    size = FeatureExtractor(classifier.model_, backend=backend).transform(images).shape[1]
    assert size == expected.shape[1]
    path = tmp_path / "classifier.safetensors"
    classifier.save(path)
    loaded = Classifier.load(path, backend=backend)
    assert loaded.layer == layer
    np.testing.assert_allclose(
        loaded.predict_proba(images), classifier.predict_proba(images), atol=1e-6
    )


def test_layer_is_a_parameter() -> None:
    assert clone(tiny_classifier(layer="tanh2")).layer == "tanh2"
    assert tiny_classifier().layer == "embedding"
    with pytest.raises(UnknownNameError, match="'relu'; did you mean 'relu1'"):
        tiny_classifier(layer="relu", backend="onnxruntime").fit(colored(LABELS), LABELS)


def test_layer_with_the_name_of_one_in_the_new_head_is_rejected() -> None:
    with pytest.raises(ParameterError, match="layer 'logits' of tiny cannot be the embedding"):
        tiny_classifier(layer="logits", backend="onnxruntime").fit(colored(LABELS), LABELS)


def test_older_files_have_the_defaults_of_new_parameters() -> None:
    old = {"network": None, "weights": None, "C": None, "random_state": 0}
    expected = FitParameters(None, None, None, 0, "embedding", None, "he")
    assert _parameters(old) == expected
    assert _parameters({**old, "layer": "conv1"}).layer == "conv1"
    with pytest.raises(ValueError, match="the parameters are"):
        _parameters({**old, "layer": 3})


def test_replaced_head_needs_no_layer_after_its_own() -> None:
    network = replace_head(
        NETWORK, 2, embedding_size=4 * 8 * 8, name="new", layer="relu1", flatten=True
    )
    assert network.layers == (
        "conv1", "norm1", "relu1", "flat_embedding", "embedding", "unit_embedding", "logits",
        "probabilities",
    )  # fmt: skip
    assert "conv2.weight" not in network.parameters
    assert "conv2.weight" in WEIGHTS
