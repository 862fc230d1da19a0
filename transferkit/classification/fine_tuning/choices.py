"""What is chosen by measurements on the training images: epochs, learning rate, mirrored images."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["LEARNING_RATES", "choose_epochs", "is_mirrored_recognized"]

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
"""The learning rates among which short trials choose."""

_IMAGES = 3000
_MIN_EPOCHS = 3
_MAX_EPOCHS = 12
# Of the difference, as in McNemar's test.
_STANDARD_ERRORS = 1.0


def choose_epochs(number: int) -> int:
    """Return the number of epochs for a number of training images.

    Examples
    --------
    >>> from transferkit.classification.fine_tuning.choices import choose_epochs
    >>> [choose_epochs(number) for number in (50, 500, 5000)]
    [12, 6, 3]
    """
    return min(max(math.ceil(_IMAGES / number), _MIN_EPOCHS), _MAX_EPOCHS)


def is_mirrored_recognized(
    hits: npt.NDArray[np.bool_], mirrored_hits: npt.NDArray[np.bool_]
) -> bool:
    """Return whether images are recognized as well when they are mirrored.

    Not so for letters, whose mirror images are other letters.

    Parameters
    ----------
    hits
        (n,) whether each image is classified correctly.
    mirrored_hits
        (n,) the same for the mirrored images.

    Returns
    -------
    bool
        False if the images that are recognized only as they are exceed those that are recognized
        only when mirrored by more than one standard error (McNemar, 1947).

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.choices import is_mirrored_recognized
    >>> hits = np.ones(20, bool)
    >>> is_mirrored_recognized(hits, hits), is_mirrored_recognized(hits, ~hits)
    (True, False)
    """
    lost = int((hits & ~mirrored_hits).sum())
    gained = int((mirrored_hits & ~hits).sum())
    return lost - gained <= _STANDARD_ERRORS * math.sqrt(lost + gained)
