"""Pictures of many small pictures: tiles in a grid, each with its name below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from transferkit.errors import ParameterError
from transferkit.images import ImageLike, read_image

__all__ = ["ScaleBar", "colour", "labelled_grid"]

# Ten evenly spaced colours of viridis (Smith and van der Walt, 2015, for matplotlib): equal
# steps look equal, also to the colour-blind and in grey.
_VIRIDIS = np.array(
    [
        [0x44, 0x01, 0x54],
        [0x48, 0x28, 0x78],
        [0x3E, 0x4A, 0x89],
        [0x31, 0x68, 0x8E],
        [0x26, 0x82, 0x8E],
        [0x1F, 0x9E, 0x89],
        [0x35, 0xB7, 0x79],
        [0x6D, 0xCD, 0x59],
        [0xB4, 0xDE, 0x2C],
        [0xFD, 0xE7, 0x25],
    ]
)
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_BACKGROUND = (255, 255, 255)
_INK = (32, 32, 32)
_GAP = 8
_TITLE_SIZE = 16
_LABEL_SIZE = 12
_BAR_WIDTH = 128
# The sides that tiles may have, and the width of the picture that they are chosen for.
_SIDES = (56, 160)
_WIDTH = 1600


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """What the colours of a grid mean.

    Attributes
    ----------
    low, high
        What the darkest and the brightest colour stand for.
    """

    low: str
    high: str


def colour(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Numbers as colours, from dark violet through green to bright yellow.

    Parameters
    ----------
    values
        (h, w), in [0, 1].

    Returns
    -------
    array
        (h, w, 3), uint8.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.support.drawing import colour
    >>> colour(np.array([[0.0, 1.0]])).tolist()
    [[[68, 1, 84], [253, 231, 37]]]
    """
    places = np.linspace(0.0, 1.0, len(_VIRIDIS))
    channels = [np.interp(values, places, _VIRIDIS[:, channel]) for channel in range(3)]
    colours: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def labelled_grid(
    tiles: Sequence[ImageLike],
    labels: Sequence[str],
    *,
    title: str = "",
    scale_bar: ScaleBar | None = None,
    columns: int | None = None,
    side: int | None = None,
) -> Image.Image:
    """Pictures side by side, row by row, with names.

    Parameters
    ----------
    tiles
        Pictures as `transferkit.images.read_image` takes them, in colour or grey. A small one
        is enlarged by a whole factor, so that its pixels are seen; a large one is shrunk.
    labels
        A name for each; it may have several lines. A column is as wide as its names need.
    title
        A few lines above them.
    scale_bar
        What the colours mean, below the title.
    columns
        How many tiles stand in a row; None: about as many as there are rows.
    side
        How long the longer side of a tile may be, in pixels; None: from 56 to 160, so that
        the picture is not much wider than 1,600.

    Returns
    -------
    PIL image
        Of mode RGB.

    Raises
    ------
    ParameterError
        If there are no tiles, not as many labels, or ``columns`` or ``side`` is below 1.
    ImageError
        If a tile is no picture.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.support.drawing import labelled_grid
    >>> tiles = [np.zeros((7, 7)), np.ones((7, 7, 3))]
    >>> labelled_grid(tiles, ["black", "white"], side=100).width
    220
    """
    if not tiles or len(tiles) != len(labels):
        raise ParameterError(f"there are {len(tiles)} tiles and {len(labels)} labels")
    if columns is None:
        columns = math.ceil(math.sqrt(len(tiles)))
    if columns < 1 or (side is not None and side < 1):
        raise ParameterError(f"columns is {columns} and side is {side}; each must be at least 1")
    columns = min(columns, len(tiles))
    if side is None:
        side = min(max(_WIDTH // columns - _GAP, _SIDES[0]), _SIDES[1])
    read = [_rgb(tile, f"tiles[{index}]") for index, tile in enumerate(tiles)]
    # Large tiles are made as small as enlarged ones come out, so that all are alike.
    longer = {max(picture.size) for picture in read}
    side = max((side // length * length for length in longer if length <= side), default=side)
    pictures = [_fit(picture, side) for picture in read]
    title_font = ImageFont.load_default(_TITLE_SIZE)
    font = ImageFont.load_default(_LABEL_SIZE)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    label_boxes = [ruler.multiline_textbbox((0, 0), label, font=font) for label in labels]
    cell_width = max(
        *(picture.width for picture in pictures), *(math.ceil(box[2]) for box in label_boxes)
    )
    tile_height = max(picture.height for picture in pictures)
    label_height = max(math.ceil(box[3]) for box in label_boxes)
    row_height = tile_height + _GAP // 2 + label_height + _GAP
    title_box = ruler.multiline_textbbox((0, 0), title, font=title_font)
    top = _GAP + (math.ceil(title_box[3]) + _GAP if title else 0)
    bar_height = _LABEL_SIZE + _GAP if scale_bar is not None else 0
    width = max(
        columns * (cell_width + _GAP),
        math.ceil(title_box[2]) + _GAP,
        0 if scale_bar is None else _bar_width(ruler, scale_bar, font) + _GAP,
    )
    rows = math.ceil(len(tiles) / columns)
    canvas = Image.new("RGB", (width + _GAP, top + bar_height + rows * row_height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((_GAP, _GAP), title, font=title_font, fill=_INK)
    if scale_bar is not None:
        _draw_bar(canvas, draw, (_GAP, top), scale_bar, font)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(index, columns)
        x = _GAP + column * (cell_width + _GAP)
        y = top + bar_height + row * row_height
        canvas.paste(
            picture, (x + (cell_width - picture.width) // 2, y + tile_height - picture.height)
        )
        draw.multiline_text(
            (x + cell_width / 2, y + tile_height + _GAP // 2),
            label, font=font, fill=_INK, anchor="ma", align="center",
        )  # fmt: skip
    return canvas


def _rgb(tile: ImageLike, source: str) -> Image.Image:
    read = read_image(tile, source)
    if isinstance(read, Image.Image):
        return read
    return Image.fromarray(np.rint(read * 255).astype(np.uint8))


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture, in another size, its longer side at most ``side``."""
    width, height = picture.size
    longer = max(width, height)
    if longer <= side:
        factor = side // longer
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    size = (max(1, width * side // longer), max(1, height * side // longer))
    return picture.resize(size, Image.Resampling.BOX)


def _bar_width(ruler: ImageDraw.ImageDraw, scale_bar: ScaleBar, font: _Font) -> int:
    texts = (ruler.textlength(text, font=font) for text in (scale_bar.low, scale_bar.high))
    return math.ceil(sum(texts)) + _BAR_WIDTH + 2 * _GAP


def _draw_bar(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    scale_bar: ScaleBar,
    font: _Font,
) -> None:
    x, y = corner
    draw.text((x, y), scale_bar.low, font=font, fill=_INK)
    x += math.ceil(draw.textlength(scale_bar.low, font=font)) + _GAP
    ramp = colour(np.tile(np.linspace(0.0, 1.0, _BAR_WIDTH), (_LABEL_SIZE, 1)))
    canvas.paste(Image.fromarray(ramp), (x, y))
    draw.text((x + _BAR_WIDTH + _GAP, y), scale_bar.high, font=font, fill=_INK)
