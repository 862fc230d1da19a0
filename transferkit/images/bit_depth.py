"""Conversion of images of 16 bits, which often have fewer bits, to 8 bits."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from transferkit.errors import ImageError
from transferkit.support.validation import check_integer
from transferkit.support.warning import warn

__all__ = ["BitDepth", "check_bit_depth"]


def check_bit_depth(bit_depth: object) -> int | None:
    """Return the parameter ``bit_depth``, from 1 to 16 or None, as an int or None.

    Raises
    ------
    ParameterError
        If it is neither.

    Examples
    --------
    >>> from transferkit.images.bit_depth import check_bit_depth
    >>> check_bit_depth(20)
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: bit_depth is 20; expected an integer from 1 to 16
    """
    return None if bit_depth is None else check_integer("bit_depth", bit_depth, 1, 16)


class BitDepth:
    """The number of bits that are used in the 16-bit images of a call.

    Cameras and scanners of 10 to 14 bits write files of 16 bits, most of them without scaling the
    values. Images of 12 bits that are read as 16 bits have 1/16 of their brightness.

    Parameters
    ----------
    bits
        The number of bits, from 1 to 16. None: 16, unless the file states another number;
        `warn` warns if the values look like at most 12 bits.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.bit_depth import BitDepth
    >>> BitDepth(12).to_8_bits(np.array([[0, 2048, 4095]], np.uint16), None, "image").tolist()
    [[0, 128, 255]]
    """

    def __init__(self, bits: int | None = None) -> None:
        self._bits = bits
        # The largest value of the images so far, which several threads read.
        self._highest = 0
        self._lock = threading.Lock()
        self._warned = False

    def to_8_bits(
        self, values: npt.NDArray[np.integer], stated: int | None, source: str
    ) -> npt.NDArray[np.uint8]:
        """Scale the values of an image to 8 bits, rounded to the nearest level.

        Parameters
        ----------
        values
            (h, w), from 0 to 65535.
        stated
            The number of bits that the file states; None if it does not.
        source
            The image, for messages.

        Raises
        ------
        ImageError
            If there are values that the given number of bits cannot hold.
        """
        lowest, highest = int(values.min()), int(values.max())
        bits = self._bits or stated or 16
        largest = 2**bits - 1
        if lowest < 0 or highest > largest:
            white = f"the largest value of bit_depth={bits}" if self._bits else "white"
            remedy = "scale the values to floats in [0, 1]"
            if lowest >= 0 and highest < 2**16:
                remedy = "pass a larger bit_depth, at most 16"
            raise ImageError(
                source,
                f"integers from {lowest} to {highest}; expected 0 (black) to {largest} ({white}); "
                f"{remedy}",
            )
        if self._bits is None and stated is None:
            with self._lock:
                self._highest = max(self._highest, highest)
        gray = np.empty(values.shape, np.uint8)
        # In blocks of rows, to save memory.
        for top in range(0, len(values), 256):
            block = values[top : top + 256].astype(np.uint32)
            gray[top : top + 256] = (block * 510 + largest) // (2 * largest)
        return gray

    def warn(self) -> None:
        """Warn once if all of the 16-bit images so far look like fewer bits."""
        # Images that are all black do not show the number of bits.
        if self._warned or not 0 < self._highest < 4096:
            return
        self._warned = True
        bits = max(8, self._highest.bit_length())
        warn(
            f"no 16-bit image has a value above {self._highest} so far, but white is 65535, so the "
            "images are nearly black. If the values have fewer bits, pass Preprocessing(..., "
            f"bit_depth={bits}), or the number of bits of the camera; if the images really are "
            "that dark, pass bit_depth=16"
        )
