"""Tensors joined in one vector, so that an update is a few operations on all parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table

__all__ = ["VectorLayout"]


@dataclass(frozen=True, eq=False)
class VectorLayout:
    """Where each of some tensors is in a vector of all their elements.

    Parameters
    ----------
    shapes
        The shape of each tensor, by name, in the order of the vector.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def join(self, table: Table[Any], tensors: Mapping[str, Any]) -> Any:
        """Return the vector (n,) of some tensors.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit.testing import ReferenceTable
        >>> from transferkit.training.vectors import VectorLayout
        >>> layout = VectorLayout({"w": (2, 1), "b": ()})
        >>> layout.join(ReferenceTable(), {"b": np.array(3.0), "w": np.array([[1.0], [2.0]])})
        array([1., 2., 3.])
        """
        vectors = [
            table.reshape(tensors[name], shape=(math.prod(shape),))
            for name, shape in self.shapes.items()
        ]
        return vectors[0] if len(vectors) == 1 else table.concat(*vectors, axis=0)

    def split(self, table: Table[Any], vector: Any) -> dict[str, Any]:
        """Return the tensors that `join` joined."""
        tensors, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            part = table.slice(vector, axis=0, start=start, stop=stop)
            tensors[name] = table.reshape(part, shape=shape)
            start = stop
        return tensors

    def repeat(self, values: Mapping[str, float]) -> npt.NDArray[np.float64]:
        """Return an array (n,) with the value of a tensor for each of its elements.

        Examples
        --------
        >>> from transferkit.training.vectors import VectorLayout
        >>> VectorLayout({"w": (2, 1), "b": ()}).repeat({"w": 0.5, "b": 1})
        array([0.5, 0.5, 1. ])
        """
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        return np.repeat([float(values[name]) for name in self.shapes], sizes)
