"""A layer's channels as one picture: what each of them sees in a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ParameterError, ShapeError
from transferkit.images import ImageLike, read_image
from transferkit.images.conversion import to_uint8
from transferkit.support.drawing import ScaleBar, Tile, colormap, labeled_grid

__all__ = ["check_channels", "check_is_map", "show_layer"]

_SCALES = ("channel", "layer")


def show_layer(
    activations: npt.NDArray[np.float32],
    *,
    channels: Sequence[int] | None = None,
    scale: str = "channel",
    photo: ImageLike | None = None,
    title: str = "",
) -> Image.Image:
    """A layer's output for one picture, each channel a tile with its number below it.

    Parameters
    ----------
    activations
        (h, w, c).
    channels
        Which channels, counted from 0, in which order; None: all.
    scale
        ``"channel"``: each tile goes from dark, the smallest value in it, to bright, the
        largest. ``"layer"``: all are coloured alike, from the smallest value of the whole
        layer to the largest, so that tiles can be compared.
    photo
        The picture that the network saw; the first tile.
    title
        A line above the tiles.

    Returns
    -------
    PIL image
        Of mode RGB.

    Raises
    ------
    ShapeError
        If ``activations`` have another number of axes.
    ParameterError
        If there is no such channel or scale, or a value is infinite or not a number.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.features.layer_grid import show_layer
    >>> picture = show_layer(np.random.default_rng(0).random((7, 7, 12), np.float32))
    >>> picture.mode
    'RGB'
    """
    if activations.ndim != 3:
        raise ShapeError(f"activations have shape {activations.shape}; expected (h, w, c)")
    check_channels(activations.shape[2], channels, scale)
    if not np.isfinite(activations).all():
        raise ValueError("the layer has values that are infinite or not a number")
    shown = range(activations.shape[2]) if channels is None else channels
    lowest, highest = float(activations.min()), float(activations.max())
    if scale == "layer":
        scale_bar = ScaleBar(f"{lowest:.4g}", f"{highest:.4g}, in all channels alike")
    else:
        scale_bar = ScaleBar("each channel's smallest value", "its largest")
    tiles: list[Tile] = []
    if photo is not None:
        input_image = read_image(photo, "photo")
        if isinstance(input_image, np.ndarray):
            input_image = Image.fromarray(to_uint8(input_image))
        tiles.append(input_image)
    labels = [] if photo is None else ["photo"]
    for channel in shown:
        values = activations[:, :, channel].astype(np.float64)
        if scale == "channel":
            lowest, highest = float(values.min()), float(values.max())
        # Where all values are the same there is nothing to tell apart: all dark.
        spread = highest - lowest or 1.0
        tiles.append(colormap((values - lowest) / spread))
        labels.append(str(channel))
    return labeled_grid(tiles, labels, title=title, scale_bar=scale_bar)


def check_channels(number: int, channels: Sequence[int] | None, scale: str) -> None:
    """See that a layer of so many channels can be shown so.

    Raises
    ------
    ParameterError
        If there is no such channel or scale.
    TypeError
        If ``channels`` is no list of whole numbers.
    """
    if scale not in _SCALES:
        raise ParameterError(f"scale is {scale!r}; expected {' or '.join(map(repr, _SCALES))}")
    if channels is None:
        return
    whole = isinstance(channels, (Sequence, np.ndarray)) and all(
        isinstance(channel, Integral) for channel in channels
    )
    if not whole:
        raise TypeError(f"channels is {channels!r}; expected a list of whole numbers")
    if len(channels) == 0:
        raise ParameterError("channels is empty; name at least one, or None for all")
    for channel in channels:
        if not 0 <= channel < number:
            raise ParameterError(f"there is no channel {channel}; the layer has 0 to {number - 1}")


def check_is_map(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """See that a layer's output has a height and a width.

    Parameters
    ----------
    layer
        One of ``shapes``.
    shapes
        Each layer to its output's shape for one picture.

    Raises
    ------
    ShapeError
        If it has not; names layers that have.
    """
    if len(shapes[layer]) == 3:
        return
    maps = [name for name, shape in shapes.items() if len(shape) == 3]
    close = ", ".join(maps[-5:])
    raise ShapeError(
        f"layer {layer!r} has shape {shapes[layer]}, no height and width, and so no picture; "
        f"the last layers that have one are: {close or 'none'}"
    )
