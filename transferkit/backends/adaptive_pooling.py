"""The windows of adaptive average pooling, as a matrix product along each axis."""

from __future__ import annotations

from typing import Any

__all__ = ["adaptive_windows"]


def adaptive_windows(length: Any, parts: int, index: Any, position: Any) -> tuple[Any, Any]:
    """Return which positions of an axis each window covers, and the windows' sizes.

    Window i covers the positions from ``floor(i * length / parts)`` up to, but not including,
    ``ceil((i + 1) * length / parts)``. The quotient of the two results, as floating-point
    numbers, is the matrix whose product with an axis of ``length`` averages its windows.

    The arithmetic uses operators alone (``+ - * // <= < &``), so that NumPy arrays, TensorFlow
    tensors and recorded ONNX values all work. All numbers are non-negative, so ``//`` may round
    toward zero.

    Parameters
    ----------
    length
        The length of the axis: an int, or a scalar tensor.
    parts
        The number of windows, 1 or more.
    index
        The integers from 0 to ``parts - 1``, of shape (parts, 1).
    position
        The integers from 0 to ``length - 1``, of shape (length,) or (1, length).

    Returns
    -------
    inside
        Booleans of shape (parts, length): whether a window covers a position.
    size
        Integers of shape (parts, 1): the number of positions that each window covers.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.backends.adaptive_pooling import adaptive_windows
    >>> inside, size = adaptive_windows(3, 2, np.arange(2)[:, None], np.arange(3))
    >>> inside / size
    array([[0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]])
    """
    start = index * length // parts
    # Rounded up, without negative numbers.
    end = ((index + 1) * length + (parts - 1)) // parts
    inside = (start <= position) & (position < end)
    return inside, end - start
