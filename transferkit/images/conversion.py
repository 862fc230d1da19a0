"""Conversion between 8-bit images and floats in [0, 1], rounded the same way everywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["to_float32", "to_uint8"]


def to_uint8(images: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Convert floats in [0, 1] to 8 bits, rounded to the nearest of the 256 levels.

    Parameters
    ----------
    images
        Any shape. Values outside [0, 1] are not clipped; the result is then undefined.

    Returns
    -------
    array
        uint8, in the same shape. A value halfway between two levels goes to the even one.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.conversion import to_uint8
    >>> to_uint8(np.array([0.0, 0.25, 1.0])).tolist()
    [0, 64, 255]
    """
    levels: npt.NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return levels


def to_float32(
    images: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Convert 8-bit images to float32 in [0, 1].

    Parameters
    ----------
    images
        uint8, any shape; or float32 in [0, 1] already.
    out
        An array of the same shape to write to; None: a new one.

    Returns
    -------
    array
        float32, in the same shape: ``images / 255`` if they are uint8, else ``images``.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.conversion import to_float32, to_uint8
    >>> levels = np.arange(256, dtype=np.uint8)
    >>> bool((to_uint8(to_float32(levels)) == levels).all())
    True
    """
    if images.dtype == np.uint8:
        # Multiplying by 1 / 255 instead would differ in the last bit.
        return np.divide(images, np.float32(255), out=out, dtype=np.float32)
    if out is None:
        return np.asarray(images, np.float32)
    out[...] = images
    return out
