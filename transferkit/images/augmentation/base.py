"""What all augmentations share, and the stage of the image stream that applies them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import ParameterError, shorten
from transferkit.images.conversion import to_float32
from transferkit.images.preprocessing import Preprocessing, check_read
from transferkit.support.validation import check_integer, is_number

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Augmentation",
    "AugmentationStage",
    "Cropping",
    "check_interval",
    "check_probability",
    "random_rectangle",
]

Floats: TypeAlias = npt.NDArray[np.float32]

_ATTEMPTS = 10


class Augmentation(ABC):
    """A random change of one image.

    Augmentations are immutable, and two with the same settings are equal. A subclass of your own
    should be a frozen dataclass, too, and draw all random numbers from the generator that it is
    given.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from transferkit.images.augmentation import Augmentation
    >>> @dataclass(frozen=True)
    ... class Negative(Augmentation):
    ...     def apply(self, pixels, generator):
    ...         return 1 - pixels if generator.random() < 0.5 else pixels
    >>> Negative().apply(np.ones((2, 2, 3), np.float32), np.random.default_rng(4)).shape
    (2, 2, 3)
    """

    @abstractmethod
    def apply(self, pixels: Floats, generator: np.random.Generator) -> Floats:
        """Return a changed image.

        Parameters
        ----------
        pixels
            (h, w, 3), RGB, float32 in [0, 1]; it is not changed.
        generator
            The source of all random numbers.

        Returns
        -------
        array
            Of the same shape, dtype and range.
        """


class Cropping(Augmentation):
    """An augmentation that replaces the resizing and cropping of the preprocessing."""

    @abstractmethod
    def crop(
        self,
        image: Image.Image | Floats,
        preprocessing: Preprocessing,
        generator: np.random.Generator,
    ) -> npt.NDArray[np.uint8] | Floats:
        """Return a part of an image, resized to the size of the preprocessing.

        Parameters
        ----------
        image
            As `transferkit.images.read_image` returns it.
        preprocessing
            Its ``size`` and ``interpolation`` are used.
        generator
            The source of all random numbers.

        Returns
        -------
        array
            (size, size, 3), uint8 or float32 in [0, 1].
        """


@dataclass(frozen=True)
class AugmentationStage:
    """The augmentations of an epoch, for `transferkit.images.stream_batches`.

    The random numbers of an image are those of ``numpy.random.default_rng((seed, epoch, index))``,
    where ``index`` is the position of the image in the data set. They do not depend on the order of
    the images or on the number of threads.

    Parameters
    ----------
    augmentations
        A list or tuple, applied in this order. The first one may be a `RandomResizedCrop`, which
        replaces the resizing and cropping of the preprocessing.
    seed, epoch
        Integers of at least 0.

    Raises
    ------
    ParameterError
        If a value is invalid, or if a `RandomResizedCrop` is not the first augmentation.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing
    >>> from transferkit.images.augmentation import AugmentationStage, HorizontalFlip
    >>> stage = AugmentationStage((HorizontalFlip(probability=1.0),), seed=0, epoch=0)
    >>> image = np.zeros((2, 2, 3), np.float32)
    >>> image[0, 0] = 1
    >>> stage.apply(image, Preprocessing(size=2), index=0)[..., 0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    augmentations: tuple[Augmentation, ...]
    seed: int
    epoch: int

    def __post_init__(self) -> None:
        if not isinstance(self.augmentations, list | tuple):
            raise ParameterError(
                f"augmentations is {shorten(self.augmentations)}; expected a list of augmentations"
            )
        # A tuple, so that a stage can be compared and hashed, and does not change with a list.
        object.__setattr__(self, "augmentations", tuple(self.augmentations))
        object.__setattr__(self, "seed", check_integer("seed", self.seed, 0))
        object.__setattr__(self, "epoch", check_integer("epoch", self.epoch, 0))
        for index, augmentation in enumerate(self.augmentations):
            if not isinstance(augmentation, Augmentation):
                raise ParameterError(
                    f"augmentations[{index}] is {shorten(augmentation)}; expected an augmentation "
                    "of single images, such as HorizontalFlip()"
                )
            if isinstance(augmentation, Cropping) and index:
                raise ParameterError(
                    f"{type(augmentation).__name__} is augmentation {index}; it must be the first "
                    "one, because it replaces the resizing of the image"
                )

    def apply(
        self,
        image: Image.Image | Floats,
        preprocessing: Preprocessing,
        index: int,
        source: str = "image",
    ) -> Floats:
        """Return an augmented image.

        Parameters
        ----------
        image
            As `transferkit.images.read_image` returns it.
        preprocessing
            How it is resized and cropped.
        index
            The position of the image in the data set.
        source
            Where the image came from, for error messages.

        Returns
        -------
        array
            (size, size, 3), or (h, w, 3) if the preprocessing has no size; float32 in [0, 1].

        Raises
        ------
        ImageError
            As for `Preprocessing.apply`.
        ParameterError
            If a crop is given and the preprocessing has no size.
        """
        generator = np.random.default_rng((self.seed, self.epoch, index))
        rest = self.augmentations
        if rest and isinstance(rest[0], Cropping):
            check_read(image, source)
            cropped = rest[0].crop(image, preprocessing, generator)
            rest = rest[1:]
        else:
            cropped = preprocessing.apply(image, source)
        pixels = np.empty(cropped.shape, np.float32)
        to_float32(cropped, out=pixels)
        for augmentation in rest:
            pixels = augmentation.apply(pixels, generator)
        return np.ascontiguousarray(pixels, np.float32)


def random_rectangle(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Return a random rectangle inside an image.

    The area is uniform in ``scale`` times that of the image, the quotient of width and height
    log-uniform in ``ratio``, and the position uniform.

    Parameters
    ----------
    width, height
        The size of the image in pixels.
    scale, ratio
        The smallest and the largest value.
    generator
        The source of all random numbers.

    Returns
    -------
    tuple of int or None
        Left, top, right and bottom; None if no rectangle in ten attempts lies inside the image.
    """
    low, high = (math.log(bound) for bound in ratio)
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*scale)
        quotient = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * quotient)), round(math.sqrt(area / quotient))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            top = int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    return None


def check_probability(name: str, value: object) -> None:
    """Check that a parameter is a number in [0, 1].

    Raises
    ------
    ParameterError
        If it is not.

    Examples
    --------
    >>> from transferkit.images.augmentation.base import check_probability
    >>> check_probability("probability", 2)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: probability is 2; expected a number in [0, 1]
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in [0, 1]")


def check_interval(
    name: str, value: object, *, low: float, high: float, open_at_low: bool = False
) -> None:
    """Check that a parameter is two numbers in a range, the first not larger than the second.

    Parameters
    ----------
    name
        The name of the parameter, for the message.
    value
        Its value.
    low, high
        The range.
    open_at_low
        Whether ``low`` itself is not allowed.

    Raises
    ------
    ParameterError
        If it is not.

    Examples
    --------
    >>> from transferkit.images.augmentation.base import check_interval
    >>> check_interval("scale", (0.1, 1.0), low=0, high=1)
    """
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))
    if is_pair and isinstance(value, tuple):
        first, second = value
        if low <= first <= second <= high and not (open_at_low and first == low):
            return
    start = "(" if open_at_low else "["
    raise ParameterError(
        f"{name} is {shorten(value)}; expected a tuple of two numbers in {start}{low:g}, "
        f"{high:g}], the smaller one first"
    )
