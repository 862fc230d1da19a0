from __future__ import annotations

from typing import Any

import pytest
from samples import NETWORK, SIDE, WEIGHTS, colored, tiny_extractor
from torch import nn

from transferkit import Preprocessing, compare
from transferkit.errors import ArgumentTypeError
from transferkit.models import load_model


def test_a_module_is_compared_as_the_network_that_it_was_made_from() -> None:
    module: Any = tiny_extractor(backend="torch").to_native()
    same = load_model(NETWORK, WEIGHTS, Preprocessing(SIDE))
    labels = [index % 3 for index in range(30)]
    images = colored(labels, spread=110)
    comparison = compare([module, same], images, labels, backend="torch", progress=False)
    rows = {row.network: row for row in comparison.table}
    own, catalogued = rows.pop(type(module).__name__), rows.pop("tiny")
    assert own.accuracy == catalogued.accuracy
    assert own.parameters == catalogued.parameters == sum(p.numel() for p in module.parameters())
    assert (own.backend, own.weights, own.license) == ("torch", "its own", None)


def test_a_single_module_is_not_a_list_of_its_layers() -> None:
    with pytest.raises(ArgumentTypeError, match="expected a list"):
        compare(nn.Sequential(nn.Flatten()), [], [])  # type: ignore[arg-type]
