"""Grids of small images, each with a label below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from transferkit.errors import ParameterError

__all__ = ["ScaleBar", "Tile", "colormap", "labeled_grid"]

Tile: TypeAlias = Image.Image | npt.NDArray[np.uint8]
"""An image of any mode, or (h, w) or (h, w, 3) uint8."""

# Ten evenly spaced colors of viridis (Smith and van der Walt, 2015, for matplotlib), which is
# perceptually uniform, also for color-blind readers and in grayscale.
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
# By default tiles have a side in this range, chosen so that the grid has about this width.
_SIDES = (56, 160)
_WIDTH = 1600


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """The legend for the colors of a grid.

    Attributes
    ----------
    low, high
        The text for the darkest and for the brightest color.
    """

    low: str
    high: str


def colormap(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Map values to colors, from dark violet through green to bright yellow.

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
    >>> from transferkit.support.drawing import colormap
    >>> colormap(np.array([[0.0, 1.0]])).tolist()
    [[[68, 1, 84], [253, 231, 37]]]
    """
    positions = np.linspace(0.0, 1.0, len(_VIRIDIS))
    channels = [np.interp(values, positions, _VIRIDIS[:, channel]) for channel in range(3)]
    colors: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colors


def labeled_grid(
    tiles: Sequence[Tile],
    labels: Sequence[str],
    *,
    title: str = "",
    scale_bar: ScaleBar | None = None,
    columns: int | None = None,
    side: int | None = None,
) -> Image.Image:
    """Arrange images in a grid, row by row, each with a label below it.

    Parameters
    ----------
    tiles
        The images. A small one is enlarged by an integer factor, so that its pixels remain
        visible; a large one is shrunk.
    labels
        A label for each tile, of one or more lines. Columns are as wide as the labels need.
    title
        Text above the grid, of one or more lines.
    scale_bar
        The legend for the colors, below the title.
    columns
        The number of tiles in a row; None: about the number of rows.
    side
        The maximum length in pixels of the longer side of a tile; None: from 56 to 160,
        chosen so that the grid is not much wider than 1,600.

    Returns
    -------
    PIL image
        Of mode RGB.

    Raises
    ------
    ParameterError
        If there are no tiles, if there is not one label per tile, or if ``columns`` or
        ``side`` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.support.drawing import labeled_grid
    >>> tiles = [np.zeros((7, 7), np.uint8), np.full((7, 7, 3), 255, np.uint8)]
    >>> labeled_grid(tiles, ["black", "white"], side=100).width
    220
    """
    if not tiles or len(tiles) != len(labels):
        raise ParameterError(
            f"{len(tiles)} tiles and {len(labels)} labels; expected one label for each tile"
        )
    if columns is None:
        columns = math.ceil(math.sqrt(len(tiles)))
    if columns < 1 or (side is not None and side < 1):
        raise ParameterError(f"columns is {columns} and side is {side}; expected at least 1")
    columns = min(columns, len(tiles))
    if side is None:
        side = min(max(_WIDTH // columns - _GAP, _SIDES[0]), _SIDES[1])
    images = [_as_rgb(tile) for tile in tiles]
    # Large tiles are shrunk to the size of the enlarged ones, so that all have the same size.
    longer_sides = {max(image.size) for image in images}
    side = max((side // length * length for length in longer_sides if length <= side), default=side)
    images = [_fit(image, side) for image in images]
    title_font = ImageFont.load_default(_TITLE_SIZE)
    font = ImageFont.load_default(_LABEL_SIZE)
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))  # only measures text
    label_boxes = [scratch.multiline_textbbox((0, 0), label, font=font) for label in labels]
    cell_width = max(
        *(image.width for image in images), *(math.ceil(box[2]) for box in label_boxes)
    )
    tile_height = max(image.height for image in images)
    label_height = max(math.ceil(box[3]) for box in label_boxes)
    row_height = tile_height + _GAP // 2 + label_height + _GAP
    title_box = scratch.multiline_textbbox((0, 0), title, font=title_font)
    top = _GAP + (math.ceil(title_box[3]) + _GAP if title else 0)
    bar_height = _LABEL_SIZE + _GAP if scale_bar is not None else 0
    width = max(
        columns * (cell_width + _GAP),
        math.ceil(title_box[2]) + _GAP,
        0 if scale_bar is None else _bar_width(scratch, scale_bar, font) + _GAP,
    )
    rows = math.ceil(len(tiles) / columns)
    canvas = Image.new("RGB", (width + _GAP, top + bar_height + rows * row_height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((_GAP, _GAP), title, font=title_font, fill=_INK)
    if scale_bar is not None:
        _draw_bar(canvas, draw, (_GAP, top), scale_bar, font)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, columns)
        x = _GAP + column * (cell_width + _GAP)
        y = top + bar_height + row * row_height
        canvas.paste(image, (x + (cell_width - image.width) // 2, y + tile_height - image.height))
        draw.multiline_text(
            (x + cell_width / 2, y + tile_height + _GAP // 2),
            label, font=font, fill=_INK, anchor="ma", align="center",
        )  # fmt: skip
    return canvas


def _as_rgb(tile: Tile) -> Image.Image:
    image = tile if isinstance(tile, Image.Image) else Image.fromarray(tile)
    return image.convert("RGB")


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer side is at most ``side``."""
    width, height = image.size
    longer = max(width, height)
    if longer <= side:
        factor = side // longer
        return image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    size = (max(1, width * side // longer), max(1, height * side // longer))
    return image.resize(size, Image.Resampling.BOX)


def _bar_width(draw: ImageDraw.ImageDraw, scale_bar: ScaleBar, font: _Font) -> int:
    lengths = (draw.textlength(text, font=font) for text in (scale_bar.low, scale_bar.high))
    return math.ceil(sum(lengths)) + _BAR_WIDTH + 2 * _GAP


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
    ramp = colormap(np.tile(np.linspace(0.0, 1.0, _BAR_WIDTH), (_LABEL_SIZE, 1)))
    canvas.paste(Image.fromarray(ramp), (x, y))
    draw.text((x + _BAR_WIDTH + _GAP, y), scale_bar.high, font=font, fill=_INK)
