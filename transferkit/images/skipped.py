"""Images that cannot be read: the parameter ``on_error``, and the record of a skipped image."""

from __future__ import annotations

from dataclasses import dataclass

from transferkit.errors import ParameterError, shorten

__all__ = ["Skipped", "check_on_error"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image, or a folder or class of images, that was skipped.

    Parameters
    ----------
    source
        Its path, or its position in the input (``"images[3]"``).
    reason
        Why it was skipped, as a clause.
    """

    source: str
    reason: str


def check_on_error(on_error: object) -> None:
    """Check that ``on_error`` is ``"raise"`` or ``"skip"``.

    Raises
    ------
    ParameterError
        If it is not.

    Examples
    --------
    >>> from transferkit.images.skipped import check_on_error
    >>> check_on_error("ignore")
    Traceback (most recent call last):
        ...
    transferkit.errors.ParameterError: on_error is 'ignore'; expected 'raise' or 'skip'
    """
    if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
        raise ParameterError(f"on_error is {shorten(on_error)}; expected 'raise' or 'skip'")
