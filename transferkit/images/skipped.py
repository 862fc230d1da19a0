"""The record of an image that was skipped."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Skipped"]


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
