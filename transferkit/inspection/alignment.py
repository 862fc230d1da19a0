"""Confirmation of near duplicates in pixels: two small copies, aligned and compared."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.images.conversion import to_float32

__all__ = ["SIDE", "compare_copies"]

SIDE = 64
"""The side in pixels of the gray copies that are compared; the whole image is stretched to it."""

# Coarse to fine: the side of the copies, the number of Gauss-Newton steps, and the correlation
# below which a pair is given up.
_LEVELS = ((16, 2, 0.35), (16, 3, 0.6), (32, 3, 0.75), (SIDE, 3, 0.0))
# Copies of the same part need no alignment, even if they have no structure at 16 pixels.
_UNALIGNED = ((32, 0, 0.5), (SIDE, 0, 0.5))
# From this similarity on, it is also computed with the two copies exchanged.
_REPEATED = 0.5
# After a search at 32 pixels. The copies may have no structure that is visible at 16.
_LEVELS_AFTER_SEARCH = ((32, 4, 0.3), (SIDE, 4, 0.0))
_SEARCHED = 32
# The crops take a megabyte for each pair.
_SEARCH_BLOCK = 16
# The scale and shift of crops along one axis: 80%, 90% and 100%, in steps of 5%.
_CROPS = np.array(
    [
        (scale, step / 20)
        for scale, steps in ((1.0, 0), (0.9, 2), (0.8, 4))
        for step in range(-steps, steps + 1)
    ],
    np.float32,
).T
_IS_STRETCHED = np.abs(_CROPS[0][:, None] - _CROPS[0]) > 0.15
# Pairs that are aligned together; a few megabytes for each array.
_BLOCK = 256
# How much one copy may be larger than the other along an axis, and relative to the other axis: a
# crop by a fifth is still found. Nearly all of the smaller image must be in the other one, because
# walls and other periodic structures are also similar to themselves after a shift.
_MAX_SCALE = 1.3
_MAX_STRETCH = 1.2
_MAX_SHIFT = 0.3
_MIN_OVERLAP = 0.85
# Means of pixels, some of which are black or white, are between these and 0 or 1.
_BLACK, _WHITE = 0.02, 0.98
_MIN_UNCLIPPED = 0.1
# Added to the normal equations, relative to their diagonal.
_RIDGE = 1e-4
_EPSILON = 1e-6
# The standard deviation that counts as none.
_NOISE = 0.002

Floats = npt.NDArray[np.float32]


def compare_copies(
    copies: npt.NDArray[np.uint8],
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
    *,
    search: bool = False,
) -> Floats:
    """Return how similar pairs of images are after an alignment.

    Parameters
    ----------
    copies
        (n, 64, 64) gray copies of all images, stretched to a square.
    first, second
        (m,) the two images of each pair, as positions in ``copies``.
    search
        Whether to search for the scale and shift to start from, which takes several times as
        long, and finds cropped copies of images that have only fine structure.

    Returns
    -------
    array
        (m,) float32 in [-1, 1]; 1 for copies that differ at most in brightness, contrast, a crop
        and mirroring.

    Notes
    -----
    The second copy, as it is and mirrored, is shifted and scaled along both axes until it fits the
    first one best. Offset and gain of the brightness are fitted at the same time, from 16 to 64
    pixels, each in a few Gauss-Newton steps (Lucas and Kanade 1981). The similarity is the smaller
    one of two correlations over the pixels that overlap: of the copies, and of their details, which
    are the differences from their local means. Images of which only the rough distribution of light
    and dark is the same are not similar in detail.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.inspection.alignment import compare_copies
    >>> copies = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    >>> copies[1] = copies[0, :, ::-1] // 2 + 40
    >>> compare_copies(copies, np.array([0, 0]), np.array([1, 2])).round(2).tolist()
    [1.0, -1.0]
    """

    def compare_block(rows: slice) -> Floats:
        one, other = to_float32(copies[first[rows]]), to_float32(copies[second[rows]])
        mirrored = np.ascontiguousarray(other[:, :, ::-1])
        compare = _search_and_compare if search else _compare_directly
        return np.maximum(compare(one, other), compare(one, mirrored))

    size = _SEARCH_BLOCK if search else _BLOCK
    blocks = [slice(start, start + size) for start in range(0, len(first), size)]
    with ThreadPoolExecutor() as executor:
        found = list(executor.map(compare_block, blocks))
    return np.concatenate([*found, np.zeros(0, np.float32)])


class _Warp(NamedTuple):
    """The scales and shifts of each pair, (m, 2): along y and x, for coordinates in [-1, 1]."""

    scale: Floats
    shift: Floats


def _identity(number: int) -> _Warp:
    return _Warp(np.ones((number, 2), np.float32), np.zeros((number, 2), np.float32))


def _compare(
    first: Floats, second: Floats, warp: _Warp, levels: Sequence[tuple[int, int, float]]
) -> Floats:
    similarity = np.full(len(first), -1.0, np.float32)
    rows = np.arange(len(first))
    for side, steps, threshold in levels:
        one, other = _shrink(first[rows], side), _shrink(second[rows], side)
        for _ in range(steps):
            warp = _improve(one, other, warp)
        warped, weights = _apply(other, warp)
        found = _correlation(one, warped, weights)
        found[_overlap(weights, warp) < _MIN_OVERLAP] = -1.0
        kept = found >= threshold
        rows, warp = rows[kept], _Warp(warp.scale[kept], warp.shift[kept])
        if not len(rows):
            return similarity
    similarity[rows] = _similarity(one[kept], warped[kept], weights[kept])
    return similarity


def _similarity(one: Floats, other: Floats, weights: Floats) -> Floats:
    """Return the smaller correlation of aligned copies and of their details.

    One of the copies may be a brighter or darker version of the other, of which a part became white
    or black. So each is also compared with what the other would then be.
    """
    gain, offset = _fit_brightness(one, other, weights)
    pairs = (
        (one, other),
        (one, (gain * other + offset).clip(0, 1)),
        (((one - offset) / gain).clip(0, 1), other),
    )
    found = [
        np.minimum(_correlation(a, b, weights), _correlation(_detail(a), _detail(b), weights))
        for a, b in pairs
    ]
    highest: Floats = np.maximum.reduce(found)
    return highest


def _fit_brightness(one: Floats, other: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return gain and offset, (m, 1, 1), of the pixels that are neither black nor white."""
    inside = weights.copy()
    for copies in (one, other):
        inside *= (copies > _BLACK) & (copies < _WHITE)
    total = inside.sum(axis=(1, 2), keepdims=True)
    safe = np.maximum(total, 1.0)
    mean = (inside * one).sum(axis=(1, 2), keepdims=True) / safe
    other_mean = (inside * other).sum(axis=(1, 2), keepdims=True) / safe
    covariance = (inside * (one - mean) * (other - other_mean)).sum(axis=(1, 2), keepdims=True)
    variance = (inside * (other - other_mean) ** 2).sum(axis=(1, 2), keepdims=True)
    gain = covariance / np.maximum(variance, _EPSILON)
    # With few such pixels, or a gain that is no change of brightness, the copies are left as they
    # are.
    usable = (total >= _MIN_UNCLIPPED * one[0].size) & (gain > 0.4) & (gain < 2.5)
    gain = np.where(usable, gain, 1.0)
    return gain, np.where(usable, mean - gain * other_mean, 0.0)


