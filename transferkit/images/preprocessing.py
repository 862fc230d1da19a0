"""The preprocessing that a network expects: how images are resized, cropped and normalized.

The geometry is that of torchvision's ``Resize`` and ``CenterCrop`` on Pillow images, or of
Keras's ``load_img``, reproduced pixel for pixel, because published weights were evaluated with
it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ImageError, ParameterError, shorten
from transferkit.images.bit_depth import check_bit_depth
from transferkit.images.reading import MAX_PIXELS, ImageTypeError, check_range
from transferkit.images.resizing import INTERPOLATIONS, resize
from transferkit.support.validation import check_bool, check_integer, is_number

__all__ = ["Preprocessing", "check_read"]

_CHANNEL_ORDERS = ("rgb", "bgr")

_READ = (
    "expected what read_image returns, a PIL image of mode 'RGB' or an array of float32, height x "
    "width x 3; pass read_image(image)"
)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The steps between an image and the input of a network.

    Parameters
    ----------
    size
        The side in pixels of the square input of the network. None leaves images as they are:
        neither resized nor cropped.
    resize
        The length in pixels of the shorter side after resizing, at least ``size``; the longer
        side keeps the aspect ratio, rounded down. None: the same as ``size``.
    interpolation
        ``"bilinear"`` or ``"bicubic"``, both with antialiasing, or ``"nearest"``: Pillow's
        filters.
    mean, std
        Per channel (red, green, blue), for pixels in [0, 1]: ``mean`` at most 1, ``std`` greater
        than 0. The network's first node applies them, ``(pixels - mean) / std``; `apply` does
        not.
    channel_order
        ``"rgb"`` or ``"bgr"``: the channel order of the network's first convolution. The
        network applies it too, after ``mean`` and ``std``, which are always in the order red,
        green, blue. Images are always given as RGB.
    crop
        True crops the square from the center of the resized image. False stretches the whole
        image to the square instead, as Keras's ``load_img(target_size=...)`` does; ``resize``
        must then be None.
    bit_depth
        The number of bits that are used in gray images of 16 bits, such as 12 for most scientific
        and medical cameras. None: 16, or what a TIFF file states, with a warning if no image of
        a call has a value above 4095.

    Raises
    ------
    ParameterError
        If a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing
    >>> preprocessing = Preprocessing(size=224, resize=256)
    >>> preprocessing.apply(np.zeros((300, 400, 3), np.float32)).shape
    (224, 224, 3)

    Keras's preprocessing for VGG and ResNet, ``load_img`` and the "caffe" mode of
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
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        if self.size is None:
            if self.resize is not None:
                raise ParameterError(
                    f"resize is {shorten(self.resize)} but size is None, which leaves images as "
                    "they are; set size too, or leave out resize"
                )
        else:
            object.__setattr__(self, "size", _check_side("size", self.size))
        if self.resize is not None:
            object.__setattr__(self, "resize", _check_side("resize", self.resize))
            if self.size is not None and self.resize < self.size:
                raise ParameterError(
                    f"resize is {self.resize}, less than size, which is {self.size}; the crop "
                    "cannot be larger than the resized image"
                )
        object.__setattr__(self, "crop", check_bool("crop", self.crop))
        if not self.crop and (self.size is None or self.resize is not None):
            raise ParameterError(
                f"crop is False, which stretches images to size x size, but size is {self.size} "
                f"and resize is {self.resize}; set size, and leave out resize"
            )
        object.__setattr__(self, "bit_depth", check_bit_depth(self.bit_depth))
        for name, choices in (
            ("interpolation", INTERPOLATIONS),
            ("channel_order", _CHANNEL_ORDERS),
        ):
            object.__setattr__(self, name, _check_choice(name, getattr(self, name), choices))
        object.__setattr__(self, "mean", _three_numbers("mean", self.mean))
        object.__setattr__(self, "std", _three_numbers("std", self.std))
        if max(self.mean) > 1:
            raise ParameterError(
                f"mean is {self.mean}, but pixels are in [0, 1]; for statistics of pixels in [0, "
                "255], divide mean and std by 255"
            )
        if min(self.std) <= 0:
            raise ParameterError(f"std is {self.std}; expected numbers greater than 0")

    def apply(
        self, image: Image.Image | npt.NDArray[np.float32], source: str = "image"
    ) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """Resize and crop, or stretch, one image.

        Parameters
        ----------
        image
            As `read_image` returns it: an RGB PIL image, or (h, w, 3) float32 in [0, 1].
        source
            Where the image came from, for error messages.

        Returns
        -------
        array
            (size, size, 3), or (h, w, 3) if ``size`` is None; uint8 for a PIL image, float32
            in [0, 1] for floats.

        Raises
        ------
        ImageError
            If the image has another mode, dtype or shape, or values outside [0, 1]; or if it is
            so long and narrow that it would have more than `MAX_PIXELS` pixels after resizing.
        ImageTypeError
            If ``image`` has another type, such as a path.
        """
        check_read(image, source)
        if self.size is None:
            return np.asarray(image, np.uint8) if isinstance(image, Image.Image) else image
        if isinstance(image, Image.Image):
            height, width = self._resized_shape(image.height, image.width, source)
            if image.size != (width, height):
                image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
            box = self._crop_box(width, height)
            return np.asarray(image if box == (0, 0, width, height) else image.crop(box), np.uint8)
        height, width = self._resized_shape(image.shape[0], image.shape[1], source)
        resized = resize(image[np.newaxis], (height, width), self.interpolation)[0]
        left, top, right, bottom = self._crop_box(width, height)
        # Bicubic interpolation overshoots at edges. Pillow clips bytes, so floats are clipped too.
        floats: npt.NDArray[np.float32] = np.clip(resized[top:bottom, left:right], 0.0, 1.0)
        return floats

    def _resized_shape(self, height: int, width: int, source: str) -> tuple[int, int]:
        """Height and width after resizing, before cropping."""
        if self.size is None:
            return height, width
        if not self.crop:
            return self.size, self.size
        shorter, longer = min(width, height), max(width, height)
        target = self.size if self.resize is None else self.resize
        if shorter == target:
            return height, width
        # Rounded down after a floating-point division, as torchvision does.
        longer = int(target * longer / shorter)
        if target * longer > MAX_PIXELS:
            raise ImageError(
                source,
                f"too long and narrow: {width:,} x {height:,} pixels would become more than "
                f"{MAX_PIXELS:,} when the shorter side is resized to {target}",
            )
        return (longer, target) if width <= height else (target, longer)

    def _crop_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the center crop of a resized image."""
        if self.size is None:
            return 0, 0, width, height
        left = round((width - self.size) / 2.0)
        top = round((height - self.size) / 2.0)
        return left, top, left + self.size, top + self.size

    def to_dict(self) -> dict[str, object]:
        """Return the settings as plain data for JSON; `from_dict` reads it.

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
            "bit_depth": self.bit_depth,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Preprocessing:
        """Return the settings that `to_dict` wrote.

        ``channel_order``, ``crop`` and ``bit_depth``, which older files lack, have their defaults
        if missing.

        Raises
        ------
        ParameterError
            If an entry is missing, unknown or invalid; the message names it.

        Examples
        --------
        >>> from transferkit.images import Preprocessing
        >>> preprocessing = Preprocessing(size=32, interpolation="bicubic")
        >>> Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
        True
        """
        expected = {"size", "resize", "interpolation", "mean", "std"}
        added = {"channel_order", "crop", "bit_depth"}
        if not expected <= set(data) <= expected | added:
            missing = ", ".join(sorted(expected - set(data))) or "none"
            unknown = shorten(sorted(map(str, set(data) - expected - added)))
            raise ParameterError(f"preprocessing: missing entries: {missing}; unknown: {unknown}")
        return cls(
            size=_side_or_none("size", data["size"]),
            resize=_side_or_none("resize", data["resize"]),
            interpolation=str(data["interpolation"]),
            mean=_three_numbers("mean", data["mean"]),
            std=_three_numbers("std", data["std"]),
            channel_order=str(data.get("channel_order", "rgb")),
            crop=data.get("crop", True),  # type: ignore[arg-type]  # checked by the constructor
            bit_depth=data.get("bit_depth"),  # type: ignore[arg-type]  # the same
        )


def check_read(image: object, source: str) -> None:
    """Check that an image is one that `read_image` returns.

    Parameters
    ----------
    image
        An RGB PIL image, or (h, w, 3) float32 in [0, 1].
    source
        Where the image came from, for error messages.

    Raises
    ------
    ImageError
        If it has another mode, dtype or shape, or values outside [0, 1].
    ImageTypeError
        If it has another type, such as a path.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.preprocessing import check_read
    >>> check_read(np.zeros((8, 8, 3), np.float32), "image")
    """
    if isinstance(image, Image.Image):
        if image.mode != "RGB" or 0 in image.size:
            width, height = image.size
            raise ImageError(
                source, f"a PIL image of mode {image.mode!r}, {width} x {height} pixels; {_READ}"
            )
    elif isinstance(image, np.ndarray):
        if image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            shape = " x ".join(map(str, image.shape)) or "()"
            raise ImageError(source, f"an array of {image.dtype} of shape {shape}; {_READ}")
        check_range(image, source)
    else:
        raise ImageTypeError(source, f"unsupported type {type(image).__name__}; {_READ}")


def _check_choice(name: str, value: object, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ParameterError(f"{name} is {shorten(value)}; available: {', '.join(choices)}")
    return str(value)


def _check_side(name: str, value: object) -> int:
    return check_integer(name, value, 1, 10_000)


def _side_or_none(name: str, value: object) -> int | None:
    return None if value is None else _check_side(name, value)


def _three_numbers(name: str, values: object) -> tuple[float, float, float]:
    given = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(given, (tuple, list)) and len(given) == 3:
        numbers = [float(value) for value in given if is_number(value)]
        if len(numbers) == 3 and all(map(math.isfinite, numbers)):
            return (numbers[0], numbers[1], numbers[2])
    raise ParameterError(
        f"{name} is {shorten(values)}; expected three finite numbers: red, green, blue"
    )
