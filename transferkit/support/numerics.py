"""Numerical functions on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_array", "l2_normalize", "softmax"]

# Prevents a division by 0, as in the primitive ``l2_normalize``: a row of zeros stays zero.
_TINY = 1e-30


def as_array(values: object, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Return a sequence, an array, a tensor or a pandas object as an array.

    A tensor of PyTorch may be on another device, be part of a graph, or have the dtype bfloat16,
    which NumPy does not have. The column of a data frame with one column becomes an array with one
    axis.

    Examples
    --------
    >>> from transferkit.support.numerics import as_array
    >>> as_array([1, 2], float).tolist()
    [1.0, 2.0]
    """
    tensor: Any = values
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
    array = np.asarray(tensor, dtype)
    is_frame = hasattr(values, "columns") and array.ndim == 2
    return array[:, 0] if is_frame and array.shape[1] == 1 else array


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the probabilities of each row of logits.

    Parameters
    ----------
    logits
        (n, classes), floats.

    Returns
    -------
    array
        (n, classes), float64, computed in float64; each row sums to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.support.numerics import softmax
    >>> softmax(np.array([[0.0, 0.0, 1000.0], [1.0, 1.0, -1000.0]])).tolist()
    [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]
    """
    # The maximum is subtracted to avoid overflow; it cancels out.
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def l2_normalize(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale each row to Euclidean norm 1, as the primitive of the same name does.

    Parameters
    ----------
    x
        (n, d), float32.

    Returns
    -------
    array
        (n, d), float32; a row of zeros stays zero. Norms are computed in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.support.numerics import l2_normalize
    >>> l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(6).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    normalized: npt.NDArray[np.float32] = (x / np.maximum(norms, _TINY)).astype(np.float32)
    return normalized