def _compare_directly(first: Floats, second: Floats) -> Floats:
    """Compare copies of which one may be shifted or scaled by a few pixels."""
    warp = _identity(len(first))
    similarity: Floats = np.maximum(
        _compare(first, second, warp, _UNALIGNED), _compare(first, second, warp, _LEVELS)
    )
    # A crop has more pixels of the same part. Nothing is lost if it is the one that is warped.
    rows = np.flatnonzero(similarity >= _REPEATED)
    if not len(rows):
        return similarity
    reverse = _compare(second[rows], first[rows], _identity(len(rows)), _LEVELS)
    similarity[rows] = np.maximum(similarity[rows], reverse)
    return similarity


def _search_and_compare(first: Floats, second: Floats) -> Floats:
    """Compare copies of which one may be a crop of the other."""
    similarity: Floats = np.maximum(
        _compare(second, first, _inverse(_search(first, second)), _LEVELS_AFTER_SEARCH),
        _compare(first, second, _inverse(_search(second, first)), _LEVELS_AFTER_SEARCH),
    )
    return similarity


def _inverse(warp: _Warp) -> _Warp:
    return _Warp(np.reciprocal(warp.scale), np.divide(-warp.shift, warp.scale))


def _search(first: Floats, second: Floats) -> _Warp:
    """Return the scale and shift with the highest correlation, if the first copy is a crop."""
    one = _detail(_shrink(first, _SEARCHED))
    other = _detail(_shrink(second, _SEARCHED))
    warp = _Warp(*(np.repeat(column[:, None], 2, axis=1) for column in _CROPS))
    (matrices, _), _ = _matrices(warp, _SEARCHED)
    crops = np.einsum("yai,nij,xbj->nyxab", matrices, other, matrices, optimize=True)
    norms = np.sqrt(np.einsum("nyxab,nyxab->nyx", crops, crops))
    correlation = np.einsum("nyxab,nab->nyx", crops, one, optimize=True)
    correlation /= np.maximum(norms, _EPSILON)
    correlation[:, _IS_STRETCHED] = -np.inf
    best = correlation.reshape(len(crops), -1).argmax(axis=1)
    chosen = np.stack(np.unravel_index(best, correlation.shape[1:]), axis=1)
    return _Warp(_CROPS[0][chosen], _CROPS[1][chosen])


def _shrink(copies: Floats, side: int) -> Floats:
    """Return the means of squares of pixels."""
    factor = SIDE // side
    shrunk: Floats = copies.reshape(len(copies), side, factor, side, factor).mean(axis=(2, 4))
    return shrunk


def _centers(side: int) -> Floats:
    """Return the coordinates of the centers of pixels, in [-1, 1]."""
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)


