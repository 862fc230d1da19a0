"""Random erasing of a rectangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.images.augmentation.base import (
    Augmentation,
    check_interval,
    check_probability,
    random_rectangle,
)

__all__ = ["Erasing"]

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Erasing(Augmentation):
    """Replacement of a random rectangle by noise that is uniform in [0, 1].

    The area is uniform in ``scale`` times that of the image, the aspect ratio log-uniform in
    ``ratio``, and the position uniform (Zhong et al., 2020, "Random Erasing Data Augmentation",
    algorithm 1, with the log-uniform ratio of torchvision's ``RandomErasing``). If none of ten
    rectangles fits into the image, nothing is erased.

    Parameters
    ----------
    scale
        The smallest and the largest fraction of the area, in (0, 1].
    ratio
        The smallest and the largest quotient of width and height, in (0, 100].
    probability
        In [0, 1].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Erasing
    >>> image = np.zeros((20, 20, 3), np.float32)
    >>> erased = Erasing(scale=(0.25, 0.25), ratio=(1.0, 1.0), probability=1.0)
    >>> int(erased.apply(image, np.random.default_rng(0)).any(axis=2).sum())
    100
    """

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    probability: float = 0.5

    def __post_init__(self) -> None:
        check_interval("scale", self.scale, low=0, high=1, open_at_low=True)
        check_interval("ratio", self.ratio, low=0, high=100, open_at_low=True)
        check_probability("probability", self.probability)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return the image, with a rectangle erased or not; see `Augmentation.apply`."""
        if generator.random() >= self.probability:
            return pixels
        height, width, channels = pixels.shape
        box = random_rectangle(width, height, self.scale, self.ratio, generator)
        if box is None:
            return pixels
        left, top, right, bottom = box
        erased = pixels.copy()
        noise = generator.random((bottom - top, right - left, channels), np.float32)
        erased[top:bottom, left:right] = noise
        return erased
