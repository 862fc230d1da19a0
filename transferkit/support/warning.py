"""Warnings that point to the user's code."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn"]

# scikit-learn wraps `transform`, and calls estimators in pipelines and searches, with joblib.
_NOT_THE_USER = frozenset(("transferkit", "sklearn", "joblib"))


def warn(message: str) -> None:
    """Warn, with the line outside this package as the place of the warning.

    Which public method calls the function that warns, and through how many others, does not
    matter. Frames of scikit-learn are not the user's either.

    Examples
    --------
    >>> import warnings
    >>> from transferkit.support.warning import warn
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("the images are nearly black")
    >>> str(caught[0].message)
    'the images are nearly black'
    """
    # `skip_file_prefixes` of the standard library needs Python 3.12.
    frame, level = sys._getframe(1), 2
    while _is_ours(frame) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _NOT_THE_USER
