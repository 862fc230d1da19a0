"""Parquet files with the path or URL, or the content, of an image in each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from transferkit.errors import (
    DatasetError,
    FileFormatError,
    UnknownNameError,
    shorten,
    shorten_path,
)
from transferkit.sources.items import ContentImage, SourceImage, UnreadableImage
from transferkit.sources.places import Places
from transferkit.support.arrow import import_arrow
from transferkit.support.column_names import FILE_COLUMNS, has_name, list_columns

__all__ = ["ParquetTable"]

# Rows in memory at a time: of paths, and of images.
_PATHS = 4096
_IMAGES = 16
_BUFFER = 1 << 20
_NAMES = (*FILE_COLUMNS, "url", "image_url")
# The fields of a column of images of Hugging Face's datasets.
_FIELDS = frozenset(("bytes", "path"))


class ParquetTable:
    """A Parquet file with an image in each row, of which few rows are in memory at a time.

    Parameters
    ----------
    name
        The path or URL of the file.
    open_file
        Opens the file: a path, which is mapped to memory, or a file object that can seek.
    column
        The column of the images: strings, which are paths or URLs; or binary, the content of image
        files; or structures of ``bytes`` and ``path``, as Hugging Face's datasets have. None: the
        only one that can be meant.

    Attributes
    ----------
    number
        The number of rows.

    Raises
    ------
    FileFormatError
        If it is no Parquet file, or a damaged one.
    DatasetError
        If it cannot be read, has no rows, or the column is not recognized; and as `Places.check`
        does.
    UnknownNameError
        If a column that was named does not exist.
    UnsupportedError
        If pyarrow is not installed.
    """

    def __init__(
        self, name: str, open_file: Callable[[], str | IO[bytes]], column: str | None
    ) -> None:
        self._name = name
        self._open = open_file
        self._places = Places(name)
        pa, _ = import_arrow()
        try:
            with self._table() as table:
                schema = table.schema_arrow
                self.number: int = table.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise FileFormatError(
                f"{shorten_path(name)}: not a valid Parquet file: {shorten(str(error))}"
            ) from None
        except OSError as error:
            reason = error.strerror or shorten(str(error))
            raise DatasetError(f"{shorten_path(name)}: cannot be read: {reason}") from None
        self._column = _find_column(name, schema, column)
        if not self.number:
            raise DatasetError(f"{shorten_path(name)}: the table has no rows")
        self._is_path = _kind(schema.field(self._column).type) == "path"
        self._check_first()

    def _check_first(self) -> None:
        if self._is_path:
            first = next((value for _, value in self._values() if isinstance(value, str)), None)
            if first is not None:
                self._places.check(first)

    def __iter__(self) -> Iterator[SourceImage]:
        for row, value in self._values():
            if isinstance(value, Exception):
                yield UnreadableImage(
                    self._name, f"damaged after {row:,} rows: {shorten(str(value))}"
                )
            else:
                yield self._image(row, value)

    def _image(self, row: int, value: object) -> SourceImage:
        source = f"{self._name}[{row}]"
        if isinstance(value, Mapping):
            content = value.get("bytes")
            value = value.get("path") if content is None else content
        if isinstance(value, bytes):
            return ContentImage(source, value)
        if isinstance(value, str) and value:
            return self._places.resolve(value)
        return UnreadableImage(source, f"no value in the column {self._column!r}")

    def _values(self) -> Iterator[tuple[int, object]]:
        """Yield the values of the column with their rows; at a damaged place, the error."""
        row = 0
        try:
            with self._table() as table:
                for batch in table.iter_batches(
                    _PATHS if self._is_path else _IMAGES, columns=[self._column]
                ):
                    for value in batch.column(0):
                        yield row, value.as_py()
                        row += 1
        except Exception as error:  # those of file systems are of any type
            yield row, error

    @contextmanager
    def _table(self) -> Iterator[Any]:
        _, parquet = import_arrow()
        file = self._open()
        # A row group may hold gigabytes of images, so it is read in pieces.
        table = parquet.ParquetFile(
            file, memory_map=isinstance(file, str), buffer_size=_BUFFER, pre_buffer=False
        )
        with table:
            yield table


def _kind(kind: Any) -> str | None:
    """Return how a type holds images: ``"path"``, ``"content"`` or ``"struct"``; None if not."""
    pa, _ = import_arrow()
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return "path"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "content"
    if types.is_struct(kind) and _FIELDS.intersection(field.name for field in kind):
        return "struct"
    return None


def _find_column(name: str, schema: Any, given: str | None) -> str:
    """Return the column of the images."""
    columns: Sequence[str] = schema.names
    if given is not None:
        if given not in columns:
            raise UnknownNameError("column", given, columns, of=shorten_path(name))
        if columns.count(given) > 1:
            raise DatasetError(
                f"{shorten_path(name)}: several columns are named {shorten(given)}; rename one"
            )
        if _kind(schema.field(given).type) is None:
            raise DatasetError(
                f"{shorten_path(name)}: the column {shorten(given)} has values of type "
                f"{shorten(str(schema.field(given).type))}; expected strings, which are paths or "
                "URLs, or binary values, which are the content of image files"
            )
        return given
    kinds = {
        column: _kind(schema.field(column).type) for column in columns if columns.count(column) == 1
    }
    usable = [column for column, kind in kinds.items() if kind is not None]
    named = [column for column in usable if has_name(column, _NAMES)]
    # A column of images beside their names, or a column of images of any name.
    for candidates in (named, usable):
        contents = [column for column in candidates if kinds[column] != "path"]
        for chosen in (candidates, contents):
            if len(chosen) == 1:
                return chosen[0]
    problem = (
        f"several columns may have the images: {list_columns(named or usable)}; give one as column"
        if usable
        else "no column has paths, URLs or the content of image files"
    )
    raise DatasetError(f"{shorten_path(name)}: {problem}; the columns are {list_columns(columns)}")
