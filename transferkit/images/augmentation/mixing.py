"""Mixing of the images of a batch and of their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import ShapeError
from transferkit.support.validation import check_positive

__all__ = ["CutMix", "MixUp"]

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MixUp:
    """Weighted means of pairs of images and of their targets.

    ``factor * first + (1 - factor) * second`` with a factor from a Beta(alpha, alpha)
    distribution for the whole batch (Zhang et al., 2018, "mixup: Beyond Empirical Risk
    Minimization", equation 2). The second one is drawn from the same batch.

    Parameters
    ----------
    alpha
        Greater than 0; with small values, most factors are near 0 or 1.

    Raises
    ------
    ParameterError
        If ``alpha`` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import MixUp
    >>> pixels, targets = np.zeros((2, 4, 4, 3), np.float32), np.eye(2, dtype=np.float32)
    >>> _, mixed = MixUp().apply(pixels, targets, np.random.default_rng(1))
    >>> mixed.sum(axis=1).round(5).tolist()
    [1.0, 1.0]
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def apply(
        self, pixels: Floats, targets: Floats, generator: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Return mixed images and their targets.

        Parameters
        ----------
        pixels
            (n, h, w, 3) float32 in [0, 1], or activations.
        targets
            (n, c) float32; rows sum to 1.
        generator
            The source of all random numbers.

        Returns
        -------
        pixels, targets
            New arrays of the same shapes.

        Raises
        ------
        ShapeError
            If there is not one row of targets for each image.
        """
        _check_numbers(pixels, targets)
        factor = np.float32(generator.beta(self.alpha, self.alpha))
        partners = generator.permutation(len(pixels))
        rest = np.float32(1) - factor
        return (
            factor * pixels + rest * pixels[partners],
            factor * targets + rest * targets[partners],
        )


@dataclass(frozen=True)
class CutMix:
    """Replacement of a rectangle of each image by that of another one.

    The area that is left is a fraction from a Beta(alpha, alpha) distribution, the same for the
    whole batch; the targets are mixed in proportion to the areas, after the rectangle is cut at
    the edges (Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", equations 1 and 2).

    Parameters
    ----------
    alpha
        Greater than 0.

    Raises
    ------
    ParameterError
        If ``alpha`` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import CutMix
    >>> pixels = np.stack([np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)])
    >>> mixed, targets = CutMix().apply(
    ...     pixels, np.eye(2, dtype=np.float32), np.random.default_rng(0)
    ... )
    >>> bool(np.allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 1]))
    True
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def apply(
        self, pixels: Floats, targets: Floats, generator: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Return mixed images and their targets.

        Parameters
        ----------
        pixels
            (n, h, w, 3) float32 in [0, 1].
        targets
            (n, c) float32; rows sum to 1.
        generator
            The source of all random numbers.

        Returns
        -------
        pixels, targets
            New arrays of the same shapes.

        Raises
        ------
        ShapeError
            If there is not one row of targets for each image.
        """
        _check_numbers(pixels, targets)
        height, width = pixels.shape[1:3]
        side = math.sqrt(1 - generator.beta(self.alpha, self.alpha))
        y, x = generator.integers(height), generator.integers(width)
        h, w = side * height / 2, side * width / 2
        top, bottom = max(0, round(y - h)), min(height, round(y + h))
        left, right = max(0, round(x - w)), min(width, round(x + w))
        partners = generator.permutation(len(pixels))
        mixed = pixels.copy()
        mixed[:, top:bottom, left:right] = pixels[partners, top:bottom, left:right]
        area = max(0, bottom - top) * max(0, right - left)
        factor = np.float32(1 - area / (height * width))
        return mixed, factor * targets + (np.float32(1) - factor) * targets[partners]


def _check_numbers(pixels: Floats, targets: Floats) -> None:
    if len(pixels) != len(targets):
        raise ShapeError(
            f"{len(pixels)} images but {len(targets)} rows of targets; expected one for each image"
        )