def _matrices(warp: _Warp, side: int) -> tuple[list[Floats], list[Floats]]:
    """Return linear interpolation along y and x as matrices, and whether it is inside, 0 or 1."""
    matrices, inside = [], []
    for axis in (0, 1):
        coordinates = warp.scale[:, axis, None] * _centers(side) + warp.shift[:, axis, None]
        positions = ((coordinates + 1) * side - 1) / 2
        inside.append((np.abs(positions - (side - 1) / 2) <= side / 2).astype(np.float32))
        positions = positions.clip(0, side - 1)
        distance = np.abs(positions[:, :, None] - np.arange(side, dtype=np.float32))
        matrices.append(np.maximum(1 - distance, 0))
    return matrices, inside


def _apply(copies: Floats, warp: _Warp) -> tuple[Floats, Floats]:
    """Return the warped copies, and the weight of each pixel: 0 outside of the copy."""
    (rows, columns), (inside_y, inside_x) = _matrices(warp, copies.shape[1])
    warped: Floats = np.matmul(np.matmul(rows, copies), columns.swapaxes(1, 2))
    weights: Floats = np.einsum("ny,nx->nyx", inside_y, inside_x)
    return warped, weights


def _overlap(weights: Floats, warp: _Warp) -> Floats:
    """Return the fraction of the smaller image that is in the other one."""
    # The area of the second copy in the coordinates of the first one, whose area is 1.
    area = 1 / warp.scale.prod(axis=1)
    overlap: Floats = weights.mean(axis=(1, 2)) / np.minimum(area, 1)
    return overlap


def _improve(first: Floats, second: Floats, warp: _Warp) -> _Warp:
    """Return the warp after one Gauss-Newton step.

    With the derivatives dy and dx of the warped copy w, the first copy is approximated by
    gain * (w + (y * a + b) * dy + (x * c + d) * dx) + offset, which is linear in gain, offset and
    the products of gain and a, b, c, d.
    """
    number, side, _ = first.shape
    (rows, columns), (inside_y, inside_x) = _matrices(warp, side)
    columns = columns.swapaxes(1, 2)
    dy, dx = (np.gradient(second, axis=axis) * (side / 2) for axis in (1, 2))
    y, x = _centers(side)[:, None], _centers(side)[None, :]
    dy, dx = rows @ dy @ columns, rows @ dx @ columns
    terms = np.stack([rows @ second @ columns, np.ones_like(first), dy * y, dy, dx * x, dx], axis=1)
    weights = inside_y[:, :, None] * inside_x[:, None, :]
    weighted = (terms * weights[:, None]).reshape(number, 6, -1)
    terms = terms.reshape(number, 6, -1)
    normal = (weighted @ terms.swapaxes(1, 2)).astype(np.float64)
    normal += np.einsum("nii->ni", normal)[:, :, None] * (_RIDGE * np.eye(6))
    normal += _EPSILON * np.eye(6)
    right = weighted @ first.reshape(number, -1, 1)
    solution = np.linalg.solve(normal, right.astype(np.float64))[:, :, 0]
    gain = solution[:, :1]
    # A copy that correlates negatively does not fit; the warp stays as it is.
    step = np.where(gain > _EPSILON, solution[:, 2:] / np.maximum(gain, _EPSILON), 0.0)
    step = step.clip(-2 / side, 2 / side).astype(np.float32)
    scale = (warp.scale + step[:, ::2]).clip(1 / _MAX_SCALE, _MAX_SCALE)
    mean = np.sqrt(scale.prod(axis=1, keepdims=True))
    stretch = np.sqrt(np.float32(_MAX_STRETCH))
    return _Warp(
        scale.clip(mean / stretch, mean * stretch),
        (warp.shift + step[:, 1::2]).clip(-_MAX_SHIFT, _MAX_SHIFT),
    )


def _detail(copies: Floats) -> Floats:
    """Return the difference of each pixel from the mean of 5 x 5 pixels around it."""
    padded = np.pad(copies, ((0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = copies.shape[1:]
    across = np.add.reduce([padded[:, :, shift : shift + width] for shift in range(5)])
    mean = np.add.reduce([across[:, shift : shift + height] for shift in range(5)]) / 25
    detail: Floats = copies - mean
    return detail


def _correlation(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Return the weighted correlation of each pair; 0 if a copy is constant."""
    total = np.maximum(weights.sum(axis=(1, 2), keepdims=True), 1.0)
    one = first - (weights * first).sum(axis=(1, 2), keepdims=True) / total
    other = second - (weights * second).sum(axis=(1, 2), keepdims=True) / total
    covariance = (weights * one * other).sum(axis=(1, 2))
    variances = (weights * one**2).sum(axis=(1, 2)) * (weights * other**2).sum(axis=(1, 2))
    # Rounding to 8 bits is all that is left of a constant copy.
    smallest = (total[:, 0, 0] * _NOISE**2) ** 2
    correlation: Floats = covariance / np.sqrt(np.maximum(variances, smallest))
    return correlation
