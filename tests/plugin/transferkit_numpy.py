"""A plugin: the NumPy reference in float32, as an installable backend with models of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, WrappedModel
from transferkit.errors import ShapeError
from transferkit.networks import WRAPPED, NetworkBuilder
from transferkit.testing import ReferenceBackend


class ColorModel:
    """A model object of this framework: linear scores of an image's mean color.

    Parameters
    ----------
    matrix
        (3, number of scores).
    """

    def __init__(self, matrix: npt.NDArray[np.float32]) -> None:
        self.matrix = matrix

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the scores of images (n, h, w, 3)."""
        scores: npt.NDArray[np.float32] = images.mean(axis=(1, 2)) @ self.matrix
        return scores


class WrappedColorModel(WrappedModel):
    """A `ColorModel` as a network: the mean color is its embedding."""

    def __init__(
        self,
        backend: Backend,
        model: ColorModel,
        input_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channel_order: str,
    ) -> None:
        self.backend = backend
        self.model: ColorModel = model
        builder = NetworkBuilder("color", input_size)
        x = builder.normalize(mean, std, channel_order)
        builder.add_node("embedding", WRAPPED, x)
        builder.add_node("logits", WRAPPED, x)
        self.network = builder.build()

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        """Return a function from images to the mean color and the scores."""

        def function(x: Any) -> dict[str, Any]:
            outputs = {"embedding": x.mean(axis=(1, 2)), "logits": self.model(x)}
            return {layer: outputs[layer] for layer in layers}

        return function

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of the mean color and the scores."""
        if height < 1 or width < 1:
            raise ShapeError("an empty image has no color")
        return {"embedding": (3,), "logits": self.model.matrix.shape[1:]}


class NumpyBackend(ReferenceBackend):
    """NumPy.

    Parameters
    ----------
    device
        One of `devices`; None is the CPU.
    """

    name: ClassVar[str] = "numpy"

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device, np.float32)

    @classmethod
    def owns(cls, model: object) -> bool:
        """Return whether an object is a `ColorModel`."""
        return isinstance(model, ColorModel)

    def wrap(
        self,
        model: object,
        *,
        input_size: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channel_order: str = "rgb",
    ) -> WrappedColorModel:
        """Return a `ColorModel` as a network."""
        if not isinstance(model, ColorModel):
            raise TypeError(f"model is a {type(model).__name__}; expected a ColorModel")
        mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
        return WrappedColorModel(self, model, input_size or 32, mean, std, channel_order)
