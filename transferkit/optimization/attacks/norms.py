"""How long a change is: lengths, balls and steepest directions for l0, l1, l2 and l-infinity.

All but `lengths` are written over the table, on changes (n, h, w, c) of a size that is known when
they are compiled, one length for each picture as (n, 1, 1, 1), so that they run where the pictures
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table

__all__ = ["NORMS", "choose", "dual_length", "length", "lengths", "movable", "project", "steepest"]

NORMS = ("linf", "l2", "l1", "l0")
"""The norms: the largest change, the Euclidean length, the sum of the absolute changes, and
how many of the h * w * c values are changed at all."""

_AXES = (1, 2, 3)
_TINY = 1e-20
# Each halves the interval that the threshold is in: more would change no float32 number.
_BISECTIONS = 26


def lengths(changes: npt.NDArray[Any], norm: str) -> npt.NDArray[np.float64]:
    """The length of each change, in float64.

    Parameters
    ----------
    changes
        (n, h, w, c), in pixels whose range is 1.
    norm
        One of `NORMS`.

    Returns
    -------
    array
        (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.optimization.attacks.norms import NORMS, lengths
    >>> change = np.array([0.3, -0.4, 0.0]).reshape(1, 1, 1, 3)
    >>> {norm: lengths(change, norm).round(6).item() for norm in NORMS}
    {'linf': 0.4, 'l2': 0.5, 'l1': 0.7, 'l0': 2.0}
    """
    rows = np.abs(changes.reshape(len(changes), -1).astype(np.float64))
    if norm == "linf":
        return np.asarray(rows.max(axis=1))
    if norm == "l2":
        return np.asarray(np.sqrt((rows**2).sum(axis=1)))
    if norm == "l1":
        return np.asarray(rows.sum(axis=1))
    return np.asarray(np.count_nonzero(rows, axis=1), np.float64)


def length(table: Table[Any], changes: Any, norm: str) -> Any:
    """The length of each change, (n, 1, 1, 1)."""
    if norm == "l2":
        squares = table.sum(table.multiply(changes, changes), axes=_AXES, keepdims=True)
        return table.sqrt(squares)
    sizes = table.absolute(changes)
    if norm == "linf":
        return table.max(sizes, axes=_AXES, keepdims=True)
    if norm == "l1":
        return table.sum(sizes, axes=_AXES, keepdims=True)
    return table.sum(table.sign(sizes), axes=_AXES, keepdims=True)


def dual_length(table: Table[Any], gradients: Any, norm: str) -> Any:
    """How fast a function of these gradients can grow along changes of length 1.

    Of l0, which has no unit ball of its own to move in, it is that of the largest component.
    """
    dual = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}[norm]
    return length(table, gradients, dual)


def steepest(table: Table[Any], gradients: Any, norm: str, share: float = 0.05) -> Any:
    """The change of length 1 along which a function of these gradients grows fastest.

    For l1 that would be a single value of the picture; instead the ``share`` of the values
    with the largest gradients is changed equally, as in SLIDE (Tramer and Boneh 2019).
    """
    if norm == "linf":
        return table.sign(gradients)
    if norm == "l2":
        return table.divide(gradients, _at_least(table, length(table, gradients, "l2"), _TINY))
    number = table.multiply(length(table, gradients, "l0"), table.asarray(share))
    number = _at_least(table, number, 1.0)
    chosen = _largest(table, table.absolute(gradients), number)
    signs = table.multiply(table.sign(gradients), chosen)
    return table.divide(signs, _at_least(table, length(table, signs, "l1"), 1.0))


def movable(table: Table[Any], gradients: Any, x: Any) -> Any:
    """The gradients, 0 where a value of ``x`` is black or white and would become more so."""
    minus, one = table.asarray(-1.0), table.asarray(1.0)
    upwards = table.multiply(table.relu(gradients), table.relu(table.sign(table.subtract(one, x))))
    downwards = table.multiply(
        table.relu(table.multiply(gradients, minus)), table.relu(table.sign(x))
    )
    return table.subtract(upwards, downwards)


def project(table: Table[Any], changes: Any, radius: Any, norm: str) -> Any:
    """The point of the ball of ``radius`` (n, 1, 1, 1) around 0 that is nearest to each change.

    Lengths may come out longer by float32's rounding.
    """
    if norm == "linf":
        units = table.divide(changes, _at_least(table, radius, _TINY))
        return table.multiply(table.clip(units, low=-1.0, high=1.0), radius)
    if norm == "l2":
        return _shrink(table, changes, radius, norm)
    sizes = table.absolute(changes)
    if norm == "l0":
        return table.multiply(changes, _largest(table, sizes, radius))

    # Duchi et al. 2008: all sizes less by the same amount, none below 0.
    def left(amount: Any) -> Any:
        return table.relu(table.subtract(sizes, amount))

    _, amount = _thresholds(
        table, sizes, radius, lambda found: table.sum(left(found), axes=_AXES, keepdims=True)
    )
    shorter = table.multiply(table.sign(changes), left(amount))
    return _shrink(table, shorter, radius, norm)


def _shrink(table: Table[Any], changes: Any, radius: Any, norm: str) -> Any:
    """Each change that is longer than ``radius`` scaled down to it."""
    found = length(table, changes, norm)
    # radius / max(radius, length), written without a comparison.
    longer = table.add(radius, table.relu(table.subtract(found, radius)))
    return table.multiply(changes, table.divide(radius, _at_least(table, longer, _TINY)))


def _largest(table: Table[Any], sizes: Any, number: Any) -> Any:
    """1 for ``number`` of the largest ``sizes`` of each picture, 0 for the others.

    Of equal ones the first come first; what is 0 is never among them.
    """
    fewer, more = _around(table, sizes, number)
    # Those in between are equal: their places decide, which no two have in common.
    height, width, channels = sizes.shape[1:]
    places = np.arange(height * width * channels, 0, -1).reshape(1, height, width, channels)
    ranks = table.multiply(table.subtract(more, fewer), table.asarray(places))
    missing = table.subtract(number, table.sum(fewer, axes=_AXES, keepdims=True))
    return table.add(fewer, _around(table, ranks, missing)[0])


def _around(table: Table[Any], sizes: Any, number: Any) -> tuple[Any, Any]:
    """1 for the sizes above a threshold: for at most ``number`` of them, and for just more."""

    def above(amount: Any) -> Any:
        return table.relu(table.sign(table.subtract(sizes, amount)))

    low, high = _thresholds(
        table, sizes, number, lambda found: table.sum(above(found), axes=_AXES, keepdims=True)
    )
    return above(high), above(low)


def _thresholds(
    table: Table[Any], sizes: Any, wanted: Any, measure: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Around the smallest amount whose measure, which falls as it grows, is at most ``wanted``.

    The second fulfils that, the first does not, unless 0 does: then both are 0.
    """
    high = table.max(sizes, axes=_AXES, keepdims=True)
    # Where 0 will do, 0 is the answer: what is within already is left as it is.
    low = table.multiply(high, table.asarray(0.0))
    fits = _fits(table, measure(low), wanted)
    high = table.multiply(high, table.subtract(table.asarray(1.0), fits))
    for _ in range(_BISECTIONS):
        middle = table.multiply(table.add(low, high), table.asarray(0.5))
        fits = _fits(table, measure(middle), wanted)
        low, high = (
            choose(table, fits, low, middle),
            choose(table, fits, middle, high),
        )
    return low, high


def _fits(table: Table[Any], found: Any, wanted: Any) -> Any:
    """1 where ``found <= wanted``, else 0."""
    excess = table.relu(table.sign(table.subtract(found, wanted)))
    return table.subtract(table.asarray(1.0), excess)


def choose(table: Table[Any], condition: Any, x: Any, y: Any) -> Any:
    """``x`` where ``condition`` is 1, ``y`` where it is 0."""
    other = table.subtract(table.asarray(1.0), condition)
    return table.add(table.multiply(condition, x), table.multiply(other, y))


def _at_least(table: Table[Any], x: Any, low: float) -> Any:
    return table.add(table.relu(table.subtract(x, table.asarray(low))), table.asarray(low))
