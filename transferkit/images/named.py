"""Images that have a name, and whose content is read later: a URL, a file in an archive."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["NamedImage"]


class NamedImage(ABC):
    """An image with a name of its own, whose content is read when it is needed.

    It is accepted wherever a path is. Reading may be slow: several are read at the same time, in
    threads, ahead of the network.

    Attributes
    ----------
    source
        The name, which should be the same in every run; it is used in messages, in `Skipped` and
        as the source of a row.

    Examples
    --------
    >>> import io
    >>> from dataclasses import dataclass
    >>> from PIL import Image
    >>> from transferkit.images import NamedImage, Preprocessing, stream_batches
    >>> @dataclass
    ... class Square(NamedImage):
    ...     source: str
    ...
    ...     def read(self) -> bytes:
    ...         file = io.BytesIO()
    ...         Image.new("RGB", (8, 8)).save(file, "PNG")
    ...         return file.getvalue()
    >>> batches = stream_batches([Square("a"), Square("b")], Preprocessing(8), batch_size=2)
    >>> next(batches).sources
    ['a', 'b']
    """

    source: str

    @abstractmethod
    def read(self) -> bytes:
        """Return the content of the image file; called in a thread.

        Returns
        -------
        bytes
            As for `read_image`.

        Raises
        ------
        ImageError
            If it cannot be read. ``on_error="skip"`` skips the image; any other exception
            counts as an image error too.
        """
