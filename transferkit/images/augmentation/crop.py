"""Random crops of the whole image, resized in the same call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ParameterError
from transferkit.images.augmentation.base import Cropping, check_interval, random_rectangle
from transferkit.images.preprocessing import Preprocessing
from transferkit.images.resizing import INTERPOLATIONS, resize

__all__ = ["RandomResizedCrop"]

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RandomResizedCrop(Cropping):
    """A random part of the image, resized to the input of the network.

    The area is uniform in ``scale`` times that of the image, the aspect ratio log-uniform in
    ``ratio``, and the position uniform (Szegedy et al., 2015, "Going Deeper with Convolutions",
    section 6). If no crop in ten attempts lies inside the image, the largest central part with
    the nearest allowed aspect ratio is used, as in torchvision's ``RandomResizedCrop``.

    Parameters
    ----------
    scale
        The smallest and the largest fraction of the area, in (0, 1].
    ratio
        The smallest and the largest quotient of width and height, in (0, 100].

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing
    >>> from transferkit.images.augmentation import RandomResizedCrop
    >>> image = np.zeros((300, 400, 3), np.float32)
    >>> crop = RandomResizedCrop(scale=(0.35, 1.0))
    >>> crop.crop(image, Preprocessing(size=224), np.random.default_rng(0)).shape
    (224, 224, 3)
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_interval("scale", self.scale, low=0, high=1, open_at_low=True)
        check_interval("ratio", self.ratio, low=0, high=100, open_at_low=True)

    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return a part of the image, resized bilinearly to its height and width."""
        height, width, _ = pixels.shape
        left, top, right, bottom = self.box(width, height, generator)
        part = pixels[np.newaxis, top:bottom, left:right]
        resized: Floats = np.clip(resize(part, (height, width), "bilinear")[0], 0.0, 1.0)
        return resized

    def crop(
        self,
        image: Image.Image | Floats,
        preprocessing: Preprocessing,
        generator: np.random.Generator,
    ) -> npt.NDArray[np.uint8] | Floats:
        """Return a part of an image, resized to ``preprocessing.size``; see `Cropping.crop`.

        Raises
        ------
        ParameterError
            If the preprocessing has no size.
        """
        size = preprocessing.size
        if size is None:
            raise ParameterError(
                "RandomResizedCrop resizes images, but the preprocessing has size=None; set a size"
            )
        if isinstance(image, Image.Image):
            box = self.box(image.width, image.height, generator)
            filter_ = INTERPOLATIONS[preprocessing.interpolation]
            # Not `resize` with a box, whose filter also takes pixels outside of it.
            return np.asarray(image.crop(box).resize((size, size), filter_), np.uint8)
        left, top, right, bottom = self.box(image.shape[1], image.shape[0], generator)
        part = image[np.newaxis, top:bottom, left:right]
        resized = resize(part, (size, size), preprocessing.interpolation)[0]
        # Bicubic interpolation overshoots at edges.
        clipped: Floats = np.clip(resized, 0.0, 1.0)
        return clipped

    def box(
        self, width: int, height: int, generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a random crop of an image, in pixels."""
        box = random_rectangle(width, height, self.scale, self.ratio, generator)
        if box is not None:
            return box
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w = min(width, max(1, round(height * ratio)))
        h = min(height, max(1, round(width / ratio)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
