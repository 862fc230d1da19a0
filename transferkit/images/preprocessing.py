"""How a network wants its pictures: resized, cropped and normalised how.

The geometry is torchvision's ``Resize`` and ``CenterCrop`` on Pillow pictures, or Keras's
``load_img``, reproduced pixel for pixel, because published weights were evaluated with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ImageError, ParameterError
from transferkit.images.reading import MAX_PIXELS

__all__ = ["Preprocessing"]

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_CHANNEL_ORDERS = ("rgb", "bgr")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to a picture before a network sees it.

    Parameters
    ----------
    size
        Side in pixels of the square that the network gets. None leaves the picture as it is:
        neither resized nor cropped.
    resize
        Length in pixels of the shorter side after resizing, at least ``size``; the longer
        side follows, rounded down. None means the same as ``size``.
    interpolation
        ``"bilinear"`` or ``"bicubic"``, both with antialiasing, or ``"nearest"``, as Pillow does
        them.
    mean, std
        Per channel (red, green, blue), in units of pixels in [0, 1]. They are carried here
        and applied by the network's first node, ``(pixels - mean) / std``, not by `apply`.
    channel_order
        ``"rgb"`` or ``"bgr"``: the order in which the network's first convolution takes the
        channels. It too is carried here and applied by the network, after ``mean`` and ``std``,
        which are red, green, blue whatever it is. Pictures are always given as RGB.
    crop
        True cuts the square from the centre of the resized picture. False stretches the whole
        picture to the square instead, as Keras's ``load_img(target_size=...)`` does; there is
        no ``resize`` then.

    Raises
    ------
    ParameterError
        If a value is not one of these.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing
    >>> preprocessing = Preprocessing(size=224, resize=256)
    >>> preprocessing.apply(np.zeros((300, 400, 3), np.float32)).shape
    (224, 224, 3)

    What Keras's documentation does for its VGG and ResNet, ``load_img`` and the "caffe" way of
    ``preprocess_input``:

    >>> keras = Preprocessing(
    ...     size=224,
    ...     interpolation="nearest",
    ...     crop=False,
    ...     mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
    ...     std=(1 / 255, 1 / 255, 1 / 255),
    ...     channel_order="bgr",
    ... )
    """

    size: int | None = 224
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: str = "rgb"
    crop: bool = True

    def __post_init__(self) -> None:
        if self.size is None:
            if self.resize is not None:
                raise ParameterError(
                    f"resize is {self.resize!r} but size is None, which leaves pictures as they "
                    "are; give size too, or leave out resize"
                )
        else:
            object.__setattr__(self, "size", _check_side("size", self.size))
        if self.resize is not None:
            object.__setattr__(self, "resize", _check_side("resize", self.resize))
            if self.size is not None and self.resize < self.size:
                raise ParameterError(
                    f"resize is {self.resize}, less than size {self.size}: a crop cannot be larger "
                    "than the picture that it is cut from"
                )
        if not isinstance(self.crop, bool):
            raise ParameterError(f"crop is {self.crop!r}; it must be True or False")
        if not self.crop and (self.size is None or self.resize is not None):
            raise ParameterError(
                f"crop is False, which stretches pictures to size x size, but size is {self.size} "
                f"and resize is {self.resize}; give size, and leave out resize"
            )
        _check_choice("interpolation", self.interpolation, _INTERPOLATIONS)
        _check_choice("channel_order", self.channel_order, _CHANNEL_ORDERS)
        object.__setattr__(self, "mean", _three_numbers("mean", self.mean))
        object.__setattr__(self, "std", _three_numbers("std", self.std))
        if min(self.std) <= 0:
            raise ParameterError(f"std is {self.std}; each must be greater than 0")

    def apply(
        self, picture: Image.Image | npt.NDArray[np.float32], source: str = "picture"
    ) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """Resize and crop, or stretch, one picture.

        Parameters
        ----------
        picture
            What `read_image` gives: an RGB picture, or H x W x 3 float32 in [0, 1].
        source
            Where the picture came from, for error messages.

        Returns
        -------
        array
            ``size`` x ``size`` x 3 (the picture's own height and width where ``size`` is None);
            uint8 from a picture, float32 in [0, 1] from floats.

        Raises
        ------
        ImageError
            If the picture is so long and narrow that, resized, it has more than `MAX_PIXELS`.
        """
        if isinstance(picture, Image.Image):
            pixels: npt.NDArray[np.uint8] = np.asarray(self._resize_and_crop(picture, source))
            return pixels
        if self.size is None:
            return picture
        channels = [
            # Pillow resizes floats in one channel only. Its mode "F" keeps their precision.
            np.asarray(
                self._resize_and_crop(
                    Image.fromarray(np.ascontiguousarray(picture[..., channel])), source
                )
            )
            for channel in range(3)
        ]
        # Bicubic interpolation overshoots at edges; Pillow clips bytes, so floats are clipped too.
        floats: npt.NDArray[np.float32] = np.clip(np.stack(channels, axis=-1), 0.0, 1.0)
        return floats

    def _resize_and_crop(self, picture: Image.Image, source: str) -> Image.Image:
        if self.size is None:
            return picture
        if not self.crop:
            if picture.size == (self.size, self.size):
                return picture
            return picture.resize((self.size, self.size), _INTERPOLATIONS[self.interpolation])
        width, height = picture.size
        shorter, longer = min(width, height), max(width, height)
        target = self.size if self.resize is None else self.resize
        if shorter != target:
            # Rounded down after a division in floating point, as torchvision does it.
            longer = int(target * longer / shorter)
            if target * longer > MAX_PIXELS:
                raise ImageError(
                    source,
                    f"is {width:,} x {height:,} pixels, too long and narrow: with its shorter side "
                    f"resized to {target} it would have more than {MAX_PIXELS:,}",
                )
            width, height = (target, longer) if width <= height else (longer, target)
            picture = picture.resize((width, height), _INTERPOLATIONS[self.interpolation])
        left = round((width - self.size) / 2.0)
        top = round((height - self.size) / 2.0)
        if (width, height) == (self.size, self.size):
            return picture
        return picture.crop((left, top, left + self.size, top + self.size))

    def to_dict(self) -> dict[str, object]:
        """The settings as plain data that JSON can hold; `from_dict` reads it.

        Examples
        --------
        >>> from transferkit.images import Preprocessing
        >>> Preprocessing(size=32).to_dict()["resize"] is None
        True
        """
        return {
            "size": self.size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "channel_order": self.channel_order,
            "crop": self.crop,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Preprocessing:
        """The settings that `to_dict` wrote down.

        What was written before there were ``channel_order`` and ``crop`` has their defaults.

        Raises
        ------
        ParameterError
            If an entry is missing, unknown, or not what it must be; the message names it.

        Examples
        --------
        >>> from transferkit.images import Preprocessing
        >>> preprocessing = Preprocessing(size=32, interpolation="bicubic")
        >>> Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
        True
        """
        expected = {"size", "resize", "interpolation", "mean", "std"}
        added = {"channel_order", "crop"}
        if not expected <= set(data) <= expected | added:
            missing = ", ".join(sorted(expected - set(data))) or "none"
            unknown = ", ".join(sorted(map(str, set(data) - expected - added))) or "none"
            raise ParameterError(f"preprocessing: missing entries: {missing}; unknown: {unknown}")
        return cls(
            size=_side_or_none("size", data["size"]),
            resize=_side_or_none("resize", data["resize"]),
            interpolation=str(data["interpolation"]),
            mean=_three_numbers("mean", data["mean"]),
            std=_three_numbers("std", data["std"]),
            channel_order=str(data.get("channel_order", "rgb")),
            crop=data.get("crop", True),  # type: ignore[arg-type]  # checked by the constructor
        )


def _check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ParameterError(f"{name} is {value!r}; available: {', '.join(choices)}")


def _check_side(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= int(value) <= 10_000:
        raise ParameterError(f"{name} is {value!r}; it must be a whole number from 1 to 10,000")
    return int(value)


def _side_or_none(name: str, value: object) -> int | None:
    return None if value is None else _check_side(name, value)


def _three_numbers(name: str, values: object) -> tuple[float, float, float]:
    if isinstance(values, (tuple, list)) and len(values) == 3:
        numbers = [
            float(value)
            for value in values
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        if len(numbers) == 3 and all(map(math.isfinite, numbers)):
            return (numbers[0], numbers[1], numbers[2])
    raise ParameterError(f"{name} is {values!r}; it must be three finite numbers: red, green, blue")
