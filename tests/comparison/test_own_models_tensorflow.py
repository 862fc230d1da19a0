from __future__ import annotations

from typing import Any

from samples import NETWORK, SIDE, WEIGHTS, colored, tiny_extractor

from transferkit import Preprocessing, compare
from transferkit.models import load_model


def test_a_keras_model_is_compared_as_the_network_that_it_was_made_from() -> None:
    native: Any = tiny_extractor(backend="tensorflow").to_native()
    same = load_model(NETWORK, WEIGHTS, Preprocessing(SIDE))
    labels = [index % 3 for index in range(30)]
    images = colored(labels, spread=110)
    comparison = compare([native, same], images, labels, backend="tensorflow", progress=False)
    rows = {row.network: row for row in comparison.table}
    own, catalogued = rows.pop(type(native).__name__), rows.pop("tiny")
    assert own.accuracy == catalogued.accuracy
    assert own.parameters == catalogued.parameters
    assert (own.backend, own.weights, own.license) == ("tensorflow", "its own", None)
