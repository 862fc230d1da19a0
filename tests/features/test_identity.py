"""`Identity`: two extractors are told apart by everything that determines their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import NETWORK, SIDE, WEIGHTS, noise, tiny_extractor, tiny_network

from transferkit import Preprocessing
from transferkit.backends import Backend
from transferkit.errors import FileFormatError
from transferkit.features.identity import Identity, identify


def identity_of(**parameters: Any) -> Identity:
    program, model = tiny_extractor(**parameters)._load()
    return identify(program, model)


def test_the_same_extractor_has_the_same_identity(backend: Backend) -> None:
    one, other = identity_of(backend=backend), identity_of(backend=backend, batch_size=7)
    assert one == other
    assert one.differences(other) == []
    read = Identity.from_dict(json.loads(json.dumps(one.to_dict())))
    assert read == one
    assert read.versions == one.versions
    assert {"numpy", "pillow", "transferkit", backend.name} == set(one.versions)


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"weights": {**WEIGHTS, "norm1.bias": WEIGHTS["norm1.bias"] + 1}}, "weights_digest"),
        ({"preprocessing": Preprocessing(SIDE, resize=20)}, "preprocessing.resize"),
        ({"network": tiny_network(7), "weights": "random"}, "network_digest"),
    ],
)
def test_whatever_determines_the_numbers_is_compared(
    backend: Backend, change: dict[str, Any], entry: str
) -> None:
    one, other = identity_of(backend=backend), identity_of(**{"backend": backend, **change})
    assert one != other
    differences = one.differences(other, names=(" there", " here"))
    assert any(difference.startswith(f"{entry} is ") for difference in differences)
    assert all(" there, " in difference for difference in differences)
    ignored = ("weights_digest", "preprocessing", "network_digest")
    assert one.differences(other, ignored=ignored) == []


@pytest.mark.parametrize("name", ["network", "precision", "preprocessing", "versions"])
def test_a_missing_entry_is_a_typed_error(backend: Backend, name: str) -> None:
    data = identity_of(backend=backend).to_dict()
    del data[name]
    with pytest.raises(FileFormatError, match=f"a.json: {name} is None; expected"):
        Identity.from_dict(data, "a.json")


def test_the_name_of_the_network_is_part_of_it() -> None:
    assert identity_of(backend="onnxruntime").network == NETWORK.name


def test_numbers_are_those_of_the_weights_of_which_the_digest_is(
    backend: Backend, tmp_path: Path
) -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    extractor = tiny_extractor(backend=backend, weights=weights)
    images = noise(3)
    extractor.transform(images)
    for step in range(2):
        weights["conv2.weight"] *= 2
        store = extractor.extract_to(tmp_path / str(step), images)
        expected = tiny_extractor(
            backend=backend, weights={name: array.copy() for name, array in weights.items()}
        ).transform(images)
        np.testing.assert_allclose(store["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_a_network_is_not_compiled_again_for_the_same_weights(backend: Backend) -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    program, model = tiny_extractor(backend=backend, weights=weights)._load()
    identify(program, model)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.float32)
    program.run(pixels, ["embedding"])
    compiled = list(program._compiled.values())
    identify(program, model)
    assert list(program._compiled.values()) == compiled != []
