"""Joining tensors in a vector and splitting it again."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transferkit.testing import ReferenceTable
from transferkit.training.vectors import VectorLayout

SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.integers(1, 3), max_size=4).map(tuple),
    min_size=1,
    max_size=5,
)


@given(SHAPES)
def test_split_is_the_inverse_of_join(shapes: dict[str, tuple[int, ...]]) -> None:
    layout, table = VectorLayout(shapes), ReferenceTable()
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = np.split(np.arange(float(sum(sizes))), np.cumsum(sizes)[:-1])
    tensors = {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    # The order is that of the layout.
    vector = layout.join(table, dict(reversed(tensors.items())))
    np.testing.assert_array_equal(vector, np.arange(sum(sizes)))
    for name, tensor in layout.split(table, vector).items():
        assert tensor.shape == shapes[name]
        np.testing.assert_array_equal(tensor, tensors[name])


@given(SHAPES)
def test_values_are_repeated_for_each_element(shapes: dict[str, tuple[int, ...]]) -> None:
    layout, table = VectorLayout(shapes), ReferenceTable()
    values = {name: float(index) for index, name in enumerate(shapes)}
    for name, tensor in layout.split(table, layout.repeat(values)).items():
        np.testing.assert_array_equal(tensor, np.full(shapes[name], values[name]))
