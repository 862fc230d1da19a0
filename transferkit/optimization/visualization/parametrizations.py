"""What numbers a picture is made of while it is optimised.

Gradient descent makes of pixels whatever is cheapest to change, which is noise of high frequency.
In other coordinates the same picture is as near, but other pictures are nearer: large shapes,
in the colours that photos have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ParameterError, UnknownNameError

__all__ = ["Fourier", "Parametrization", "Pixels", "find_parametrization"]

Synthesis: TypeAlias = Callable[[Any], Any]
"""From a tensor of parameters to a tensor of pictures."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# A root of the covariance of colours in ImageNet's photos: red, green and blue in rows; how light
# it is, red to blue, and green to magenta in columns. Measured by Olah et al., 2017, "Feature
# Visualization", and divided here by its longest column.
_COLOURS = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
_COLOURS /= np.linalg.norm(_COLOURS, axis=0).max()
_COLOURS.flags.writeable = False

# Waves of ten pixels keep their size, whatever the decay.
_MIDDLE_FREQUENCY = 0.1
_MIDDLE_SIZE = 2.5

# Half a step of eight bits: what is nearer to black or white would be infinitely far.
_MARGIN = 1 / 510


class Parametrization(ABC):
    """From parameters to pictures, and back.

    Attributes
    ----------
    decorrelated
        Whether the parameters' three channels are of no use for guessing each other in photos,
        rather than red, green and blue.
    """

    decorrelated: bool

    @abstractmethod
    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """Parameters (1, ...) of a picture of hardly visible noise around grey."""

    @abstractmethod
    def parameters(self, images: Floats) -> Floats:
        """The parameters (n, ...) of pictures (n, h, w, 3) in [0, 1]."""

    @abstractmethod
    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:
        """The function over tensors from parameters to pictures (n, h, w, 3) in [0, 1]."""

    def project(self, table: Table[Any], parameters: Any) -> Any:  # noqa: ARG002
        """The nearest parameters that stand for pictures."""
        return parameters


@dataclass(frozen=True)
class Pixels(Parametrization):
    """The pixels themselves.

    Parameters
    ----------
    decorrelated
        False: red, green and blue, cut off at 0 and 1 after each step. True: in coordinates
        in which the colours of photos are not correlated, through a sigmoid.
    """

    decorrelated: bool = False

    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """As for every `Parametrization`."""
        noise = 0.01 * generator.standard_normal((1, height, width, 3))
        return np.asarray(noise if self.decorrelated else 0.5 + noise, np.float32)

    def parameters(self, images: Floats) -> Floats:
        """As for every `Parametrization`; pixels are kept, or lose half a step of eight bits."""
        if not self.decorrelated:
            return images
        return np.asarray(_logits(images) @ np.linalg.inv(_COLOURS).T, np.float32)

    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:  # noqa: ARG002
        """As for every `Parametrization`."""
        if not self.decorrelated:
            return lambda parameters: parameters
        colours = table.asarray(_COLOURS.T)
        return lambda parameters: table.sigmoid(table.matmul(parameters, colours))

    def project(self, table: Table[Any], parameters: Any) -> Any:
        """As for every `Parametrization`."""
        return parameters if self.decorrelated else table.clip(parameters, low=0.0, high=1.0)


