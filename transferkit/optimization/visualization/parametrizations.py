"""Parametrizations: the coordinates in which an image is optimized.

Gradient descent on pixels produces high-frequency noise, because that changes the objective most
for a given change of the pixels. Other coordinates can represent the same images, but favor
large shapes in the colors of natural photos.
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
from transferkit.errors import UnknownNameError
from transferkit.support.validation import check_non_negative

__all__ = ["Fourier", "Parametrization", "Pixels", "find_parametrization"]

Synthesis: TypeAlias = Callable[[Any], Any]
"""A function from a tensor of parameters to a tensor of images."""

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]

# A square root of the covariance of the colors in ImageNet's photos. Rows: red, green, blue;
# columns: lightness, red to blue, green to magenta. Measured by Olah et al., 2017, "Feature
# Visualization", and divided here by the norm of its longest column.
_COLOR_COVARIANCE_ROOT = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
_COLOR_COVARIANCE_ROOT /= np.linalg.norm(_COLOR_COVARIANCE_ROOT, axis=0).max()
_COLOR_COVARIANCE_ROOT.flags.writeable = False

# Waves with a period of ten pixels have the same scale for every decay.
_REFERENCE_FREQUENCY = 0.1
_REFERENCE_SCALE = 2.5

# Half a level of 8 bits. Logits are clipped to it, since those of 0 and 1 are infinite.
_MARGIN = 1 / 510


class Parametrization(ABC):
    """A map from parameters to images, and its inverse.

    Attributes
    ----------
    decorrelated
        Whether the three channels of the parameters are color axes that are uncorrelated in
        natural photos, instead of red, green and blue.
    """

    decorrelated: bool

    @abstractmethod
    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """Return the parameters (1, ...) of an image of faint noise around gray."""

    @abstractmethod
    def parameters(self, images: Floats) -> Floats:
        """Return the parameters (n, ...) of images (n, h, w, 3) in [0, 1]."""

    @abstractmethod
    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:
        """Return the function over tensors from parameters to images (n, h, w, 3) in [0, 1]."""

    def project(self, table: Table[Any], parameters: Any) -> Any:  # noqa: ARG002
        """Return the closest parameters whose images are in [0, 1]; applied after each step."""
        return parameters


@dataclass(frozen=True)
class Pixels(Parametrization):
    """The pixels.

    Parameters
    ----------
    decorrelated
        False: red, green and blue, clipped to [0, 1] after each step. True: color axes that are
        uncorrelated in natural photos, mapped to pixels by a sigmoid.
    """

    decorrelated: bool = False

    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """Return the parameters of faint noise; see `Parametrization.noise`."""
        noise = 0.01 * generator.standard_normal((1, height, width, 3))
        return np.asarray(noise if self.decorrelated else 0.5 + noise, np.float32)

    def parameters(self, images: Floats) -> Floats:
        """Return the parameters of images: exact, or decorrelated to within half an 8-bit level."""
        if not self.decorrelated:
            return images
        return np.asarray(_logits(images) @ np.linalg.inv(_COLOR_COVARIANCE_ROOT).T, np.float32)

    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:  # noqa: ARG002
        """Return the function from parameters to images; see `Parametrization.synthesis`."""
        if not self.decorrelated:
            return lambda parameters: parameters
        colors = table.asarray(_COLOR_COVARIANCE_ROOT.T)
        return lambda parameters: table.sigmoid(table.matmul(parameters, colors))

    def project(self, table: Table[Any], parameters: Any) -> Any:
        """Return the pixels clipped to [0, 1], or decorrelated parameters unchanged."""
        return parameters if self.decorrelated else table.clip(parameters, low=0.0, high=1.0)


@dataclass(frozen=True)
class Fourier(Parametrization):
    """The Fourier coefficients, scaled down at high frequencies, mapped to pixels by a sigmoid.

    The basis is the real sines and cosines of the discrete Fourier transform along both axes, as
    two matrices. Waves of f cycles per pixel are scaled by ``(10 f) ** -decay`` relative to those
    with a period of ten pixels.

    Parameters
    ----------
    decorrelated
        Whether colors are in axes that are uncorrelated in natural photos.
    decay
        The exponent by which amplitudes decrease with frequency, at least 0. That of natural
        photos is about 1; larger values favor large shapes and suppress fine texture.

    Raises
    ------
    ParameterError
        If ``decay`` is not a finite number of at least 0.

    References
    ----------
    Olah, Mordvintsev and Schubert, 2017, "Feature Visualization", "Preconditioning and
    Parameterization"; Mordvintsev, Pezzotti, Schubert and Olah, 2018, "Differentiable Image
    Parameterizations".
    """

    decorrelated: bool = True
    decay: float = 1.75

    def __post_init__(self) -> None:
        check_non_negative("decay", self.decay)

    def noise(self, generator: np.random.Generator, height: int, width: int) -> Floats:
        """Return the parameters of faint noise; see `Parametrization.noise`."""
        return np.asarray(0.01 * generator.standard_normal((1, 3, height, width)), np.float32)

    def parameters(self, images: Floats) -> Floats:
        """Return the parameters of images, to within half an 8-bit level of their pixels."""
        colors = _logits(images)
        if self.decorrelated:
            colors = colors @ np.linalg.inv(_COLOR_COVARIANCE_ROOT).T
        height, width = images.shape[1:3]
        rows, columns = fourier_basis(height), fourier_basis(width)
        spectrum = rows.T @ colors.transpose(0, 3, 1, 2) @ columns
        return np.asarray(spectrum / self._scales(height, width), np.float32)

    def synthesis(self, table: Table[Any], height: int, width: int) -> Synthesis:
        """Return the function from parameters to images; see `Parametrization.synthesis`."""
        scales = table.asarray(self._scales(height, width))
        rows, columns = table.asarray(fourier_basis(height)), table.asarray(fourier_basis(width).T)
        colors = table.asarray(_COLOR_COVARIANCE_ROOT.T if self.decorrelated else np.eye(3))

        def images(parameters: Any) -> Any:
            spectrum = table.multiply(parameters, scales)
            pixels = table.matmul(rows, table.matmul(spectrum, columns))
            pixels = table.transpose(pixels, axes=(0, 2, 3, 1))
            return table.sigmoid(table.matmul(pixels, colors))

        return images

    def _scales(self, height: int, width: int) -> Doubles:
        """Return the factor of each wave, (height, width)."""
        frequencies = np.hypot(_frequencies(height)[:, None], _frequencies(width))
        # The constant, of frequency 0, has the scale of the longest wave.
        lowest = 1 / max(height, width)
        relative = np.maximum(frequencies, lowest) / _REFERENCE_FREQUENCY
        scales: Doubles = _REFERENCE_SCALE * relative**-self.decay
        return scales


def fourier_basis(length: int) -> Doubles:
    """Return the real Fourier basis of a length: an orthogonal matrix with a wave per column.

    The constant is first, followed by the cosine and sine of each frequency. For an even length
    the last column is the wave with a period of two pixels.
    """
    positions = np.arange(length)[:, None]
    cycles = np.arange(1, (length - 1) // 2 + 1)
    angles = 2 * np.pi * positions * cycles / length
    pairs = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(length, -1)
    blocks = [np.full((length, 1), np.sqrt(1 / length)), np.sqrt(2 / length) * pairs]
    if length % 2 == 0:
        blocks.append(np.sqrt(1 / length) * (-1.0) ** positions)
    return np.concatenate(blocks, axis=1)


def _frequencies(length: int) -> Doubles:
    """Return the frequency of each column of `fourier_basis` in cycles per pixel."""
    frequencies: Doubles = (np.arange(length) + 1) // 2 / length
    return frequencies


def _logits(images: Floats) -> Doubles:
    """Return the inverse sigmoid of images, which are clipped by half an 8-bit level."""
    clipped = np.clip(images.astype(np.float64), _MARGIN, 1 - _MARGIN)
    logits: Doubles = np.log(clipped / (1 - clipped))
    return logits


_PARAMETRIZATIONS: Mapping[str, type[Fourier | Pixels]] = MappingProxyType(
    {"fourier": Fourier, "pixels": Pixels}
)


def find_parametrization(parametrization: str | Parametrization) -> Parametrization:
    """Return the parametrization with a name and default settings, or the given one.

    Raises
    ------
    UnknownNameError
        If no parametrization has that name.

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
