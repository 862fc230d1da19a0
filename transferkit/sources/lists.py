"""Text files with the path or URL of an image on each line."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from typing import IO

from transferkit.errors import DatasetError, FileFormatError, shorten_path
from transferkit.sources.items import SourceImage, UnreadableImage
from transferkit.sources.places import Places

__all__ = ["TextList"]

# The maximum length of a line, in characters; paths and URLs are shorter.
_MAX_LINE = 1 << 16
_BEGINNING = 1 << 16
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextList:
    """A text file with the path or URL of an image on each line, which is not kept in memory.

    It is UTF-8, or UTF-16 with a byte order mark. Blank lines are ignored.

    Parameters
    ----------
    name
        The path or URL of the file.
    open_file
        Opens the file.

    Attributes
    ----------
    number
        The number of images.

    Raises
    ------
    FileFormatError
        If it is no text.
    DatasetError
        If it is empty, or cannot be read; and as `Places.check` does.
    """

    def __init__(self, name: str, open_file: Callable[[], IO[bytes]]) -> None:
        self._name = name
        self._open = open_file
        self._places = Places(name)
        first = ""
        self.number = 0
        try:
            with open_file() as file:
                beginning = file.read(_BEGINNING)
            self._is_utf_16 = beginning.startswith(_UTF_16)
            if b"\0" in beginning and not self._is_utf_16:
                raise FileFormatError(
                    f"{shorten_path(name)}: not a text file; expected the path or URL of an image "
                    "on each line, in UTF-8"
                )
            for _, line in self._lines():
                first = first or line
                self.number += 1
        except OSError as error:
            reason = error.strerror or error
            raise DatasetError(f"{shorten_path(name)}: cannot be read: {reason}") from None
        if not self.number:
            raise DatasetError(
                f"{shorten_path(name)}: the list is empty; expected the path or URL of an image "
                "on each line"
            )
        self._places.check(first)

    def __iter__(self) -> Iterator[SourceImage]:
        for number, line in self._lines():
            if len(line) > _MAX_LINE:
                yield UnreadableImage(
                    f"{self._name}, line {number}",
                    f"longer than {_MAX_LINE:,} characters; expected a path or URL",
                )
            else:
                yield self._places.resolve(line)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield each line that is not blank, with its number; of a long one, the beginning."""
        encoding, errors = (
            ("utf-16", "replace")
            if self._is_utf_16
            else (
                # Names that are no valid Unicode, as Linux allows, are kept as they are.
                "utf-8-sig",
                "surrogateescape",
            )
        )
        # Lines end as files do, not as str.splitlines, which knows more separators.
        with io.TextIOWrapper(self._open(), encoding, errors, newline="\n") as text:
            number, continues = 0, False
            while line := text.readline(_MAX_LINE + 2):
                if not continues:
                    number += 1
                    content = line.rstrip("\r\n")
                    if content.strip():
                        yield number, content
                continues = not line.endswith("\n")
