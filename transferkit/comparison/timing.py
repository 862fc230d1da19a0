"""A program that measures how long its runs take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend, Program
from transferkit.models import Model

__all__ = ["TimedProgram"]


class TimedProgram(Program):
    """The program of a model, with the time of each of its runs.

    Parameters
    ----------
    backend
        The backend that runs the model.
    model
        The model.
    """

    def __init__(self, backend: Backend, model: Model) -> None:
        super().__init__(backend, model.network, model.weights, model.wrapped)
        self._runs: list[tuple[int, float]] = []

    def run(
        self, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """Run the network, as `Program.run`, and record the time."""
        start = perf_counter()
        outputs = super().run(pixels, layers)
        self._runs.append((len(pixels), perf_counter() - start))
        return outputs

    @property
    def images_per_second(self) -> float | None:
        """The speed of the runs so far, except the first, in which the network is compiled.

        Of a single run, its own; None before that.
        """
        runs = self._runs[1:] or self._runs
        seconds = sum(time for _, time in runs)
        return sum(images for images, _ in runs) / seconds if seconds else None
