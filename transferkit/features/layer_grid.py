"""The channels of a layer as a grid of tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import ArgumentTypeError, ParameterError, ShapeError, shorten
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
    image: ImageLike | None = None,
    title: str = "",
) -> Image.Image:
    """Draw a layer's output for one image, each channel as a tile with its number below.

    Parameters
    ----------
    activations
        (h, w, c).
    channels
        The channels to draw, in this order, counted from 0; None: all.
    scale
        ``"channel"``: the colors of each tile range from its minimum, dark, to its maximum,
        bright. ``"layer"``: all tiles share the range of the whole layer, so that they can be
        compared.
    image
        The image that the network received, drawn as the first tile.
    title
        A line above the tiles.

    Returns
    -------
    PIL image
        Mode RGB.

    Raises
    ------
    ShapeError
        If ``activations`` does not have three axes.
    ParameterError
        If a channel or ``scale`` is invalid, or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.features.layer_grid import show_layer
    >>> image = show_layer(np.random.default_rng(0).random((7, 7, 12), np.float32))
    >>> image.mode
    'RGB'
    """
    if activations.ndim != 3:
        raise ShapeError(f"activations have shape {activations.shape}; expected (h, w, c)")
    check_channels(activations.shape[2], channels, scale)
    if not np.isfinite(activations).all():
        raise ParameterError("activations has values that are not finite")
    shown = range(activations.shape[2]) if channels is None else channels
    lowest, highest = float(activations.min()), float(activations.max())
    if scale == "layer":
        scale_bar = ScaleBar(f"{lowest:.4g}", f"{highest:.4g}, for all channels")
    else:
        scale_bar = ScaleBar("minimum of each channel", "maximum")
    tiles: list[Tile] = []
    if image is not None:
        input_image = read_image(image, "image")
        if isinstance(input_image, np.ndarray):
            input_image = Image.fromarray(to_uint8(input_image))
        tiles.append(input_image)
    labels = [] if image is None else ["input"]
    for channel in shown:
        values = activations[:, :, channel].astype(np.float64)
        if scale == "channel":
            lowest, highest = float(values.min()), float(values.max())
        # A constant channel is drawn dark.
        spread = highest - lowest or 1.0
        tiles.append(colormap((values - lowest) / spread))
        labels.append(str(channel))
    return labeled_grid(tiles, labels, title=title, scale_bar=scale_bar)


def check_channels(number: int, channels: Sequence[int] | None, scale: str) -> None:
    """Check ``channels`` and ``scale`` for a layer of ``number`` channels.

    Raises
    ------
    ParameterError
        If a channel or ``scale`` is invalid.
    ArgumentTypeError
        If ``channels`` is not a sequence of integers.
    """
    if scale not in _SCALES:
        raise ParameterError(
            f"scale is {shorten(scale)}; expected {' or '.join(map(repr, _SCALES))}"
        )
    if channels is None:
        return
    are_integers = isinstance(channels, (Sequence, np.ndarray)) and all(
        isinstance(channel, Integral) for channel in channels
    )
    if not are_integers:
        raise ArgumentTypeError(f"channels is {shorten(channels)}; expected a list of integers")
    if len(channels) == 0:
        raise ParameterError("channels is empty; expected at least one, or None for all")
    for channel in channels:
        if not 0 <= channel < number:
            raise ParameterError(
                f"channels has {channel}; the layer has channels 0 to {number - 1}"
            )


def check_is_map(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an error unless the output of a layer is a feature map.

    Parameters
    ----------
    layer
        One of ``shapes``.
    shapes
        Layer to the shape of its output for one image.

    Raises
    ------
    ShapeError
        If it is a vector; the message lists layers that have feature maps.
    """
    if len(shapes[layer]) == 3:
        return
    maps = [name for name, shape in shapes.items() if len(shape) == 3]
    close = ", ".join(maps[-5:])
    raise ShapeError(
        f"layer {layer!r} has shape {shapes[layer]}; expected a feature map (h, w, c), such as "
        f"that of one of the last layers that have one: {close or 'none'}"
    )
