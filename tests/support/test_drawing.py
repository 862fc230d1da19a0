"""Grids of labelled tiles: their places, their sizes, their colours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transferkit.errors import ImageError
from transferkit.support.drawing import ScaleBar, colour, labelled_grid

RED = np.array([255, 0, 0], np.uint8)


def _red(height: int, width: int) -> np.ndarray:
    return np.tile(RED, (height, width, 1))


def _rectangles(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each rectangle of red."""
    red = (np.asarray(picture) == RED).all(axis=2)
    left = red & ~np.pad(red, ((0, 0), (1, 0)))[:, :-1]
    corners = left & ~np.pad(red, ((1, 0), (0, 0)))[:-1]
    found = []
    for y, x in np.argwhere(corners):
        right = x + np.argmin(np.append(red[y, x:], False))
        bottom = y + np.argmin(np.append(red[y:, x], False))
        assert red[y:bottom, x:right].all()
        found.append((int(x), int(y), int(right), int(bottom)))
    assert sum((r - x) * (b - y) for x, y, r, b in found) == red.sum()
    return found


def test_tiles_are_enlarged_by_whole_factors_shrunk_and_set_row_by_row() -> None:
    grid = labelled_grid([_red(7, 7), _red(400, 400), _red(3, 7)], list("abc"), columns=2, side=50)
    first, second, third = _rectangles(grid)
    sizes = [(right - x, bottom - y) for x, y, right, bottom in (first, second, third)]
    # 50 // 7 * 7 = 49, which the large one is shrunk to.
    assert sizes == [(49, 49), (49, 49), (49, 21)]
    assert first[1] == second[1]
    assert first[2] < second[0]
    assert third[0] == first[0]
    assert third[1] > first[3]


def test_each_pixel_of_a_small_tile_is_seen() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grid = np.asarray(labelled_grid([tile], ["x"], side=70))
    enlarged = tile.repeat(10, axis=0).repeat(10, axis=1)
    places = np.argwhere((grid == enlarged[0, 0]).all(axis=2))
    y, x = places[0]
    np.testing.assert_array_equal(grid[y : y + 50, x : x + 70], enlarged)


@pytest.mark.parametrize("number", [1, 2, 7, 300])
def test_text_and_tiles_lie_apart_and_inside(number: int) -> None:
    labels = [f"tile {index}\nof many names" for index in range(number)]
    tiles = [_red(9, 9)] * number
    bare = labelled_grid(tiles, labels, title="a title " * 10, scale_bar=ScaleBar("0", "1"))
    # Had text run over a tile, it would be no rectangle, or less would be red.
    rectangles = _rectangles(bare)
    assert len(rectangles) == number
    assert len({(right - x, bottom - y) for x, y, right, bottom in rectangles}) == 1
    edges = np.asarray(bare)
    for edge in (edges[:4], edges[:, :4], edges[:, -4:], edges[-1:]):
        assert (edge == 255).all()


def test_every_label_is_drawn_in_full_and_below_its_tile() -> None:
    short = np.asarray(labelled_grid([_red(9, 9)] * 2, ["", "i"], side=9))
    long = np.asarray(labelled_grid([_red(9, 9)] * 2, ["", "much longer than a tile"], side=9))
    assert long.shape[1] > short.shape[1] + 100
    for picture in (short, long):
        ink = np.argwhere(picture.max(axis=2) < 100)
        assert ink[:, 0].min() >= max(
            bottom for *_, bottom in _rectangles(Image.fromarray(picture))
        )


def test_grey_and_floats_are_pictures_too() -> None:
    grid = labelled_grid([np.full((5, 5), 0.5), np.full((5, 5), 100, np.uint8)], ["", ""])
    colours = {tuple(pixel) for pixel in np.asarray(grid).reshape(-1, 3).tolist()}
    assert {(128, 128, 128), (100, 100, 100)} <= colours


def test_colours_become_lighter_in_even_steps() -> None:
    levels = colour(np.linspace(0, 1, 64)[None])[0] / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    # Lightness, as CIE 1976 defines it; all of these are beyond its linear part.
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert steps.min() > 0.6 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_bad_input() -> None:
    for tiles, labels, options in (
        ([], [], {}),
        ([_red(2, 2)], [], {}),
        ([_red(2, 2)], ["a"], {"columns": 0}),
        ([_red(2, 2)], ["a"], {"side": 0}),
    ):
        with pytest.raises(ValueError, match=r"tiles and|at least 1"):
            labelled_grid(tiles, labels, **options)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"tiles\[1\]"):
        labelled_grid([_red(2, 2), np.full((2, 2), np.nan)], ["a", "b"])
