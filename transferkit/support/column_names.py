"""The names that columns of tables of images usually have."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transferkit.errors import shorten

__all__ = ["FILE_COLUMNS", "has_name", "list_columns"]

_MAX_SHOWN = 10

FILE_COLUMNS = (
    *("file", "file_name", "filename", "file_path", "filepath", "path"),
    *("image", "image_name", "image_path", "image_file", "img", "img_path"),
)
"""The usual names of a column of images, in lower case, with underscores."""


def has_name(column: str, names: Collection[str]) -> bool:
    """Return whether a column has one of some names, in any case, with any separator.

    Examples
    --------
    >>> from transferkit.support.column_names import FILE_COLUMNS, has_name
    >>> has_name("Image Path", FILE_COLUMNS)
    True
    """
    return column.strip().lower().replace(" ", "_").replace("-", "_") in names


def list_columns(columns: Sequence[str]) -> str:
    """Return the names of columns for a message; of many, the first ten.

    Examples
    --------
    >>> from transferkit.support.column_names import list_columns
    >>> list_columns(["path", "label"])
    "'path', 'label'"
    """
    shown = [shorten(column) for column in columns[:_MAX_SHOWN]]
    return ", ".join(shown) + (", ..." if len(columns) > _MAX_SHOWN else "")
