"""Grids of labeled tiles: positions, sizes and colors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transferkit.support.drawing import ScaleBar, colormap, labeled_grid

RED = np.array([255, 0, 0], np.uint8)


def _red(height: int, width: int) -> np.ndarray:
    return np.tile(RED, (height, width, 1))


def _rectangles(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each red rectangle."""
    red = (np.asarray(image) == RED).all(axis=2)
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


def test_small_tiles_are_enlarged_by_integer_factors_and_large_ones_shrunk() -> None:
    grid = labeled_grid([_red(7, 7), _red(400, 400), _red(3, 7)], list("abc"), columns=2, side=50)
    first, second, third = _rectangles(grid)
    sizes = [(right - x, bottom - y) for x, y, right, bottom in (first, second, third)]
    # The large tile is shrunk to 50 // 7 * 7 = 49.
    assert sizes == [(49, 49), (49, 49), (49, 21)]
    assert first[1] == second[1]
    assert first[2] < second[0]
    assert third[0] == first[0]
    assert third[1] > first[3]


def test_each_pixel_of_a_small_tile_is_visible() -> None:
    tile = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grid = np.asarray(labeled_grid([tile], ["x"], side=70))
    enlarged = tile.repeat(10, axis=0).repeat(10, axis=1)
    places = np.argwhere((grid == enlarged[0, 0]).all(axis=2))
    y, x = places[0]
    np.testing.assert_array_equal(grid[y : y + 50, x : x + 70], enlarged)


@pytest.mark.parametrize("number", [1, 2, 7, 300])
def test_text_and_tiles_do_not_overlap_or_touch_the_edges(number: int) -> None:
    labels = [f"tile {index}\nwith two lines" for index in range(number)]
    tiles = [_red(9, 9)] * number
    bare = labeled_grid(tiles, labels, title="a title " * 10, scale_bar=ScaleBar("0", "1"))
    # Text over a tile would break up its red rectangle.
    rectangles = _rectangles(bare)
    assert len(rectangles) == number
    assert len({(right - x, bottom - y) for x, y, right, bottom in rectangles}) == 1
    edges = np.asarray(bare)
    for edge in (edges[:4], edges[:, :4], edges[:, -4:], edges[-1:]):
        assert (edge == 255).all()


def test_labels_are_drawn_in_full_below_their_tiles() -> None:
    short = np.asarray(labeled_grid([_red(9, 9)] * 2, ["", "i"], side=9))
    long = np.asarray(labeled_grid([_red(9, 9)] * 2, ["", "much longer than a tile"], side=9))
    assert long.shape[1] > short.shape[1] + 100
    for grid in (short, long):
        ink = np.argwhere(grid.max(axis=2) < 100)
        assert ink[:, 0].min() >= max(bottom for *_, bottom in _rectangles(Image.fromarray(grid)))


def test_gray_arrays_and_images_of_any_mode_are_accepted() -> None:
    gray_image = Image.new("L", (5, 5), 128)
    grid = labeled_grid([gray_image, np.full((5, 5), 100, np.uint8)], ["", ""])
    colors = {tuple(pixel) for pixel in np.asarray(grid).reshape(-1, 3).tolist()}
    assert {(128, 128, 128), (100, 100, 100)} <= colors


def test_colors_become_lighter_in_even_steps() -> None:
    levels = colormap(np.linspace(0, 1, 64)[None])[0] / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    # CIE 1976 lightness; all of these colors are above its linear segment.
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert steps.min() > 0.6 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_invalid_input_is_rejected() -> None:
    for tiles, labels, options in (
        ([], [], {}),
        ([_red(2, 2)], [], {}),
        ([_red(2, 2)], ["a"], {"columns": 0}),
        ([_red(2, 2)], ["a"], {"side": 0}),
    ):
        with pytest.raises(ValueError, match=r"one label for each tile|at least 1"):
            labeled_grid(tiles, labels, **options)  # type: ignore[arg-type]
