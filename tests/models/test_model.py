"""Loading of models, and when their programs are created again."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from samples import NETWORK, WEIGHTS

from transferkit import Preprocessing
from transferkit.backends import Backend, get_backend
from transferkit.errors import ArgumentTypeError, FileFormatError, ParameterError, UnknownNameError
from transferkit.models import Model, load_model
from transferkit.models.program_cache import ProgramCache
from transferkit.networks import build_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD


def test_published_weights_have_preprocessing_and_labels() -> None:
    model = load_model("mobilenet_v2")
    assert model.preprocessing == Preprocessing(
        224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    assert model.labels is not None
    assert len(model.labels) == 1000
    assert model.network.node("normalize").attributes["mean"] == IMAGENET_MEAN


def test_mean_and_std_of_published_weights_need_not_be_repeated() -> None:
    model = load_model("mobilenet_v2", preprocessing=Preprocessing(96))
    assert (model.preprocessing.size, model.preprocessing.mean) == (96, IMAGENET_MEAN)
    with pytest.raises(ValueError, match="expects"):
        load_model("mobilenet_v2", preprocessing=Preprocessing(96, mean=(0.5, 0.5, 0.5)))


def test_a_user_defined_network_has_default_preprocessing_and_no_labels() -> None:
    model = load_model(NETWORK, WEIGHTS, Preprocessing(NETWORK.input_size))
    assert model.preprocessing == Preprocessing(NETWORK.input_size)
    assert model.labels is None
    assert load_model(NETWORK, WEIGHTS, Preprocessing(64)).preprocessing.size == 64


def test_the_normalization_is_the_one_in_the_network() -> None:
    network = build_network("resnet18")
    for preprocessing in (
        Preprocessing(32),
        Preprocessing(32, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ):
        found = load_model(network, "random", preprocessing).preprocessing
        assert (found.size, found.mean, found.std) == (32, IMAGENET_MEAN, IMAGENET_STD)
    bgr = build_network("resnet18", channel_order="bgr")
    assert load_model(bgr, "random", Preprocessing(32)).preprocessing.channel_order == "bgr"
    other = Preprocessing(32, mean=(0.9, 0.1, 0.5), channel_order="bgr")
    for rejecting in (network, NETWORK):
        with pytest.raises(ParameterError, match=f"network {rejecting.name} expects"):
            load_model(rejecting, "random", other)


def test_an_inconsistent_model_is_rejected() -> None:
    model = Model(NETWORK, WEIGHTS, Preprocessing(16), ("a", "b", "c"))
    assert load_model(model).labels == model.labels
    with pytest.raises(FileFormatError, match=r"missing: norm1"):
        load_model(dataclasses.replace(model, weights={}))
    with pytest.raises(ParameterError, match=r"2 labels, but logits of shape \(3,\)"):
        load_model(dataclasses.replace(model, labels=("a", "b")))
    with pytest.raises(ParameterError, match="preprocessing is None"):
        load_model(dataclasses.replace(model, preprocessing=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preprocessing": {"size": 40}}, "expected a Preprocessing or None"),
        ({"weights": 3}, "weights is 3; expected a name"),
        ({"weights": ""}, "weights is ''; expected a name"),
    ],
)
def test_parameters_of_other_types_are_rejected(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        load_model("mobilenet_v2", **parameters)


def test_invalid_combinations_are_rejected() -> None:
    with pytest.raises(UnknownNameError, match="imagenet1k_v1"):
        load_model("mobilenet_v2", "imagenet1k_v9")
    with pytest.raises(ArgumentTypeError, match="name of published weights"):
        load_model("mobilenet_v2", WEIGHTS)
    with pytest.raises(ArgumentTypeError, match="mapping"):
        load_model(NETWORK, "imagenet1k_v1", Preprocessing(16))
    with pytest.raises(ArgumentTypeError, match="NoneType"):
        load_model(None)  # type: ignore[arg-type]
    with pytest.raises(FileFormatError, match=r"unexpected: ghost"):
        load_model(NETWORK, {**WEIGHTS, "ghost": np.zeros(1, np.float32)}, Preprocessing(16))


def test_a_program_is_created_again_only_if_a_parameter_changes() -> None:
    cache = ProgramCache()
    backend = get_backend("onnxruntime")

    def choose() -> Backend:
        return backend

    created = []

    def make() -> Model:
        created.append(1)
        return load_model(NETWORK, WEIGHTS, Preprocessing(16))

    first = cache.get((NETWORK, WEIGHTS), make, choose, None)
    assert cache.get((NETWORK, WEIGHTS), make, choose, None)[0] is first[0]
    assert len(created) == 1
    assert cache.get((NETWORK, dict(WEIGHTS)), make, choose, None)[0] is not first[0]
    cache.get((NETWORK, WEIGHTS), make, choose, backend.device)
    assert len(created) == 3
    # A copy in another process creates its own.
    assert pickle.loads(pickle.dumps(cache)).get((1,), make, choose, None)[1].network == NETWORK
    assert len(created) == 4


def test_network_without_preprocessing_is_rejected() -> None:
    with pytest.raises(ParameterError, match=r"tiny.*preprocessing=Preprocessing\(size=16\)"):
        load_model(NETWORK, WEIGHTS)
    with pytest.raises(ParameterError, match="model_"):
        load_model(NETWORK, "random")


def test_model_carries_its_preprocessing() -> None:
    given = load_model(NETWORK, WEIGHTS, Preprocessing(12, resize=14))
    assert load_model(given).preprocessing == given.preprocessing
    assert load_model(given, preprocessing=Preprocessing(8)).preprocessing.size == 8