@dataclass(frozen=True)
class Fourier(Parametrization):
    """Waves, those of high frequency made small, as they are in photos; through a sigmoid.

    The waves are the real sines and cosines of the discrete Fourier transform along both axes,
    as two matrices. A wave of f cycles a pixel is made ``(10 f) ** -decay`` times as large as one
    of ten pixels.

    Parameters
    ----------
    decorrelated
        Whether colours are in coordinates in which those of photos are not correlated.
    decay
        How fast waves become smaller with their frequency, at least 0. Photos have about 1;
        with more, large shapes come first and grain hardly at all.

    References
    ----------
    Olah, Mordvintsev and Schubert, 2017, "Feature Visualization", "Preconditioning and
    Parameterization"; Mordvintsev, Pezzotti, Schubert and Olah, 2018, "Differentiable Image
    Parameterizations".
    """

    decorrelated: bool = True
    decay: float = 1.75

    def __post_init__(self) -> None:
        if not 0 <= self.decay < np.inf:
            raise ParameterError(f"decay is {self.decay!r}; it must be a finite number, at least 0")

    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """As for every `Parametrization`."""
        return np.asarray(0.01 * generator.standard_normal((1, 3, height, width)), np.float32)

    def parameters(self, images: Floats) -> Floats:
        """As for every `Parametrization`; pixels lose half a step of eight bits at most."""
        colours = _logits(images)
        if self.decorrelated:
            colours = colours @ np.linalg.inv(_COLOURS).T
        height, width = images.shape[1:3]
        rows, columns = waves(height), waves(width)
        spectrum = rows.T @ colours.transpose(0, 3, 1, 2) @ columns
        return np.asarray(spectrum / self._sizes(height, width), np.float32)

    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:
        """As for every `Parametrization`."""
        sizes = table.asarray(self._sizes(height, width))
        rows, columns = table.asarray(waves(height)), table.asarray(waves(width).T)
        colours = table.asarray(_COLOURS.T if self.decorrelated else np.eye(3))

        def images(parameters: Any) -> Any:
            spectrum = table.multiply(parameters, sizes)
            pixels = table.matmul(rows, table.matmul(spectrum, columns))
            pixels = table.transpose(pixels, axes=(0, 2, 3, 1))
            return table.sigmoid(table.matmul(pixels, colours))

        return images

    def _sizes(self, height: int, width: int) -> Doubles:
        """What each wave is multiplied by, (height, width)."""
        frequencies = np.hypot(_frequencies(height)[:, None], _frequencies(width))
        # The mean colour, of frequency 0, is as large as the longest wave.
        longest = 1 / max(height, width)
        relative = np.maximum(frequencies, longest) / _MIDDLE_FREQUENCY
        sizes: Doubles = _MIDDLE_SIZE * relative**-self.decay
        return sizes


def waves(length: int) -> Doubles:
    """The real Fourier basis of a length: an orthogonal matrix with a wave in each column.

    The constant first, then cosine and sine of each frequency, and of an even length last the
    wave that changes sign at each pixel.
    """
    positions = np.arange(length)[:, None]
    cycles = np.arange(1, (length - 1) // 2 + 1)
    angles = 2 * np.pi * positions * cycles / length
    pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(length, -1)
    parts = [np.full((length, 1), np.sqrt(1 / length)), np.sqrt(2 / length) * pairs]
    if length % 2 == 0:
        parts.append(np.sqrt(1 / length) * (-1.0) ** positions)
    return np.concatenate(parts, axis=1)


def _frequencies(length: int) -> Doubles:
    """Of each column of `waves`, in cycles a pixel."""
    frequencies: Doubles = (np.arange(length) + 1) // 2 / length
    return frequencies


def _logits(images: Floats) -> Doubles:
    inside = np.clip(images.astype(np.float64), _MARGIN, 1 - _MARGIN)
    logits: Doubles = np.log(inside / (1 - inside))
    return logits


_PARAMETRIZATIONS: Mapping[str, type[Fourier | Pixels]] = MappingProxyType(
    {"fourier": Fourier, "pixels": Pixels}
)


def find_parametrization(parametrization: str | Parametrization) -> Parametrization:
    """The parametrisation of a name, with its usual settings, or the one that is given.

    Raises
    ------
    UnknownNameError
        If there is none of that name.

    Examples
    --------
    >>> from transferkit.optimization.visualization import find_parametrization
    >>> find_parametrization("pixels")
    Pixels(decorrelated=False)
    """
    if isinstance(parametrization, Parametrization):
        return parametrization
    if parametrization not in _PARAMETRIZATIONS:
        raise UnknownNameError("parametrization", parametrization, _PARAMETRIZATIONS)
    return _PARAMETRIZATIONS[parametrization]()
